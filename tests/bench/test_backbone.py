import json
import subprocess
import sys

import pytest
import torch

from omni.bench.backbone import polar_flops
from omni.model.gpt import GPT
from omni.model.precision import multiplies_bf16
from omni.training.rates import shortest


def test_the_shortest_time_counts_and_the_first_never():
    waits = iter([0.0, 0.03, 0.01, 0.02, 0.03, 0.03])
    spin = torch.nn.Identity()

    def work() -> None:
        import time

        time.sleep(next(waits))
        spin(None)

    assert 0.01 <= shortest(work, torch.device("cpu"), seconds=0.05) < 0.02


def test_what_setup_makes_is_handed_over_each_time():
    made, taken = iter(range(100)), []
    shortest(taken.append, torch.device("cpu"), seconds=0.0, setup=lambda: next(made))
    assert taken == [0, 1, 2, 3]


def test_polar_flops_at_depth_6_are_a_hundred_billion():
    model = GPT(n_layer=6, n_embd=384, n_head=3, n_kv_head=3, vocab_size=257)
    assert polar_flops(model) == pytest.approx(102e9, rel=0.01)


@pytest.mark.slow
def test_the_command_measures_every_part_and_writes_json(tmp_path):
    line = [sys.executable, "-m", "omni.bench", "backbone", "depth=2", "batch=1", "lengths=8", "out=speed.json"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measures = json.loads((tmp_path / "speed.json").read_text())["measures"]
    parts = {"matmul", "memory", "forward + backward", "optimizer step", "first token", "decode"}
    dtypes = {"float32", "bfloat16"} if multiplies_bf16(torch.device("cpu")) else {"float32"}
    assert {(m["what"], m["dtype"]) for m in measures} == {(p, d) for p in parts for d in dtypes}
    assert all(m["rate"] > 0 and m["share"] > 0 for m in measures)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backbones"], "backbones: name what to measure: backbone, encoder"),
        (["backbone", "depht=2"], "depht: unknown key; did you mean depth?"),
        (["backbone", "lengths=a"], "lengths: a is no list of numbers"),
        (["backbone", "precision=fp8"], "precision: fp8"),
    ],
)
def test_bad_input_is_named(tmp_path, words, said):
    line = [sys.executable, "-m", "omni.bench", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
