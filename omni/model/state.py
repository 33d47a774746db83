"""A state dict and the GPT it is meant for: every difference is named before a tensor is copied."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from omni.errors import OmniError
from omni.model.gpt import GPT

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What weights may be stored in; an 8-bit one means nothing without the scale that it lacks here."""


class BackboneError(OmniError):
    """Weights that cannot be read or written, or are not those of this backbone."""


def fill(model: GPT, state: Mapping[str, Tensor], source: object, remedies: Sequence[str] = ()) -> None:
    """Copy `state` into `model`; what is stored in bf16 becomes fp32. Raises as `check_fit`, before it copies."""
    check_fit(model.state_dict(), state, source, remedies)
    model.load_state_dict(state)


def check_fit(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object, remedies: Sequence[str] = ()
) -> None:
    """Raise BackboneError when `state` cannot take the place of `wanted`.

    Tensors are missing, extra, of another shape or without usable numbers, each named, or there are `remedies`, which
    say what makes the model another one.
    """
    lines = [*differences(wanted, state), *remedies]
    if lines:
        raise BackboneError("\n  ".join([f"{source}: these weights do not fit the model", *lines]))


def differences(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What keeps `state` from taking the place of `wanted`; what differs alike in several layers is named together."""
    lines = []
    if missing := wanted.keys() - state.keys():
        lines.append(f"missing: {', '.join(fold(missing))}")
    if extra := state.keys() - wanted.keys():
        lines.append(f"extra: {', '.join(fold(extra))}")
    faults: dict[str, list[str]] = {}
    for name in wanted.keys() & state.keys():
        if fault := _fault(wanted[name], state[name]):
            faults.setdefault(fault, []).append(name)
    return lines + sorted(f"{', '.join(fold(names))}: {fault}" for fault, names in faults.items())


def _fault(wanted: Tensor, given: Tensor) -> str | None:
    """Why one tensor cannot take the place of another."""
    if given.shape != wanted.shape:
        return f"shape {tuple(given.shape)} there, {tuple(wanted.shape)} here"
    if given.dtype not in (FLOATS if wanted.is_floating_point() else (wanted.dtype,)):
        return f"numbers of type {given.dtype}"
    if given.layout != torch.strided or given.is_meta:
        return "a sparse tensor, or one without numbers"
    # Looked at in fp32, where a large fp64 is infinite too; what starts with infinities, such as a mask, may keep them.
    if not given.float().isfinite().all() and (wanted.is_meta or wanted.isfinite().all()):
        return "NaN or infinity among the numbers"
    return None


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
    layers = {int(found[1]) for name in state if (found := re.match(r"transformer\.h\.(\d{1,6})\.", name))}
    try:
        last = max(layers)
        sizes["n_layer"] = len(layers)
        sizes["rows"], sizes["n_embd"] = state["transformer.wte.weight"].shape
        # The last layer always has a gate, and a gate has a row for each key/value head.
        attn = f"transformer.h.{last}.attn"
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
