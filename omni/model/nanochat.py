"""nanochat's own folders: a model trained there speaks here, and one trained here there.

Its base directory holds `{base,chatsft,chatrl}_checkpoints/d{N}/` with `model_{step:06d}.pt` (a bare state dict) and
`meta_{step:06d}.json` (sizes under "model_config"), and `tokenizer/` with `tokenizer.pkl` and `token_bytes.pt`.
Nothing in such a folder is trusted: no file can run code.
"""

import json
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from omni.atomic import replace_bytes, replace_text, replacing
from omni.model.gpt import GPT, SMEAR_CHANNELS
from omni.model.state import BackboneError, fill, sizes_in
from omni.text.bpe import BPETokenizer
from omni.text.vocabulary import PICKLE

SOURCES = ("base", "chatsft", "chatrl")
SIZES = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")


def load_nanochat(
    folder: Path, tag: str | None = None, step: int | None = None, *, source: str = "base"
) -> tuple[GPT, BPETokenizer]:
    """The model and tokenizer in nanochat's base directory.

    Args:
        folder: the base directory.
        tag: the model, such as d20; the deepest when None.
        step: the checkpoint; the last when None.
        source: base (pretrained), chatsft or chatrl.

    Raises:
        OmniError: a file is missing, damaged or hostile, tensors do not fit, or the tokenizer is another model's.
    """
    file = find_checkpoint(folder, tag, step, source=source)
    state, sizes = read_checkpoint(file)
    path = folder.expanduser() / "tokenizer" / PICKLE
    tokenizer = BPETokenizer.load(path)
    if tokenizer.vocab_size != sizes["vocab_size"]:
        raise BackboneError(
            f"{path}: {tokenizer.vocab_size} tokens, but {file} was trained with {sizes['vocab_size']}: "
            "this is another model's tokenizer"
        )
    model = GPT(**sizes)
    fill(model, state, file)
    return model, tokenizer


