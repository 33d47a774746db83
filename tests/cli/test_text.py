"""A language model of one's own, as its user makes it: tokenizer, base, chat, export, and a run that starts from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from omni.audio.read import read
from omni.config.trained import load_trained
from omni.generate import Generate, prompt_of
from omni.generation.engine import Engine
from omni.generation.sampling import Settings
from omni.record.metrics import read_metrics
from omni.text.bpe import BPETokenizer

TINY = [
    "backbone=gpt_d2",
    "backbone.sequence_len=64",
    "backbone.vocab_size=400",
    "stage.batch_size=2",
    "logger=[csv]",
    "device=cpu",
]
BASE = ["stage=w0_base", "dataset=text", "dataset.path=text.txt", "backbone.tokenizer=tok", *TINY]
SHORT = ["stage.max_steps=4", "stage.accumulate=1", "stage.eval_every=2", "stage.eval_tokens=256"]


def run(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", f"omni.{module}", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def keys_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words]


def without(words: list[str], *keys: str) -> list[str]:
    """A key is given once."""
    return [word for word in words if word.partition("=")[0] not in keys]


def ok(module: str, *words: str, cwd: Path) -> str:
    done = run(module, *words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus, a tokenizer, and a base of four steps, exported."""
    folder = tmp_path_factory.mktemp("text")
    words = ["sun", "moon", "rain", "wind", "house", "road", "tree", "bird", "river", "stone"]
    lines = [f"The {words[i % 10]} is near the {words[(i * 7 + i // 10) % 10]}, said number {i}." for i in range(9000)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    ok("prepare", *BASE, cwd=folder)
    assert "PASS  bpb" in ok("train", *BASE, *SHORT, "stage.gate.bpb=9", cwd=folder)
    ok("export", "run=outputs/latest", "to=base", cwd=folder)
    return folder


def newest(place: Path, stage: str) -> Path:
    return max((place / "outputs" / "runs" / stage).iterdir())


def test_a_base_leaves_scores_samples_and_its_tokenizer(place):
    folder = newest(place, "w0_base")
    metrics = read_metrics(folder / "metrics.csv")
    assert [step for step, _ in metrics["bpb"]] == [2, 4]
    assert 0 < metrics["bpb"][-1][1] < 8
    assert (folder / "tokenizer.json").read_bytes() == (place / "tok" / "tokenizer.json").read_bytes()
    samples = (folder / "samples.txt").read_text().splitlines()
    assert len([line for line in samples if line.startswith("step 4: The sun is|")]) == 1
    speed = json.loads((folder / "run.json").read_text())["throughput"]
    assert f"{speed['tokens']:,.0f} tokens/s" in (folder / "train.log").read_text()
    assert 0 < speed["mfu"] < 1
    written = [path.stat().st_mode for path in (folder / "checkpoints" / "step_000004").iterdir()]
    assert len(written) == 2
    assert set(written) == {(folder / "run.json").stat().st_mode}
    config = json.loads((place / "base" / "config.json").read_text())
    assert (config["n_layer"], config["vocab_size"]) == (2, 400)


def test_a_damaged_row_group_is_left_out_told_and_on_record(place):
    lines = [f"The bird on stone {i} is near the river." for i in range(300)]
    pq.write_table(pa.table({"text": lines}), place / "damaged.parquet", row_group_size=100, compression="none")
    content = bytearray((place / "damaged.parquet").read_bytes())
    at = content.index(b"on stone 150 ")
    content[at - 60 : at + 40] = b"\xff" * 100
    (place / "damaged.parquet").write_bytes(content)
    ok("train", *without(BASE, "dataset.path"), *SHORT, "dataset.path=damaged.parquet", cwd=place)
    folder = newest(place, "w0_base")
    named = "damaged.parquet row group 1"
    assert list(json.loads((folder / "run.json").read_text())["skipped"]) == [named]
    assert (folder / "train.log").read_text().count(f"left out {named}: ") == 1


def test_prepare_leaves_what_is_there(place):
    before = (place / "tok" / "tokenizer.json").stat().st_mtime_ns
    assert "tok is there" in ok("prepare", *BASE, cwd=place)
    assert (place / "tok" / "tokenizer.json").stat().st_mtime_ns == before


def test_a_run_resumed_after_its_data_moved_says_so_and_one_in_place_goes_on_to_the_bit(place):
    whole = ok("train", *BASE, *SHORT, "stage.checkpoint_every=2", "stage.checkpoints_kept=9", cwd=place)
    folder = newest(place, "w0_base")
    expected = (folder / "metrics.csv").read_bytes()
    assert "step 4" in whole
    for step in ("step_000004",):
        for file in (folder / "checkpoints" / step).iterdir():
            file.unlink()
        (folder / "checkpoints" / step).rmdir()
    moved = (place / "text.txt").rename(place / "elsewhere.txt")
    gone = run("train", f"resume={folder}", cwd=place)
    assert gone.returncode == 1
    assert "text.txt" in gone.stderr
    moved.rename(place / "text.txt")
    ok("train", f"resume={folder}", cwd=place)
    assert (folder / "metrics.csv").read_bytes() == expected
    assert (folder / "samples.txt").read_text().count("step 4: The sun is|") == 1


def test_a_base_goes_on_from_a_prompt_and_samples_repeat(place):
    one = ok("generate", "run=outputs/latest", "prompt=The sun", "max_tokens=8", cwd=place)
    assert one == ok("generate", "run=outputs/latest", "prompt=The sun", "max_tokens=8", "top_k=1", cwd=place)
    two = ok("generate", "run=outputs/latest", "prompt=The", "temperature=1", "samples=2", "seed=5", cwd=place)
    assert two == ok("generate", "run=outputs/latest", "prompt=The", "temperature=1", "samples=2", "seed=5", cwd=place)
    assert two.startswith("[1] ")
    assert "\n[2] " in two


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere"], "nowhere: no weights there, it does not exist; give an omni run"),
        (["prompt=a"], "run: left out"),
        (["run=outputs/latest", "propmt=a"], "propmt: unknown key; did you mean prompt?"),
        (["run=outputs/latest", f"audio={__file__}"], "audio: outputs/latest is of text alone"),
        (["run=outputs/latest", "top_p=2"], "top_p=2.0 must be"),
        (["run=outputs/latest", "samples=0"], "samples=0 must be 1 or more"),
        (["run=outputs/latest", f"seed={10**20}"], f"seed={10**20} must be from 0"),
        (
            ["run=outputs/latest", "precision=fp16"],
            "precision: Invalid value 'fp16', expected one of [auto, fp32, bf16",
        ),
        (["run=outputs/latest", "device=gpu"], "device: Invalid value 'gpu', expected one of [auto, cuda, mps, cpu]"),
    ],
)
def test_generate_says_what_is_wrong(place, words, said):
    done = run("generate", *words, cwd=place)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_was_exported_speaks_as_the_run_does(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    words = ["prompt=The sun", "max_tokens=8", "precision=bf16"]
    said = ok("generate", f"run={newest(place, 'w0_base')}", *words, cwd=place)
    ok("export", f"run={newest(place, 'w0_base')}", "to=~/again", cwd=place)
    assert ok("generate", "run=~/again", *words, cwd=place) == said
    ok("export", "run=~/again", "to=~/nanochat", "format=nanochat", cwd=place)
    assert ok("generate", "run=~/nanochat", *words, cwd=place) == said
    ok("export", f"run={newest(place, 'w0_base')}", "to=~/nanochat", "format=nanochat", cwd=place)
    assert [path.name for path in sorted(place.glob("nanochat/base_checkpoints/d2/model_*.pt"))] == [
        "model_000000.pt",
        "model_000004.pt",
    ]
    refused = run("export", "run=again", "to=outputs", cwd=place)
    assert refused.returncode == 1
    assert "outputs: this is no exported folder, so it is not replaced" in refused.stderr


def test_a_base_of_another_vocabulary_is_refused(place):
    BPETokenizer.train(
        ["wholly other words, and none of them here: " * 50, (place / "text.txt").read_text()], 400
    ).save(place / "other")
    words = ["backbone.init_from=base", "backbone.tokenizer=other"]
    done = run("train", *[word for word in BASE if "tokenizer" not in word], *words, *SHORT, cwd=place)
    assert done.returncode == 1
    assert "set backbone.tokenizer=base/tokenizer.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_starts_from_the_latest_one_keeps_to_it(place):
    ok("train", *BASE, *SHORT, cwd=place)
    first = newest(place, "w0_base")
    ok("train", *BASE, *SHORT, "backbone.init_from=outputs/latest", cwd=place)
    second = newest(place, "w0_base")
    assert second != first
    assert f"init_from: outputs/runs/w0_base/{first.name}\n" in (second / "config.yaml").read_text()
    bpb = [read_metrics(folder / "metrics.csv")["bpb"][0][1] for folder in (first, second)]
    assert bpb[1] < bpb[0]


def test_chat_starts_from_the_base_and_speaks_its_tokens(place):
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i} it is"}]}
        for i in range(200)
    ]
    (place / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["stage=w0_chat", "dataset=chats", "dataset.path=chats.jsonl", "backbone.init_from=base"]
    ok("train", *words, *TINY, *SHORT, cwd=place)
    record = json.loads((newest(place, "w0_chat") / "run.json").read_text())
    assert record["backbone"]["source"] == "base/model.safetensors"
    assert len(record["backbone"]["sha256"]) == 64
    ok("generate", "run=outputs/latest", "chat=true", "prompt=Say 3", "max_tokens=5", cwd=place)


def test_w1_hears_with_a_base_of_ones_own(place, monkeypatch):
    words = ["encoder=whisper_random", "backbone=gpt_d2", "backbone.init_from=base", "stage.max_steps=2"]
    words += ["stage.gate=null", "backbone.sequence_len=256", "logger=[csv]", "device=cpu"]
    short = run("train", *words, cwd=place)
    assert short.returncode == 1
    assert "set backbone.vocab_size=400" in short.stderr
    ok("train", *words, "backbone.vocab_size=400", cwd=place)
    clip, prompt = "data/audio_smoke/low_tone.wav", "The sun"
    words = [f"audio={clip}", f"prompt={prompt}", "max_tokens=4"]
    answer = ok("generate", "run=outputs/latest", *words, cwd=place)
    monkeypatch.chdir(place)
    trained = load_trained("outputs/latest", device="cpu", precision="fp32")
    ids = torch.tensor([[trained.tokenizer.bos, *trained.tokenizer.encode(prompt)]])
    with torch.inference_mode():
        states, frames = trained.model.encoder([read(clip)])
        heard, deaf = trained.model(ids, states_BKTD=states, frames_B=frames)[0, -1], trained.model(ids)[0, -1]
    assert (heard - deaf).abs().max() > 1e-3
    seen = []
    monkeypatch.setattr("omni.generation.engine.sample", lambda logits, *_: seen.append(logits) or int(logits.argmax()))
    asked = Generate(run="outputs/latest", prompt=prompt, audio=[clip])
    engine = Engine(trained.model.backbone, trained.tokenizer, chunk=5)
    (row,) = engine.complete([prompt_of(asked, trained)], Settings(max_tokens=4))
    torch.testing.assert_close(seen[0], heard, atol=1e-4, rtol=0)
    assert answer == row.text + "\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backbone.tokenizer=nothere"], "backbone.tokenizer=nothere` trains one"),
        (["dataset.path=empty.txt"], "empty.txt"),
        (["dataset.path=none.txt"], "dataset.path: none.txt is not there"),
        (["encoder=whisper_random", "projector=mlp", "stage.eval_every=null"], "dataset: omni.data.text.Corpus gives"),
        (["projector=mlp"], "encoder: null builds nothing"),
    ],
)
def test_train_says_what_is_wrong_with_text(place, words, said):
    (place / "empty.txt").write_text("")
    done = run("train", *without([*BASE, *SHORT], *keys_of(words)), *words, cwd=place)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_clips_are_no_text(place):
    words = [word for word in BASE if not word.startswith("dataset")]
    done = run("train", *words, *SHORT, "dataset=audio_smoke", cwd=place)
    assert done.returncode == 1
    assert "dataset: omni.data.clips.audio_smoke gives clips" in done.stderr
