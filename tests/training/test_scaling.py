import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omni.model.gpt import GPT, window_sizes
from omni.training.scaling import Sizes, best_batch, best_weight_decay, flops_per_token, run_tokens

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "nanochat_l5.json").read_text())


@pytest.mark.parametrize(
    ("depth", "width", "parameters", "counted", "tokens", "batch", "steps", "decay"),
    [
        (6, 384, 73.5e6, 23.2e6, 0.186e9, 2**18, 708, 0.940),
        (12, 768, 286e6, 110e6, 0.881e9, 2**19, 1680, 0.28),
        (20, 1280, 897e6, 435e6, 3.48e9, 2**20, 3320, 0.100),
        (26, 1664, 1.682e9, 918e6, 7.35e9, 2**20, 7007, 0.047),
    ],
)
def test_the_recipes_of_the_published_sizes(depth, width, parameters, counted, tokens, batch, steps, decay):
    sizes = Sizes.from_depth(depth)
    found = best_batch(sizes, ratio=8)
    assert sizes.n_embd == width
    assert sizes.parameters == pytest.approx(parameters, rel=2e-3)
    assert sizes.matrix_parameters == pytest.approx(counted, rel=2e-3)
    assert run_tokens(sizes, ratio=8) == pytest.approx(tokens, rel=3e-3)
    assert (found, run_tokens(sizes, ratio=8) // found) == (batch, steps)
    assert best_weight_decay(sizes, 8, found) == pytest.approx(decay, abs=5e-4)


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes.from_depth(6),
        Sizes(5, 64, 2, 1, vocab_size=257, sequence_len=1024, window_pattern="SL"),
        Sizes(4, 96, 4, 2, vocab_size=100, sequence_len=600, window_pattern="sLL"),
        Sizes(1, 64, 1, 1, vocab_size=64),
    ],
)
def test_the_counts_are_those_of_the_built_model(sizes):
    with torch.device("meta"):
        model = GPT(
            **{
                name: getattr(sizes, name)
                for name in ("n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size", "sequence_len", "window_pattern")
            }
        )
    assert sizes.parameters == sum(p.numel() for p in model.parameters())
    counted = [p for n, p in model.named_parameters() if n.startswith(("transformer.h.", "lm_head")) and p.ndim == 2]
    assert sizes.matrix_parameters == sum(p.numel() for p in counted)
    assert sizes.windows == window_sizes(sizes.window_pattern, sizes.n_layer, sizes.sequence_len)


def test_flops_a_token():
    golden = Sizes(**GOLDEN["config"])
    assert flops_per_token(golden, golden.sequence_len) == GOLDEN["flops_per_token"]
    assert flops_per_token(Sizes.from_depth(24), 2048) == pytest.approx(4.775e9, rel=1e-4)
    short = flops_per_token(golden, 100)  # shorter rows than the windows attend to less
    assert GOLDEN["flops_per_token"] - short == 12 * 64 * (sum(golden.windows) - 500)


def test_the_ratio_counts_tokens_for_each_parameter():
    d12 = Sizes.from_depth(12)
    assert run_tokens(d12, 12) == 12 * d12.matrix_parameters
    assert best_weight_decay(d12, 20, 2**19) == pytest.approx(0.28)


def test_it_does_not_wait_for_torch():
    code = "import sys, omni.training.scaling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
