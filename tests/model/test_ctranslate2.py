"""The reader against a writer of our own, hostile bytes, and the published whisper-tiny.en and base."""

import importlib.util
import random
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel

from omni.model.ctranslate2 import config_of, read_variables, to_transformers, write_transformers
from omni.model.layout import WeightsError
from omni.model.weights import WHEELS

TINY = {
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "vocab_size": 30,
    "max_source_positions": 20,
    "max_target_positions": 10,
    "num_mel_bins": 4,
    "pad_token_id": 0,
}
KINDS = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def model_bin(variables: dict[str, Tensor], aliases: dict[str, str], version: int = 6) -> bytes:
    out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        data = tensor.contiguous().numpy().tobytes()
        out += text(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        out += struct.pack("<BI", KINDS[tensor.dtype], len(data)) + data
    out += struct.pack("<I", len(aliases))
    return out + b"".join(text(alias) + text(name) for alias, name in aliases.items())


def as_variables(model: WhisperModel) -> dict[str, Tensor]:
    """The map the other way round, as CTranslate2's converter stores a model."""
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    variables: dict[str, Tensor] = {"encoder/num_heads": torch.tensor(2, dtype=torch.int16)}

    def copy(old: str, new: str, scale: str = "weight", shift: str = "bias"):
        variables[f"{new}/{scale}"], variables[f"{new}/{shift}"] = (
            state[f"{old}.weight"],
            state[f"{old}.bias"],
        )

    def stack(old: str, new: str, letters: str):
        for kind in ("weight", "bias"):
            zero = torch.zeros(8, dtype=torch.half)
            rows = [state.get(f"{old}.{letter}_proj.{kind}", zero) for letter in letters]
            variables[f"{new}/{kind}"] = torch.cat(rows)

    for side, layers in (("encoder", 2), ("decoder", 1)):
        variables[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        copy(f"{side}.layer_norm", f"{side}/layer_norm", "gamma", "beta")
        for i in range(layers):
            old, new = f"{side}.layers.{i}", f"{side}/layer_{i}"
            copy(f"{old}.self_attn_layer_norm", f"{new}/self_attention/layer_norm", "gamma", "beta")
            stack(f"{old}.self_attn", f"{new}/self_attention/linear_0", "qkv")
            copy(f"{old}.self_attn.out_proj", f"{new}/self_attention/linear_1")
            if side == "decoder":
                copy(f"{old}.encoder_attn_layer_norm", f"{new}/attention/layer_norm", "gamma", "beta")
                stack(f"{old}.encoder_attn", f"{new}/attention/linear_0", "q")
                stack(f"{old}.encoder_attn", f"{new}/attention/linear_1", "kv")
                copy(f"{old}.encoder_attn.out_proj", f"{new}/attention/linear_2")
            copy(f"{old}.final_layer_norm", f"{new}/ffn/layer_norm", "gamma", "beta")
            copy(f"{old}.fc1", f"{new}/ffn/linear_0")
            copy(f"{old}.fc2", f"{new}/ffn/linear_1")
    copy("encoder.conv1", "encoder/conv1")
    copy("encoder.conv2", "encoder/conv2")
    variables["decoder/embeddings/weight"] = state["decoder.embed_tokens.weight"]
    return variables


@pytest.fixture(scope="module")
def tiny() -> WhisperModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WhisperModel(WhisperConfig(**TINY))
        for parameter in model.parameters():  # no zeros or ones left to be mistaken for each other
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def blob(tiny: WhisperModel) -> bytes:
    return model_bin(as_variables(tiny), {"decoder/projection/weight": "decoder/embeddings/weight"})


def published(name: str) -> bytes:
    parts = []
    for module, file in WHEELS[name].parts:
        spec = importlib.util.find_spec(module)
        if spec is None:
            pytest.skip(f"{module} is not installed: pip install 'omni-audio[weights]'")
        parts.append(Path(spec.submodule_search_locations[0]) / file)
    return b"".join(part.read_bytes() for part in parts)


def test_every_tensor_comes_back_under_transformers_name(tiny: WhisperModel, blob: bytes):
    state = to_transformers(read_variables(blob))
    expected = tiny.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor.half()), name


def test_config_is_read_off_the_shapes(blob: bytes):
    config = config_of(read_variables(blob))
    assert {key: config[key] for key in TINY if key != "pad_token_id"} == {
        key: value for key, value in TINY.items() if key != "pad_token_id"
    }


def test_aliases_name_the_same_tensor(blob: bytes):
    variables = read_variables(blob)
    assert variables["decoder/projection/weight"] is variables["decoder/embeddings/weight"]


def test_written_folder_loads_in_transformers(tiny: WhisperModel, blob: bytes, tmp_path: Path):
    write_transformers(blob, tmp_path)
    # The real padding token lies beyond a vocabulary of 30.
    model, info = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True, pad_token_id=0)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(model.model.encoder.conv2.weight, tiny.encoder.conv2.weight.half())
    assert model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()


