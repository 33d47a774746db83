"""WavLM and w2v-BERT as frozen ears: tiny seeded ones, saved as transformers lays them out and read back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForCTC,
    WavLMModel,
)

from omni.errors import OmniError
from omni.model import self_supervised as room
from omni.model.layout import WeightsError
from omni.model.self_supervised import SelfSupervisedEncoder

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
CONVS = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
KINDS = ("wavlm", "wavlm_large", "w2v_bert")
REACH = {"wavlm": 400, "wavlm_large": 400, "w2v_bert": 560}


def clip(seconds: float, seed: int = 0) -> Tensor:
    """A pulsing tone in noise, (samples,) at 16 kHz."""
    time = torch.arange(round(16_000 * seconds)) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * torch.pi * (200 + 90 * seed) * time) * torch.sin(9 * time) + 0.03 * noise


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    """transformers' own, with norms and biases that are not ones and zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = {
            "wavlm": WavLMModel(WavLMConfig(**SIZES, **CONVS)),
            "wavlm_large": WavLMModel(WavLMConfig(**SIZES, **CONVS, **LARGE)),
            "w2v_bert": Wav2Vec2BertModel(Wav2Vec2BertConfig(**SIZES)),
        }
        for model in built.values():
            for parameter in model.parameters():
                parameter.data.add_(0.05 * torch.randn_like(parameter))
    return {kind: model.eval() for kind, model in built.items()}


