"""nanochat's own folders: a model trained there speaks here, and one trained here there.

Its base directory holds `{base,chatsft,chatrl}_checkpoints/d{N}/` with `model_{step:06d}.pt` (a bare state dict) and
`meta_{step:06d}.json` (sizes under "model_config"), and `tokenizer/` with `tokenizer.pkl` and `token_bytes.pt`.
Nothing in such a folder is trusted: no file can run code.
"""

import json
import pickle
from pathlib import Path

import torch
from torch import Tensor

from omni.atomic import replace_bytes, replace_text, replacing
from omni.model.gpt import GPT, SMEAR_CHANNELS
from omni.model.layout import numbered
from omni.model.sizes import NUMBERS, check_sizes, read_sizes
from omni.model.state import BackboneError
from omni.text.bpe import BPETokenizer
from omni.text.tokenizer import Tokenizer
from omni.text.vocabulary import PICKLE


def is_nanochat(folder: Path) -> bool:
    """Whether a folder is a base directory of nanochat's."""
    return any((folder / f"{kind}_checkpoints").is_dir() for kind in ("base", "chatsft", "chatrl"))


def find_checkpoint(folder: Path) -> Path:
    """The `model_*.pt` that a base directory means: the last checkpoint of its deepest pretrained model.

    Raises:
        BackboneError: there is none; names one that is there, such as a tuned model's, to be given itself.
    """
    models = numbered(folder / "base_checkpoints", r"d(\d+)")
    files = numbered(models[max(models)], r"model_(\d+)\.pt") if models else {}
    if files:
        return files[max(files)]
    wanted = f"{models[max(models)] if models else folder / 'base_checkpoints' / 'd*'}/model_*.pt"
    others = sorted(folder.glob("*_checkpoints/*/model_*.pt"))
    raise BackboneError(
        f"{wanted}: there is no such file; "
        + (f"give the one that you mean, as {others[-1]}" if others else f"{folder} holds no model yet")
    )


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict]:
    """The state dict in a `model_*.pt`, what old ones lack filled in, and the sizes in the meta file beside it.

    Raises:
        BackboneError: one of the two is missing, damaged, or holds something else, or they contradict each other.
    """
    meta = file.with_name(file.name.replace("model_", "meta_")).with_suffix(".json")
    sizes = read_sizes(meta)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(f"{file}: the checkpoint cannot be read, nothing in it was run ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"{file}: not a bare state dict (names and tensors), as nanochat writes it")
    # torch.compile leaves this in front of every name.
    state = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    check_sizes(sizes, state, meta)
    return _with_later_inventions(state, sizes["n_layer"]), sizes


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


def export_nanochat(model: GPT, tokenizer: Tokenizer, folder: Path, *, step: int = 0) -> Path:
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
    home = folder / "base_checkpoints" / f"d{model.sizes['n_layer']}"
    file, vocabulary = home / f"model_{step:06d}.pt", folder / "tokenizer" / PICKLE
    if file.exists():
        raise BackboneError(f"{file}: already there; choose another folder")
    if vocabulary.exists() and BPETokenizer.load(vocabulary).fingerprint != tokenizer.fingerprint:
        raise BackboneError(f"{vocabulary}: another tokenizer, which the models there need; choose another folder")
    try:
        if not vocabulary.exists():
            _write_tokenizer(tokenizer, vocabulary)
        home.mkdir(parents=True, exist_ok=True)
        config = {name: model.sizes[name] for name in (*NUMBERS, "window_pattern")}
        meta = {"step": step, "model_config": config, "user_config": {}}
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
