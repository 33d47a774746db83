"""Language models that somebody trained, wherever they lie, and the folder that one is passed on in.

An exported folder holds `model.safetensors` (bf16), `config.json` (the arguments of `GPT`) and, unless its tokens are
bytes, `tokenizer.json`.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from omni.atomic import replace_text, replacing, replacing_folder
from omni.errors import OmniError
from omni.model.adapter import read_settings
from omni.model.gpt import GPT
from omni.model.layout import CONFIG, MODEL, TOKENIZER, list_checkpoints
from omni.model.lora import AdapterError, add_lora, in_adapter, merge_state
from omni.model.nanochat import find_checkpoint, is_nanochat, read_checkpoint
from omni.model.sizes import check_sizes, read_sizes
from omni.model.state import BackboneError, check_fit, fill
from omni.text.tokenizer import BYTES, Tokenizer, TokenizerError, load_tokenizer
from omni.text.vocabulary import find_file

PREFIX = "backbone."
RUN_CONFIG = "config.yaml"


class Weights(NamedTuple):
    """A GPT on disk.

    Attributes:
        kind: "omni" or "nanochat".
        file: the tensors come from here.
        state: the tensors under their own names; adapters are merged into those that they stand beside.
        sizes: the arguments of `GPT`; empty where nothing tells them.
        tokenizer: the name of the tokenizer they were trained with; None where nothing tells it.
    """

    kind: str
    file: Path
    state: dict[str, Tensor]
    sizes: dict
    tokenizer: str | None


def read_weights(source: Path) -> Weights:
    """The language model in `source`.

    Args:
        source: an omni run (its newest checkpoint), one of its checkpoints, an exported folder, a folder with nothing
            but a GPT in `model.safetensors`, nanochat's base directory (the last checkpoint of the deepest pretrained
            model), or one of nanochat's `model_*.pt`.

    Raises:
        BackboneError: nothing to read there, or a file is damaged or contradicts another.
    """
    source, base = source.expanduser(), None
    kind, file = find_weights(source)
    if kind == "nanochat":
        state, sizes = read_checkpoint(file)
    else:
        (state, base), told = _read_safetensors(file), _sizes_file(file)
        if any(map(in_adapter, state)):
            state = merge_state(state, read_settings(_config_of_run(file))["alpha"])
        sizes = read_sizes(told) if told else {}
        if sizes:
            check_sizes(sizes, state, told)
    try:
        tokenizer = base.tokenizer if base else str(find_file(source))
    except TokenizerError:  # where omni tells sizes it keeps every tokenizer but that of bytes
        tokenizer = BYTES if kind == "omni" and sizes else None
    return Weights(kind, file, state, sizes, tokenizer)


def find_weights(source: Path) -> tuple[str, Path]:
    """("omni" or "nanochat", the file) that `source` means. Raises BackboneError when it means none."""
    if source.is_file() and source.suffix == ".pt":
        return "nanochat", source
    if is_nanochat(source):
        return "nanochat", find_checkpoint(source)
    file = [source, *list_checkpoints(source / "checkpoints")][-1] / MODEL
    if file.is_file():
        return "omni", file
    if source.is_dir():
        held = f"holds {', '.join(sorted(path.name for path in source.iterdir())[:8]) or 'nothing'}"
    else:
        held = "is no folder" if source.exists() else "does not exist"
    raise BackboneError(
        f"{source}: no weights there, it {held}; give an omni run or checkpoint, a folder with {MODEL}, "
        "nanochat's base directory, or a model_*.pt of it"
    )


def load_gpt(source: Path, dtype: torch.dtype = torch.float32) -> tuple[GPT, Tokenizer]:
    """The language model in `source` (see `read_weights`), computing in `dtype`, and its tokenizer.

    Raises:
        OmniError: a file is missing, damaged or hostile, tensors do not fit, or the tokenizer is another model's.
    """
    weights = read_weights(source)
    if not weights.sizes:
        raise BackboneError(f"{weights.file}: nothing beside it tells the model's sizes, as {CONFIG} would")
    tokenizer = load_tokenizer(weights.tokenizer or source)
    if tokenizer.vocab_size != weights.sizes["vocab_size"]:
        raise BackboneError(
            f"{weights.tokenizer}: {tokenizer.vocab_size} tokens, but {weights.file} was trained with "
            f"{weights.sizes['vocab_size']}: this is another model's tokenizer"
        )
    try:
        model = GPT(**weights.sizes, dtype=dtype)
    except OmniError as error:
        raise BackboneError(f"{weights.file}: {error}") from None
    fill(model, weights.state, weights.file)
    return model, tokenizer


def load_adapted(source: Path) -> GPT:
    """The language model of a run that trains adapters, with these apart.

    Raises:
        AdapterError: the run has none, or `source` is no run.
        OmniError: as `read_weights`.
    """
    weights = read_weights(source)
    settings = read_settings(_config_of_run(weights.file))
    if not weights.sizes:
        raise BackboneError(f"{weights.file}: nothing beside it tells the model's sizes")
    model = GPT(**weights.sizes)
    add_lora(model, **settings)
    fill(model, _read_safetensors(weights.file)[0], weights.file)
    return model


def export_gpt(source: Path, folder: Path) -> int:
    """Write the language model in `source` as an exported folder, whole or not at all; returns its parameters.

    An exported folder that is there is replaced; nothing else is ever touched.

    Raises:
        OmniError: nothing complete to export, something else in the way, or the disk refuses.
    """
    weights = read_weights(source)
    if not weights.sizes:
        raise BackboneError(f"{weights.file}: nothing beside it tells the model's sizes, so it cannot be exported")
    with torch.device("meta"):
        check_fit(GPT(**weights.sizes).state_dict(), weights.state, weights.file)
    tokenizer = load_tokenizer(weights.tokenizer or source)
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.state.items()}
    folder = folder.expanduser().resolve()
    _check_free(folder)
    try:
        with replacing_folder(folder) as aside:
            replace_text(aside / CONFIG, json.dumps(weights.sizes, indent=2) + "\n")
            with replacing(aside / MODEL) as temporary:
                save_file(tensors, temporary)
            shutil.copymode(aside / CONFIG, aside / MODEL)  # safetensors shuts out everybody else, whatever the umask
            if hasattr(tokenizer, "save"):
                tokenizer.save(aside)
    except (OSError, SafetensorError, TokenizerError) as error:
        raise BackboneError(f"{folder}: the export cannot be written ({error})") from error
    return sum(tensor.numel() for tensor in tensors.values())


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], Weights | None]:
    """The GPT's tensors under their own names, those of adapters apart; a checkpoint's projector is left out. Where one
    holds no language model (see `omni.config.slim`), also the one its run started from, whose tensors they then are."""
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{file}: the weights cannot be read ({error})") from None
    own = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    whole = "transformer.wte.weight" in state or not all(map(in_adapter, own))
    if whole or file.parent.parent.name != "checkpoints":
        return own or state, None
    base, adapted = read_weights(_base_of_run(file)), {name.partition(".lora_")[0] for name in own}
    for name, tensor in base.state.items():
        layer = name.removesuffix(".weight")
        own[f"{layer}.base_layer.weight" if layer in adapted else name] = tensor.float()
    return own, base


def _base_of_run(file: Path) -> Path:
    """Where the language model lies that a checkpoint is without."""
    config = _config_of_run(file)
    try:
        source = yaml.safe_load(config.read_bytes())["backbone"]["init_from"]
        if find_weights(Path(source).expanduser())[1].resolve() == file.resolve():
            raise ValueError("it names itself")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise BackboneError(
            f"{file}: holds no language model, and backbone.init_from in {config} does not say where it is ({error})"
        ) from None
    return Path(source)


def _sizes_file(file: Path) -> Path | None:
    """What tells the sizes of the weights in a `model.safetensors`: beside it, or at the top of its run."""
    places = [file.with_name(CONFIG)]
    if file.parent.parent.name == "checkpoints":
        places.append(file.parents[2] / RUN_CONFIG)
    return next((place for place in places if place.is_file()), None)


def _config_of_run(file: Path) -> Path:
    """The configuration of the run that a checkpoint is of."""
    told = _sizes_file(file)
    if told is None or told.name != RUN_CONFIG:
        raise AdapterError(f"{file}: these weights are not a run's, whose {RUN_CONFIG} would tell how it was trained")
    return told


def _check_free(folder: Path) -> None:
    """Raise BackboneError where something stands that is neither empty nor an exported folder, and would be lost."""
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name} if folder.exists() else set()
    with suppress(BackboneError):  # transformers calls its files the same, and puts other sizes into them
        if not held or ({CONFIG, MODEL} <= held <= {CONFIG, MODEL, TOKENIZER} and read_sizes(folder / CONFIG)):
            return
    raise BackboneError(f"{folder}: this is no exported folder, so it is not replaced; choose another")