@pytest.fixture(scope="module")
def folders(models: dict[str, PreTrainedModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("weights")
    for kind, model in models.items():
        model.save_pretrained(parent / kind)
    return {kind: parent / kind for kind in models}


@pytest.fixture(scope="module")
def ear(folders: dict[str, Path]) -> Callable[..., SelfSupervisedEncoder]:
    """Builds one of KINDS."""
    return lambda kind, **keys: SelfSupervisedEncoder(
        **{"weights": str(folders[kind]), "width": 32, "depth": 3, **keys}
    )


def features(kind: str, waveform: Tensor) -> Tensor:
    """What transformers' extractor makes of one clip, with the settings the models were published with."""
    if kind == "w2v_bert":
        extract, name = SeamlessM4TFeatureExtractor(), "input_features"
    else:
        extract, name = Wav2Vec2FeatureExtractor(do_normalize=kind == "wavlm_large"), "input_values"
    got = extract(waveform.numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    if name == "input_features":
        return got[name][:, got["attention_mask"][0].bool()]
    return got[name]


# --- the numbers are transformers'


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_of_a_clip_alone_equals_transformers(ear, models, kind):
    for samples in (16_000, 16_161, 23_455):
        waveform = clip(2.0)[:samples]
        expected = models[kind](features(kind, waveform), output_hidden_states=True)
        states_BKTD, lengths_B = ear(kind, layers=[])([waveform])
        assert states_BKTD.shape == (1, 4, lengths_B[0], 32)
        for index, hidden_BTD in enumerate([*expected.hidden_states[:-1], expected.last_hidden_state]):
            torch.testing.assert_close(states_BKTD[:, index], hidden_BTD, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("most", [0, 100, 10_000])  # each alone, in groups whose order is not the batch's, all at once
@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_batch_equals_its_clips_and_padding_is_zero(ear, monkeypatch, kind, most):
    monkeypatch.setitem(room.FRAMES_AT_ONCE, "cpu", most)
    listener = ear(kind, layers=[0, 2, 3])
    clips = [clip(seconds, seed) for seed, seconds in enumerate((0.03, 1.2345, 0.5, 2.01, 0.001))]
    states_BKTD, lengths_B = listener(clips)
    assert lengths_B.dtype == torch.int64
    for row, waveform in enumerate(clips):
        alone_BKTD, alone_B = listener([waveform])
        assert lengths_B[row] == alone_B[0] == alone_BKTD.shape[2]
        torch.testing.assert_close(states_BKTD[row, :, : lengths_B[row]], alone_BKTD[0], atol=1e-5, rtol=1e-4)
        assert not states_BKTD[row, :, lengths_B[row] :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_true_lengths(ear, kind):
    listener = ear(kind)
    for extra in (-200, -1, 0, 1, 159, 160, 319, 320, 16_000):
        samples = REACH[kind] + extra
        states_BKTD, lengths_B = listener([clip(2.0)[:samples]])
        expected = max(1, 1 + extra // 320)
        assert listener.output_length(samples) == lengths_B.item() == states_BKTD.shape[2] == expected, extra
        assert states_BKTD.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_thirty_seconds_windows_join_without_a_gap(ear, kind):
    listener, long = ear(kind), clip(33.0)
    states_BKTD, lengths_B = listener([long, clip(1.0)])
    assert lengths_B[0] == listener.output_length(len(long)) == (528_000 - REACH[kind]) // 320 + 1
    parts = long[: 480_000 + REACH[kind] - 320], long[480_000:]
    for part, frames in zip(parts, (slice(0, 1500), slice(1500, int(lengths_B[0]))), strict=True):
        torch.testing.assert_close(states_BKTD[:1, :, frames], listener([part])[0], atol=1e-5, rtol=1e-4)


def test_the_published_front_ends_hear_fifty_frames_a_second():
    wavlm, bert = room.WavLMFrames(WavLMConfig()), room.BertFrames(Wav2Vec2BertConfig())
    assert (wavlm.hop, wavlm.reach) == (320, 400)
    assert (bert.hop, bert.reach) == (320, 560)
    assert not wavlm.normed


# --- attributes, layers, dtype


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_layers_and_signature(ear, kind):
    every = ear(kind, layers=[])
    assert (every.width, every.n_states, every.frame_rate) == (32, 4, 50.0)
    assert every.source.startswith("folder:")
    states_BKTD, _ = every([clip(1.0)])
    seen = {json.dumps(every.signature)}
    for layers in ([-1], [0], [2, 0], [1, -1]):
        listener = ear(kind, layers=layers)
        chosen_BKTD, _ = listener([clip(1.0)])
        assert listener.n_states == len(layers)
        torch.testing.assert_close(chosen_BKTD, states_BKTD[:, layers])
        seen.add(json.dumps(listener.signature))
    seen.add(json.dumps(ear(kind, dtype="bf16").signature))
    assert len(seen) == 6
    assert ear(kind).signature == ear(kind, layers=[3]).signature


def test_what_stands_behind_the_last_state_kept_is_not_computed(ear):
    assert [len(ear("wavlm", layers=kept).model.encoder.layers) for kept in ([0], [2, 1], [-1])] == [1, 2, 3]


def test_another_models_weights_have_another_signature(ear):
    assert len({ear(kind).sha256 for kind in KINDS}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_close_to_fp32(ear, kind):
    exact_BKTD, _ = ear(kind)([clip(1.0), clip(0.5)])
    rough_BKTD, _ = ear(kind, dtype="bf16")([clip(1.0), clip(0.5)])
    assert rough_BKTD.dtype == torch.bfloat16
    assert (rough_BKTD - exact_BKTD).norm() < 0.05 * exact_BKTD.norm()


@pytest.mark.parametrize("layers", [[4], [-5], [1, 1], [3, -1]])
def test_impossible_layers_are_refused(ear, layers):
    with pytest.raises(OmniError, match=r"encoder\.layers=.*from 0 to 3"):
        ear("wavlm", layers=layers)


def test_impossible_options_and_clips_are_refused(ear):
    with pytest.raises(OmniError, match=r"encoder\.dtype: 'fp16' is not one of fp32, bf16"):
        ear("wavlm", dtype="fp16")
    for key, asked, real in (("width", 64, 32), ("depth", 4, 3)):
        with pytest.raises(OmniError, match=rf"encoder\.{key}={asked}.* has {real}: set encoder\.{key}={real}"):
            ear("wavlm", **{key: asked})
    with pytest.raises(OmniError, match="clip 1 of the batch"):
        ear("wavlm")([clip(0.5), torch.zeros(0)])
    with pytest.raises(OmniError, match="no clips"):
        ear("wavlm")([])


# --- frozen


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_from_birth_and_not_woken(ear, kind):
    before = torch.get_rng_state()
    listener = ear(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in listener.parameters())
    pipeline = nn.ModuleDict({"encoder": listener, "projector": nn.Linear(32, 4)}).train()
    assert not any(module.training for module in listener.modules())
    states_BKTD, _ = listener([clip(0.5)])
    assert not states_BKTD.requires_grad
    pipeline["projector"](states_BKTD).sum().backward()
    assert torch.equal(states_BKTD, listener([clip(0.5)])[0])  # no dropout, no masking


def test_autocast_outside_changes_nothing(ear):
    plain_BKTD, _ = ear("wavlm")([clip(0.5)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states_BKTD, _ = ear("wavlm")([clip(0.5)])
    assert torch.equal(states_BKTD, plain_BKTD)


# --- weights


def test_a_pickle_in_the_names_of_its_time_is_read(ear, models, tmp_path):
    """As WavLM is published: the norm of a weight under its old name."""
    state = models["wavlm"].state_dict()
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = f"encoder.pos_conv_embed.conv.parametrizations.weight.{new}"
        state[f"encoder.pos_conv_embed.conv.{old}"] = state.pop(name)
    models["wavlm"].config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(ear("wavlm", weights=str(tmp_path))([clip(0.5)])[0], ear("wavlm")([clip(0.5)])[0])


def test_of_a_model_with_a_head_the_encoder_is_read(models, tmp_path, ear):
    with torch.random.fork_rng():
        whole = WavLMForCTC(WavLMConfig(**SIZES, **CONVS, vocab_size=8))
    whole.wavlm.load_state_dict(models["wavlm"].state_dict())
    whole.save_pretrained(tmp_path)
    assert torch.equal(ear("wavlm", weights=str(tmp_path))([clip(0.5)])[0], ear("wavlm")([clip(0.5)])[0])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "whisper"}, "'whisper' is not one of wavlm, wav2vec2-bert"),
        ({"hidden_size": "wide"}, "not readable"),
        ({"intermediate_size": 128}, "does not fit"),
        ({"feat_extract_norm": "layer"}, "lacks 12 tensors"),
        ({"model_type": "wav2vec2-bert"}, "does not fit"),
    ],
)
def test_a_config_that_is_not_the_weights_is_refused(ear, folders, tmp_path, fields, said):
    folder = shutil.copytree(folders["wavlm"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(WeightsError, match=said):
        ear("wavlm", weights=str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_code_that_a_config_names_is_neither_fetched_nor_run(ear, folders, tmp_path, kind):
    folder = shutil.copytree(folders[kind], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    hostile = {"auto_map": {"AutoModel": "evil.Model"}, "_attn_implementation": "evil/kernel"}
    (folder / "config.json").write_text(json.dumps(config | hostile | {"attn_implementation": "evil/kernel"}))
    assert torch.equal(ear(kind, weights=str(folder))([clip(0.5)])[0], ear(kind)([clip(0.5)])[0])


def test_a_hostile_pickle_runs_nothing(ear, folders, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary",)

    shutil.copy(folders["wavlm"] / "config.json", tmp_path)
    torch.save({"encoder": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin does not fit"):
        ear("wavlm", weights=str(tmp_path))
    assert not (tmp_path / "canary").exists()
