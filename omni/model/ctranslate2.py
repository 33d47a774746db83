"""Whisper as CTranslate2 stores it (`model.bin`), read without CTranslate2.

Little endian: u32 version, string spec, u32 revision, u32 count, then per variable {string name, u8 rank,
u32 dims[rank], u8 dtype, u32 bytes, data}, then u32 count of aliases, each {string alias, string name}.
A string is a u16 length, which counts a closing NUL, and its bytes. Source: CTranslate2's
`python/ctranslate2/specs/model_spec.py`. The file comes from a package, so nothing in it is believed: every
length is checked against what is left before a byte is touched, and nothing is allocated by a declared size.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from omni.atomic import replace_bytes
from omni.model.layout import CONFIG, MODEL, RECORD, TOKENIZER, WeightsError

VERSION = 6
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


class _Cursor:
    """Reads forward through bytes and refuses to run past the end."""

    def __init__(self, blob: bytes | bytearray):
        self.view, self.at = memoryview(blob), 0

    def take(self, size: int) -> memoryview:
        if size > len(self.view) - self.at:
            raise WeightsError(
                f"model.bin is cut short: {size} bytes wanted at byte {self.at} of {len(self.view)}. "
                "Install the package again."
            )
        self.at += size
        return self.view[self.at - size : self.at]

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        raw = bytes(self.take(self.number("H")))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise WeightsError(f"model.bin is not CTranslate2's form: bad name {raw[:40]!r} at byte {self.at}")
        return raw[:-1].decode("ascii")


def read_variables(blob: bytes | bytearray) -> dict[str, Tensor]:
    """All variables of a CTranslate2 Whisper, aliases included, under CTranslate2's names.

    Raises WeightsError when the bytes are cut short, hold another model, another version of the form, or
    contradict themselves.
    """
    cursor = _Cursor(blob)
    version, spec, _revision = cursor.number("I"), cursor.string(), cursor.number("I")
    if (version, spec) != (VERSION, "WhisperSpec"):
        raise WeightsError(f"model.bin holds {spec!r} in form {version}; wanted 'WhisperSpec' in form {VERSION}")
    variables = dict(_variable(cursor) for _ in range(cursor.number("I")))
    for _ in range(cursor.number("I")):
        alias, name = cursor.string(), cursor.string()
        variables[alias] = _get(variables, name)
    if cursor.at != len(cursor.view):
        raise WeightsError(f"model.bin has {len(cursor.view) - cursor.at} bytes after its end")
    return variables


def _variable(cursor: _Cursor) -> tuple[str, Tensor]:
    name = cursor.string()
    shape = [cursor.number("I") for _ in range(cursor.number("B"))]
    kind, size = cursor.number("B"), cursor.number("I")
    data = cursor.take(size)
    if kind >= len(DTYPES) or len(shape) > 4 or not 0 < size == math.prod(shape) * DTYPES[kind].itemsize:
        raise WeightsError(f"model.bin contradicts itself: {name} {shape[:4]} of kind {kind} in {size} bytes")
    # A copy, for a view would start at any odd address and hold the whole file in memory.
    return name, torch.frombuffer(bytearray(data), dtype=DTYPES[kind]).reshape(shape)


def to_transformers(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole model, encoder and decoder, under `transformers.WhisperModel`'s names (strict=True loads).

    CTranslate2 stacks q, k, v by rows (in cross-attention only k, v) and gives k a bias that is always zero;
    transformers keeps them apart and k has none. Raises WeightsError when a variable is missing or misshapen.
    """
    state: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_positions.weight"] = _get(variables, f"{side}/position_encodings/encodings")
        state.update(_renamed(variables, f"{side}/layer_norm", f"{side}.layer_norm"))
        for index in range(count_layers(variables, side)):
            state.update(_layer(variables, f"{side}/layer_{index}", f"{side}.layers.{index}", side == "decoder"))
    state["decoder.embed_tokens.weight"] = _get(variables, "decoder/embeddings/weight")
    for conv in ("conv1", "conv2"):
        state.update(_renamed(variables, f"encoder/{conv}", f"encoder.{conv}"))
    narrow = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    if narrow:
        raise WeightsError(f"model.bin is quantised ({narrow[0]} is {state[narrow[0]].dtype}); take a float16 one")
    return state


