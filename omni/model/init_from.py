"""A backbone that starts from weights somebody trained."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from omni.model.gpt import GPT, window_sizes
from omni.model.nanochat import SOURCES, find_checkpoint, numbered, read_checkpoint
from omni.model.state import BackboneError, fill, sizes_in
from omni.text.tokenizer import read_vocab_size
from omni.text.vocabulary import JSON

MODEL = "model.safetensors"
PREFIX = "backbone."


def load_backbone(backbone: GPT, source: Path) -> dict:
    """Fill `backbone` with the weights in `source`; returns what there is to know about them.

    Args:
        source: an omni run (its newest checkpoint), one of its checkpoints, a folder with a bare GPT in
            `model.safetensors` (and perhaps `tokenizer.json`), nanochat's base directory (the last checkpoint of the
            deepest pretrained model), or one of nanochat's `model_*.pt`.

    Returns:
        `kind`, `source` (the file), its `sha256`, and `notes`: sentences on what is not in the tensors and yet another
        here.

    Raises:
        BackboneError: nothing to read there, or the tensors do not fit; each is named, and so is the key to set.
    """
    kind, file = find_weights(source)
    sizes: dict = {}
    if kind == "nanochat":
        state, sizes = read_checkpoint(file)
    else:
        state = _read_safetensors(file)
        if (file.parent / JSON).is_file():
            sizes["vocab_size"] = read_vocab_size(file.parent / JSON)
    fill(backbone, state, file, _remedies(backbone, state, sizes.get("vocab_size")))
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return {"kind": kind, "source": str(file), "sha256": sha256, "notes": _notes(backbone, sizes)}


def find_weights(source: Path) -> tuple[str, Path]:
    """("omni" or "nanochat", the file) that `source` means. Raises BackboneError when it means none."""
    source = source.expanduser()
    if source.is_file() and source.suffix == ".pt":
        return "nanochat", source
    if any((source / f"{name}_checkpoints").is_dir() for name in SOURCES):
        return "nanochat", find_checkpoint(source)
    steps = numbered(source / "checkpoints", r"step_(\d+)")
    file = (steps[max(steps)] if steps else source) / MODEL
    if file.is_file():
        return "omni", file
    if source.is_dir():
        held = f"holds {', '.join(sorted(path.name for path in source.iterdir())[:8]) or 'nothing'}"
    else:
        held = "is no folder" if source.exists() else "does not exist"
    raise BackboneError(
        f"{source}: no weights to start from, it {held}; give an omni run or checkpoint, a folder with {MODEL}, "
        "nanochat's base directory, or a model_*.pt of it"
    )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """The GPT's tensors under their own names; a checkpoint's projector is left out."""
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"{file}: the weights cannot be read ({error})") from None
    own = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    return own or state


def _remedies(backbone: GPT, state: dict[str, Tensor], vocab_size: int | None) -> list[str]:
    """For each size that differs, the key to set."""
    here, there = sizes_in(backbone.state_dict()), sizes_in(state)
    rows_here, rows_there = here.pop("rows"), there.pop("rows", None)
    # Tables are padded: where only they are known, equal rows are as much as can be asked for.
    here["vocab_size"] = backbone.vocab_size if vocab_size or rows_there != rows_here else rows_here
    there["vocab_size"] = vocab_size or rows_there
    return [
        f"backbone.{key}: {here[key]} here, {there[key]} there; set backbone.{key}={there[key]}"
        for key in here
        if there.get(key) not in (None, here[key])
    ]


def _notes(backbone: GPT, sizes: dict) -> list[str]:
    """What the tensors do not tell: a model behaves differently with other attention windows."""
    if "window_pattern" not in sizes:
        return []
    there = window_sizes(sizes["window_pattern"], sizes["n_layer"], sizes["sequence_len"])
    here = [block.attn.window for block in backbone.transformer.h]
    if here == there:
        return []
    return [
        f"the weights were trained with attention windows {there}, here they are {here} "
        f"(there: backbone.window_pattern={sizes['window_pattern']}, backbone.sequence_len={sizes['sequence_len']})"
    ]
