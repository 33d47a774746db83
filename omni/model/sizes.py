"""A GPT's sizes as files tell them: nanochat's meta file, an exported `config.json`, a run's `config.yaml`.

A file can be wrong and can lie, so what it tells is held against the tensors before anything is built by it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import yaml
from torch import Tensor

from omni.model.layout import CONFIG
from omni.model.state import BackboneError, sizes_in

NUMBERS = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
LONGEST = 2**20
"""The longest context that is believed: no tensor tells it, and tables are made for it."""
OTHERS = ("_target_", "tokenizer", "init_from", "checkpointing")
"""What else stands under `backbone` in a run's configuration, and changes nothing of what the weights compute."""


def read_sizes(file: Path) -> dict:
    """The arguments of `GPT` in a file; none where a run's backbone is of another class.

    Raises:
        BackboneError: the file is missing or damaged, or a size is missing, unknown or none that a GPT can have.
    """
    try:
        node = json.loads(file.read_bytes()) if file.suffix == ".json" else yaml.safe_load(file.read_bytes())
        if file.name != CONFIG:
            node = _under("backbone" if file.suffix == ".yaml" else "model_config", node)
        if not isinstance(node, dict):
            raise BackboneError("there are no names with values in it")
        if node.get("_target_", "omni.model.gpt.GPT") != "omni.model.gpt.GPT":
            return {}
        return _sizes({name: value for name, value in node.items() if name not in OTHERS})
    except (OSError, ValueError, RecursionError, yaml.YAMLError, BackboneError) as error:
        raise BackboneError(f"{file}: the model's sizes cannot be read ({error})") from None


def check_sizes(sizes: Mapping, state: Mapping[str, Tensor], file: Path) -> None:
    """Raise BackboneError when the sizes that `file` tells are not those of the tensors that go with it."""
    found = sizes_in(state)
    told = {name: sizes[name] for name in ("n_layer", "n_embd", "n_head", "n_kv_head")}
    told["rows"] = math.ceil(sizes["vocab_size"] / 64) * 64
    wrong = [
        f"{name} {told[name]} there, {found.get(name)} in the tensors" for name in told if found.get(name) != told[name]
    ]
    if wrong:
        raise BackboneError(f"{file}: these are not the sizes of the weights: {'; '.join(wrong)}")


def _under(name: str, node: object) -> object:
    if not isinstance(node, dict) or name not in node:
        raise BackboneError(f'there is no "{name}" in it')
    return node[name]


def _sizes(node: dict) -> dict:
    wrong = [name for name in NUMBERS if type(node.get(name)) is not int or node[name] < 1]
    if wrong:
        raise BackboneError(f"{', '.join(wrong)} missing or not a positive number")
    if node["sequence_len"] > LONGEST:
        raise BackboneError(f"sequence_len {node['sequence_len']} is more than {LONGEST}")
    pattern = node.get("window_pattern", "L")
    if not isinstance(pattern, str) or not pattern or set(pattern.upper()) - {"S", "L"}:
        raise BackboneError(f"window_pattern {pattern!r} must be made of S and L")
    if node.get("audio_values", "zero") not in ("zero", "token0"):
        raise BackboneError(f"audio_values {node['audio_values']!r} is neither zero nor token0")
    if unknown := sorted(map(str, node.keys() - {*NUMBERS, "window_pattern", "audio_values"})):
        raise BackboneError(f"{', '.join(unknown)} unknown, so this is another kind of GPT")
    return {"window_pattern": "L"} | node  # before there were windows, every layer saw everything
