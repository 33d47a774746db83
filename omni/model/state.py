"""A state dict and the GPT it is meant for: every difference is named before a tensor is copied."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from omni.errors import OmniError
from omni.model.gpt import GPT


class BackboneError(OmniError):
    """Weights that cannot be read or written, or are not those of this backbone."""


def fill(model: GPT, state: Mapping[str, Tensor], source: object, remedies: Sequence[str] = ()) -> None:
    """Copy `state` into `model`; what is stored in bf16 becomes fp32.

    Raises:
        BackboneError: tensors are missing, extra or of another shape, each named, or there are `remedies`, which say
            what makes the model another one. Nothing has been copied then.
    """
    lines = [*differences(model, state), *remedies]
    if lines:
        raise BackboneError("\n  ".join([f"{source}: these weights do not fit the model", *lines]))
    model.load_state_dict(state)


def differences(model: GPT, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps `state` out of `model`; tensors that differ alike in several layers are named together."""
    wanted, lines = model.state_dict(), []
    if missing := wanted.keys() - state.keys():
        lines.append(f"missing: {', '.join(fold(missing))}")
    if extra := state.keys() - wanted.keys():
        lines.append(f"extra: {', '.join(fold(extra))}")
    faults: dict[str, list[str]] = {}
    for name in wanted.keys() & state.keys():
        there, here = tuple(state[name].shape), tuple(wanted[name].shape)
        if there != here:
            faults.setdefault(f"shape {there} there, {here} here", []).append(name)
        elif not state[name].is_floating_point():
            faults.setdefault(f"numbers of type {state[name].dtype}", []).append(name)
    return lines + sorted(f"{', '.join(fold(names))}: {fault}" for fault, names in faults.items())


def fold(names: Iterable[str]) -> list[str]:
    """The names in order, those of several layers as one: h.0.q, h.1.q and h.3.q are `h.{0-1,3}.q`."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d{1,6}(?=\.)", name)
        form = f"{name[: number.start()]}#{name[number.end() :]}" if number else name
        layers.setdefault(form, []).extend([int(number[0])] if number else [])
    return sorted(form.replace("#", _ranges(sorted(found))) for form, found in layers.items())


def sizes_in(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The GPT's sizes, and the `rows` of its tables, as far as the shapes of its tensors tell them."""
    sizes: dict[str, int] = {}
    layers = [int(found[1]) for name in state if (found := re.match(r"transformer\.h\.(\d{1,6})\.", name))]
    try:
        sizes["n_layer"] = max(layers) + 1
        sizes["rows"], sizes["n_embd"] = state["transformer.wte.weight"].shape
        # The last layer always has a gate, and a gate has a row for each key/value head.
        attn = f"transformer.h.{max(layers)}.attn"
        sizes["n_kv_head"] = len(state[f"{attn}.ve_gate.weight"])
        head_dim = len(state[f"{attn}.c_k.weight"]) // sizes["n_kv_head"]
        sizes["n_head"] = len(state[f"{attn}.c_q.weight"]) // head_dim
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        pass  # what is missing or misshapen is named by `differences`
    return sizes


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"
