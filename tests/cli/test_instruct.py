"""W3 in small, by the real commands: questions are made, adapters trained, the run gone on with, asked and exported."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni.audio.tones import write_smoke_clips
from omni.config.build import build
from omni.config.compose import compose
from omni.config.render import pinned
from omni.data.manifest import read_manifest
from omni.errors import OmniError
from omni.evaluate import Evaluate, Suite, evaluate
from omni.instructions.dataset import AudioInstructions
from omni.instructions.questions import FROZEN, labels_of, normalised
from omni.instructions.writing import make_piece
from omni.record.metrics import read_metrics

REPOSITORY = Path(__file__).parents[2]
TOKENIZER = REPOSITORY / "tests" / "golden" / "nanochat_d4" / "tokenizer"
ITEMS = 16
TINY = [
    *("encoder=whisper_random", "projector=stack4_mlp", "backbone=gpt_d2", f"backbone.tokenizer={TOKENIZER}"),
    *("backbone.vocab_size=512", "backbone.sequence_len=512", "features=features", "logger=[csv]", "device=cpu"),
]
ALIGNED = [*TINY, "dataset=manifest", "dataset.path=clips/all.jsonl", "stage.max_steps=1", "stage.gate=null"]
MADE = {"n": ITEMS, "engines": ["espeak-ng"], "amazon_queen": None, "animals": None, "soundfont": None}
W3 = [
    *("stage=w3_lora", *TINY, "encoder.layers=[0,1,-1]", "texture.hidden_dim=8"),
    *("precision=fp32", "augment.copies=1", "stage.init_from=outputs/runs/w1_smoke", "stage.lora.rank=4"),
    *("stage.max_steps=4", "stage.batch_size=4", "stage.warmup_steps=0", "stage.eval_every=2"),
    *("stage.checkpoint_every=2", "stage.checkpoints_kept=9"),
    *("stage.gate.choice_accuracy=0", "stage.gate.audio_gain_low=-99"),
    *("dataset.parts.transcripts=null", "+dataset.parts.tones._target_=omni.data.clips.ManifestClips"),
    *("+dataset.parts.tones.path=clips/all.jsonl", "+dataset.weights={tones:2}"),
]


def of_instructions(key: str) -> list[str]:
    """The overrides of the data set of questions, where it stands at `key`."""
    return [f"{key}.{name}={'null' if value is None else value}".replace("'", "") for name, value in MADE.items()]


def run(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", f"omni.{module}", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def ok(module: str, *words: str, cwd: Path) -> str:
    done = run(module, *words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(place: Path, *overrides: str) -> str:
    """Why W3 does not train so."""
    w3 = [word for word in W3 if not any(word.startswith(key.partition("=")[0]) for key in overrides)]
    done = run("train", *w3, *of_instructions("dataset.parts.instructions"), *overrides, cwd=place)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def make_val() -> None:
    """Sixteen held-out items under the name of the two hundred, which take half a minute."""
    made = AudioInstructions(folder="data/audio_instructions", split="val", **MADE).made
    ((_, manifest),) = made.pieces("val", 200)
    manifest.parent.mkdir(parents=True)
    make_piece(made.sources, made.seed, "val", range(ITEMS), manifest)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with questions, a run that was aligned, and a run of W3 that starts from it."""
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("instruct")
    (folder / "data").mkdir()
    (folder / "data" / "amazon_queen.jsonl.gz").symlink_to(REPOSITORY / "data" / "amazon_queen.jsonl.gz")
    write_smoke_clips(folder / "clips")
    rows = [json.loads(line) for line in (folder / "clips" / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"id": f"{row['id']} {split}", "split": split} for split in ("train", "val") for row in rows]
    (folder / "clips" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with chdir(folder):
        make_val()
    ok("prepare", "dataset=audio_instructions", *of_instructions("dataset"), cwd=folder)
    ok("train", *ALIGNED, cwd=folder)
    (folder / "said.txt").write_text(ok("train", *W3, *of_instructions("dataset.parts.instructions"), cwd=folder))
    return folder


def only(place: Path, stage: str) -> Path:
    """The run of a stage that passed."""
    runs = [path.parent for path in place.glob(f"outputs/runs/{stage}/*/run.json")]
    (passed,) = [folder for folder in runs if json.loads((folder / "run.json").read_text())["status"] == "passed"]
    return passed


@pytest.fixture(scope="module")
def trained(place) -> Path:
    return only(place, "w3_lora")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step_000004" / "model.safetensors")


def test_questions_are_made_and_said_to_be(place):
    (manifest,) = place.glob("data/audio_instructions/*/train_*.jsonl")
    clips = read_manifest(manifest)
    assert len({clip.sha256 for clip in clips}) == ITEMS
    assert len(clips) >= 4 * ITEMS
    assert all(clip.question and clip.answer for clip in clips)
    assert {clip.answer in (clip.choices or [clip.answer]) for clip in clips} == {True}


def test_adapters_and_ears_are_trained_from_the_newest_run_that_passed(place, trained):
    start = only(place, "w1_smoke")
    assert f"init_from: {start.relative_to(place)}\n" in (trained / "config.yaml").read_text()
    told = json.loads((trained / "run.json").read_text())
    assert [each["metric"] for each in told["gate"]] == ["choice_accuracy", "audio_gain_low"]
    assert told["backbone"]["source"].startswith(str(start.relative_to(place)))
    before = load_file(next((start / "checkpoints").iterdir()) / "model.safetensors")
    after = weights(trained)
    named = {name.replace(".base_layer", ""): name for name in after}
    for name, tensor in before.items():
        assert torch.equal(after[named[name]], tensor) == name.startswith("backbone."), name
    learned = [name for name in after if ".lora_B." in name]
    assert len(learned) == 2 * 6
    assert all(after[name].abs().sum() > 0 for name in learned)
    assert {name.split(".")[0] for name in after} == {"texture", "projector", "backbone"}


def test_a_run_is_looked_at_by_ear_and_by_question(place, trained):
    metrics = read_metrics(trained / "metrics.csv")
    for name in ("choice_accuracy", "choice_pitch", "audio_gain_low"):
        assert [step for step, _ in metrics[name]] == [2, 4], name
    assert 0 <= metrics["choice_accuracy"][-1][1] <= 1
    assert metrics["loss"][0][1] < 8
    samples = (trained / "samples.txt").read_text().splitlines()
    val = [
        clip.question for path in place.glob("data/audio_instructions/*/val_*.jsonl") for clip in read_manifest(path)
    ]
    assert any(question in line for line in samples for question in val)
    assert "PASS" in (trained / "train.log").read_text()


def test_a_run_goes_on_to_the_bit_without_what_it_started_from(place, trained):
    again = shutil.copytree(trained, trained.parent / "again")
    shutil.rmtree(again / "checkpoints" / "step_000004")
    start = (place / "outputs" / "runs" / "w1_smoke").rename(place / "elsewhere")
    try:
        assert "going on after step 2" in ok("train", f"resume={again}", cwd=place)
        assert (again / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()
        ours, theirs = weights(again), weights(trained)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    finally:
        start.rename(place / "outputs" / "runs" / "w1_smoke")
        shutil.rmtree(again)


def test_a_run_is_asked_and_its_adapters_are_exported(place, trained):
    said = ok("evaluate", f"run={trained}", "suite=audiobench_mini", "split=val", "device=cpu", cwd=place)
    assert said.split()[0] in ("PASS", "FAIL")
    folder = trained / "audiobench_mini" / "val"
    assert said.splitlines()[-1].endswith(f" in {folder}")
    figures = json.loads((folder / "audiobench_mini.json").read_text())
    assert (figures["questions"], figures["step"], figures["split"]) == (ITEMS, 4, "val")
    assert figures["passed"] == said.startswith("PASS")
    assert list(figures["engines"]) == ["espeak-ng", "synthesis"]
    assert None not in figures["controls"].values()
    assert figures["matched"]["value"] == read_metrics(trained / "metrics.csv")["choice_accuracy"][-1][1]
    assert len((folder / "audiobench_mini.jsonl").read_text().splitlines()) == ITEMS
    for name in (".md", "_categories.png", "_confusion.png"):
        assert (folder / f"audiobench_mini{name}").stat().st_size > 500
    assert not list(place.glob("outputs/*test_uses*"))
    assert "parameters in adapter" in ok("export", f"run={trained}", "to=adapter", "format=adapter", cwd=place)
    assert {path.name for path in (place / "adapter").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    assert all(".lora_" in name for name in load_file(place / "adapter" / "adapter_model.safetensors"))


def test_a_run_without_questions_is_not_asked_any(place, monkeypatch):
    monkeypatch.chdir(place)
    asked = {"run": str(only(place, "w1_smoke")), "suite": Suite.audiobench_mini}
    with pytest.raises(OmniError, match="has no questions: its run was not trained on any"):
        evaluate(Evaluate(**asked, split="val"))
    with pytest.raises(OmniError, match="split: train is none of test, val, extended"):
        evaluate(Evaluate(**asked, split="train"))
    with pytest.raises(OmniError, match=r"test\.jsonl: is not there; start in omni's own folder"):
        evaluate(Evaluate(**asked))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rank=200", "rank: 200 is more than 128, the smaller side of transformer.h.{0-1}."),
        ("targets=[transformer.z.*]", "targets: 'transformer.z.*' matches no matrix; there are"),
    ],
)
def test_adapters_that_do_not_fit_say_why(place, monkeypatch, override, told):
    monkeypatch.chdir(place)
    cfg = compose([*W3, *of_instructions("dataset.parts.instructions"), f"stage.lora.{override}"])
    with pytest.raises(OmniError, match=rf"^{re.escape(f'stage.lora.{told}')}"):
        build(pinned(cfg))


def test_nothing_to_start_from_says_what_to_train_first(place):
    assert refused(place, "stage.init_from=outputs/runs/w2_align") == (
        "stage.init_from: outputs/runs/w2_align is no run, and no folder with one that passed; train the stage before "
        "it, as `make align` does, or name a run of it"
    )


def test_what_is_tested_is_not_trained_on(place):
    (manifest,) = place.glob("data/audio_instructions/*/train_*.jsonl")
    clip = next(clip for clip in read_manifest(manifest) if labels_of(clip).get("sentence"))
    sentence = labels_of(clip)["sentence"][0]
    row = {"id": "test-1", "audio": "a.flac", "text": "-", "sha256": "0" * 64}
    row["labels"] = [f"sentence:{sentence.upper()}"]
    (place / FROZEN).parent.mkdir()
    (place / FROZEN).write_text(json.dumps(row))
    try:
        shared = f"{clip.id} shares {normalised(sentence)!r} with question test-1 of {FROZEN}"
        assert refused(place).startswith(f"dataset: {shared}, on which models are tested")
    finally:
        shutil.rmtree((place / FROZEN).parent)
