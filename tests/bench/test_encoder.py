"""The encoder beside others: who is measured, what is counted, and what is said where something is missing."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from omni.bench import encoder as module
from omni.bench.encoder import bench_encoder, encoder_flops
from omni.model.encoder import RandomWhisperEncoder
from omni.model.precision import multiplies_bf16

DTYPES = ["fp32", "bf16"] if multiplies_bf16(torch.device("cpu")) else ["fp32"]
EVERYONE = {
    ("transformers", "fp32", "full"),
    *(("omni", dtype, context) for dtype in DTYPES for context in ("full", "clip")),
}


def tiny(context: str, dtype: str) -> RandomWhisperEncoder:
    return RandomWhisperEncoder(context=context, dtype=dtype, width=32, depth=1)


def test_all_hear_the_same_clips_and_are_told_beside_the_first(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no CTranslate2
    clips = [0.1 * torch.randn(samples) for samples in (16_000, 24_000, 32_000)]
    heard = {"windows": 2, "dtypes": DTYPES, "device": torch.device("cpu"), "rounds": 1}
    measures = bench_encoder(tiny, clips, **heard)
    assert {(each.what, each.dtype, each.context) for each in measures} == EVERYONE
    assert (measures[0].what, measures[0].times) == ("transformers", 1.0)
    for each in measures:
        assert each.audio == pytest.approx(1.5 * each.clips)
        assert each.times == pytest.approx(each.clips / measures[0].clips)
        assert each.share > 0


def test_flops_are_those_of_whisper_base():
    whisper = RandomWhisperEncoder(width=512, depth=6, n_heads=8)
    layers = 6 * (2 * 1500 * 12 * 512**2 + 4 * 1500**2 * 512)
    assert encoder_flops(whisper.whisper.config, 1500) == layers + 2 * 3 * 512 * (3000 * 80 + 1500 * 512)


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_ctranslate2_hears_the_same(tmp_path):
    import numpy as np

    from omni.model.encoder import WhisperEncoder

    clip = 0.1 * torch.randn(20_000)
    module.write_ctranslate2(tmp_path)
    (theirs,) = module.ctranslate2_encoder(str(tmp_path), "fp32", "clip", torch.device("cpu")).hear([clip])
    torch.testing.assert_close(torch.from_numpy(np.array(theirs)), WhisperEncoder()([clip])[0][:, 0], atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["folder=none"], "none/queen.1c: is not there. Run: python -m omni.prepare dataset=amazon_queen"),
        (["clips=0"], "clips, windows: at least 1"),
        (["precision=fp8"], "precision: fp8 is not made of"),
        (["window=2"], "window: unknown key; did you mean windows?"),
    ],
)
def test_bad_input_is_named(words, said):
    line = [sys.executable, "-m", "omni.bench", "encoder", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