def test_a_file_cut_anywhere_is_refused(blob: bytes):
    for end in [*range(200), *range(200, len(blob), 997), len(blob) - 1]:
        with pytest.raises(WeightsError):
            read_variables(blob[:end])


def test_flipped_bytes_never_escape_as_another_error(blob: bytes):
    rng = random.Random(0)
    for _ in range(400):
        broken = bytearray(blob)
        for _ in range(rng.choice([1, 3, 30])):
            broken[rng.randrange(min(len(blob), rng.choice([60, 4000, len(blob)])))] = rng.choice([0, 1, 127, 255])
        try:
            variables = read_variables(broken)
            config_of(variables)
            to_transformers(variables)
        except WeightsError:
            pass


HEAD = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        HEAD + struct.pack("<I", 2**32 - 1),
        HEAD + struct.pack("<I", 1) + text("x")
        # 2^96 elements in 4 bytes
        + struct.pack("<B3IBI", 3, 2**32 - 1, 2**32 - 1, 2**32 - 1, 0, 4) + bytes(4),
        HEAD + struct.pack("<I", 1) + text("x") + b"\xff" + bytes(2000),
        struct.pack("<I", 6) + text("TransformerSpec") + bytes(8),
    ],
)  # fmt: skip
def test_hostile_bytes_are_refused(bad: bytes):
    with pytest.raises(WeightsError):
        read_variables(bad)


def test_other_versions_quantised_and_partial_models_are_named(tiny: WhisperModel):
    variables = as_variables(tiny)
    with pytest.raises(WeightsError, match="form 7"):
        read_variables(model_bin(variables, {}, version=7))
    quantised = variables | {"encoder/conv1/weight": torch.zeros(8, 4, 3, dtype=torch.int8)}
    with pytest.raises(WeightsError, match=r"encoder\.conv1\.weight is torch\.int8"):
        to_transformers(read_variables(model_bin(quantised, {})))
    del variables["encoder/conv2/bias"]
    with pytest.raises(WeightsError, match="lacks 'encoder/conv2/bias'"):
        to_transformers(read_variables(model_bin(variables, {})))
    with pytest.raises(WeightsError, match="lacks 'nowhere'"):
        read_variables(model_bin(variables, {"alias": "nowhere"}))
    with pytest.raises(WeightsError, match="3 bytes after its end"):
        read_variables(model_bin(variables, {}) + b"xyz")


@pytest.mark.parametrize("name", ["base", "tiny.en"])
def test_published_weights_load_strictly(name: str):
    variables = read_variables(published(name))
    with torch.device("meta"):
        model = WhisperModel(WhisperConfig(**config_of(variables)))
    model.load_state_dict(to_transformers(variables), strict=True, assign=True)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), parameter_name


def test_published_decoder_speaks_english():
    """Hearing nothing, the decoder is still a language model, and prefers a sentence to its words shuffled.
    A wrong name anywhere in the decoder leaves it near the chance of 1 in 51864, which costs 10.9 nats."""
    tokenizers = pytest.importorskip("tokenizers")
    variables = read_variables(published("tiny.en"))
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(**config_of(variables)))
    state = {f"model.{key}": value.float() for key, value in to_transformers(variables).items()}
    model.load_state_dict(
        state | {"proj_out.weight": state["model.decoder.embed_tokens.weight"]}, strict=True, assign=True
    )
    spec = importlib.util.find_spec(WHEELS["tiny.en"].parts[0][0])
    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    @torch.no_grad()
    def cost(sentence: str) -> float:
        start = [50257, 50362]  # <|startoftranscript|> <|notimestamps|>
        ids = torch.tensor([start + tokenizer.encode(sentence, add_special_tokens=False).ids])
        logits = model.eval()(encoder_outputs=(silence,), decoder_input_ids=ids[:, :-1]).logits[0, 1:]
        return torch.nn.functional.cross_entropy(logits, ids[0, 2:]).item()

    with torch.no_grad():
        silence = model.model.encoder(torch.full((1, 80, 3000), -1.5)).last_hidden_state
    sentence = " I would like to thank you very much for coming to see me today"
    shuffled = " today me much like see would for I coming thank to you very to"
    assert cost(sentence) < 4.5 < cost(shuffled) - 2.0