def config_of(variables: dict[str, Tensor]) -> dict:
    """The fields of transformers' `config.json`, read off the shapes. Raises WeightsError as above."""
    width, n_mels, _kernel = _shape(variables, "encoder/conv1/weight", 3)
    heads = int(_get(variables, "encoder/num_heads").flatten()[0])
    vocab = _shape(variables, "decoder/embeddings/weight", 2)[0]
    # English-only tokenizers lack one token, and every special token sits one lower.
    end = 50257 if vocab >= 51865 else 50256
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "layers": count_layers(variables, side),
            "attention_heads": heads,
            "ffn_dim": _shape(variables, f"{side}/layer_0/ffn/linear_0/weight", 2)[0],
        }.items()
    }
    return sides | {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": width,
        "num_hidden_layers": sides["encoder_layers"],
        "num_mel_bins": n_mels,
        "max_source_positions": _shape(variables, "encoder/position_encodings/encodings", 2)[0],
        "max_target_positions": _shape(variables, "decoder/position_encodings/encodings", 2)[0],
        "vocab_size": vocab,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": end + 1,
    }


def count_layers(variables: dict[str, Tensor], side: str) -> int:
    """Layers of the 'encoder' or the 'decoder'."""
    pattern = re.compile(rf"{side}/layer_(\d+)/")
    return len({match[1] for name in variables if (match := pattern.match(name))})


def write_transformers(blob: bytes | bytearray, folder: Path, *, tokenizer: Path | None = None) -> None:
    """model.bin's bytes -> `folder` as transformers reads it, the sha256 of its model.safetensors beside it.

    The tensors keep their type (fp16) and take the hub's names, so WhisperForConditionalGeneration loads too.
    Each file is written aside and renamed into place: any number of processes may do this at once, for they
    write the same bytes, and a reader never finds half a file. Raises WeightsError for bad bytes, OSError
    for the disk.
    """
    variables = read_variables(blob)
    state = {f"model.{name}": tensor for name, tensor in to_transformers(variables).items()}
    model = save(state, {"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    replace_bytes(folder / CONFIG, json.dumps(config_of(variables), indent=2).encode())
    if tokenizer is not None and tokenizer.is_file():
        replace_bytes(folder / TOKENIZER, tokenizer.read_bytes())
    replace_bytes(folder / MODEL, model)
    replace_bytes(folder / RECORD, hashlib.sha256(model).hexdigest().encode())


def _layer(variables: dict[str, Tensor], old: str, new: str, decoder: bool) -> Iterator[tuple[str, Tensor]]:
    yield from _renamed(variables, f"{old}/self_attention/layer_norm", f"{new}.self_attn_layer_norm")
    yield from _split(variables, f"{old}/self_attention/linear_0", f"{new}.self_attn", "qkv")
    yield from _renamed(variables, f"{old}/self_attention/linear_1", f"{new}.self_attn.out_proj")
    if decoder:
        yield from _renamed(variables, f"{old}/attention/layer_norm", f"{new}.encoder_attn_layer_norm")
        yield from _split(variables, f"{old}/attention/linear_0", f"{new}.encoder_attn", "q")
        yield from _split(variables, f"{old}/attention/linear_1", f"{new}.encoder_attn", "kv")
        yield from _renamed(variables, f"{old}/attention/linear_2", f"{new}.encoder_attn.out_proj")
    yield from _renamed(variables, f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
    yield from _renamed(variables, f"{old}/ffn/linear_0", f"{new}.fc1")
    yield from _renamed(variables, f"{old}/ffn/linear_1", f"{new}.fc2")


def _renamed(variables: dict[str, Tensor], old: str, new: str) -> Iterator[tuple[str, Tensor]]:
    scale, shift = ("gamma", "beta") if old.endswith("layer_norm") else ("weight", "bias")
    yield f"{new}.weight", _get(variables, f"{old}/{scale}")
    yield f"{new}.bias", _get(variables, f"{old}/{shift}")


def _split(variables: dict[str, Tensor], old: str, new: str, parts: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ("weight", "bias"):
        stacked = _get(variables, f"{old}/{kind}")
        if not stacked.ndim or len(stacked) % len(parts):
            raise WeightsError(f"model.bin: {old}/{kind} {tuple(stacked.shape)} does not hold {list(parts)}")
        for letter, rows in zip(parts, stacked.chunk(len(parts)), strict=True):
            if (letter, kind) != ("k", "bias"):
                yield f"{new}.{letter}_proj.{kind}", rows


def _get(variables: dict[str, Tensor], name: str) -> Tensor:
    if name not in variables:
        raise WeightsError(f"model.bin lacks {name!r}: not a whole Whisper")
    return variables[name]


def _shape(variables: dict[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    shape = tuple(_get(variables, name).shape)
    if len(shape) != rank:
        raise WeightsError(f"model.bin: {name} has shape {shape}, wanted {rank} dimensions")
    return shape