def find_checkpoint(folder: Path, tag: str | None = None, step: int | None = None, *, source: str = "base") -> Path:
    """The `model_*.pt` that the arguments of `load_nanochat` mean. Raises BackboneError when there is none."""
    if source not in SOURCES:
        raise BackboneError(f"source: {source!r} is none of {', '.join(SOURCES)}")
    checkpoints = folder.expanduser() / f"{source}_checkpoints"
    if not checkpoints.is_dir():
        raise BackboneError(f"{checkpoints}: there is no such folder; {folder} is to be nanochat's base directory")
    tags = numbered(checkpoints, r"d(\d+)")
    model = checkpoints / tag if tag else tags[max(tags)] if tags else None
    if model is None or not model.is_dir():
        held = ", ".join(sorted(path.name for path in checkpoints.iterdir())) or "nothing"
        raise BackboneError(f"{checkpoints}: no model {tag or 'd<depth>'} (it holds {held}); name one as tag")
    files = numbered(model, r"model_(\d+)\.pt")
    if not files or step not in (None, *files):
        held = ", ".join(map(str, sorted(files))) or "none"
        raise BackboneError(f"{model}: no checkpoint model_{'*' if step is None else f'{step:06d}'}.pt (steps: {held})")
    return files[max(files) if step is None else step]


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """What stands in `folder` under a name that is `pattern`, by the number in it."""
    found = {path: re.fullmatch(pattern, path.name) for path in sorted(folder.glob("*"))}
    return {int(match[1]): path for path, match in found.items() if match}


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict]:
    """The state dict in a `model_*.pt`, what old ones lack filled in, and the sizes in the meta file beside it.

    Raises:
        BackboneError: one of the two is missing, damaged, or holds something else.
    """
    meta = file.with_name(file.name.replace("model_", "meta_")).with_suffix(".json")
    try:
        sizes = sizes_of(json.loads(meta.read_bytes()))
    except (OSError, ValueError, RecursionError, BackboneError) as error:
        raise BackboneError(f"{meta}: the model's sizes cannot be read ({error})") from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(f"{file}: the checkpoint cannot be read, nothing in it was run ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"{file}: not a bare state dict (names and tensors), as nanochat writes it")
    # torch.compile leaves this in front of every name.
    state = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    return _with_later_inventions(state, sizes["n_layer"]), sizes


def sizes_of(meta: dict) -> dict:
    """The arguments of `GPT` in a meta file's content.

    Raises:
        BackboneError: a size is missing or no positive number, or there is one that this GPT does not know.
    """
    config = meta.get("model_config") if isinstance(meta, dict) else None
    if not isinstance(config, dict):
        raise BackboneError('there is no "model_config" in it')
    wrong = [name for name in SIZES if type(config.get(name)) is not int or config[name] < 1]
    if wrong:
        raise BackboneError(f"model_config: {', '.join(wrong)} missing or not a positive number")
    if unknown := sorted(config.keys() - {*SIZES, "window_pattern"}):
        raise BackboneError(f"model_config: {', '.join(unknown)} unknown, so this is another kind of GPT")
    # Before there were windows, every layer saw everything.
    return {name: config[name] for name in SIZES} | {"window_pattern": str(config.get("window_pattern", "L"))}


def _with_later_inventions(state: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """The state with what nanochat learned later set so that it has no effect."""
    if not {"smear_gate.weight", "smear_lambda"} & state.keys():
        state |= {"smear_gate.weight": torch.zeros(1, SMEAR_CHANNELS), "smear_lambda": torch.zeros(1)}
    neutral = {
        "backout_lambda": torch.zeros(1),
        "resid_lambdas": torch.ones(n_layer),
        "x0_lambdas": torch.zeros(n_layer),
    }
    return neutral | state


def export_nanochat(
    model: GPT, tokenizer: BPETokenizer, folder: Path, *, tag: str | None = None, step: int = 0, source: str = "base"
) -> Path:
    """Write a model and its tokenizer into a base directory as nanochat would; returns the `model_*.pt`.

    The checkpoint appears last and whole. Nothing that is there is overwritten, and the folder's tokenizer must be
    this one, as all its models share it. Counts in `token_bytes.pt` are of real bytes; nanochat's own count a token
    that is not UTF-8 by its replacement characters.

    Raises:
        BackboneError: the checkpoint exists, the tokenizers differ, or the disk refuses.
    """
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.vocab_size != model.vocab_size:
        raise BackboneError(
            f"the model has a vocabulary of {model.vocab_size}; nanochat needs it with a BPE tokenizer of that size"
        )
    folder, sizes = folder.expanduser(), sizes_in(model.state_dict())
    home = folder / f"{source}_checkpoints" / (tag or f"d{sizes['n_layer']}")
    file, vocabulary = home / f"model_{step:06d}.pt", folder / "tokenizer" / PICKLE
    if file.exists():
        raise BackboneError(f"{file}: already there; choose another tag, step or folder")
    if vocabulary.exists() and BPETokenizer.load(vocabulary).fingerprint != tokenizer.fingerprint:
        raise BackboneError(f"{vocabulary}: another tokenizer, which the models there need; choose another folder")
    try:
        if not vocabulary.exists():
            _write_tokenizer(tokenizer, vocabulary)
        home.mkdir(parents=True, exist_ok=True)
        meta = {"step": step, "model_config": _config(model, sizes), "user_config": {}}
        replace_text(home / f"meta_{step:06d}.json", json.dumps(meta, indent=2))
        state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()}
        with replacing(file) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise BackboneError(f"{folder}: the model cannot be exported ({error})") from error
    return file


def _write_tokenizer(tokenizer: BPETokenizer, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path.with_name("token_bytes.pt")) as temporary:
        torch.save(torch.tensor(tokenizer.token_bytes(), dtype=torch.int32), temporary)
    replace_bytes(path, pickle.dumps(tokenizer.encoding, protocol=4))


def _config(model: GPT, sizes: dict[str, int]) -> dict:
    """nanochat's "model_config" of a model."""
    windows = [block.attn.window for block in model.transformer.h]
    own = {"sequence_len": model.sequence_len, "vocab_size": model.vocab_size}
    own["window_pattern"] = "".join("L" if window == model.sequence_len else "S" for window in windows)
    return {name: sizes[name] for name in SIZES if name in sizes} | own
