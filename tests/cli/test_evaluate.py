"""The command, in this process, on a tiny run that learned five sounds by heart, and on the same run made deaf."""

import json
import shutil
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from omni.audio.tones import write_smoke_clips
from omni.config.arguments import read_arguments
from omni.config.compose import compose
from omni.config.trained import load_trained
from omni.errors import OmniError
from omni.evaluate import Evaluate, evaluate, of_whisper
from omni.evaluation.conditions import Losses
from omni.record.metrics import read_metrics
from omni.train import train as train_one
from omni.training.distributed import World

TINY = ["encoder=whisper_random", "backbone=gpt_d2", "logger=[csv]", "device=cpu", "stage.gate=null"]
HEARING = ["dataset=manifest", "dataset.path=clips/all.jsonl", "features=features", "stage.eval_every=20"]
LONG = ["stage.max_steps=80", "stage.lr=4e-3", "stage.checkpoint_every=25", "stage.checkpoints_kept=99"]
CONDITIONS = ["matched", "shuffled", "silence", "none", "transcript"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(*overrides: str) -> Path:
    """What `omni.train` does here; returns the run."""
    cfg = compose([*overrides])
    folder = Path("outputs/runs") / cfg.stage.name / "first"
    train_one(World(), cfg, folder, [])
    return folder


def say(*words: str) -> str:
    """What `omni.evaluate` says here."""
    with redirect_stdout(StringIO()) as said:
        evaluate(read_arguments(Evaluate, [*words, "device=cpu"], doc=""))
    return said.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a run that was trained on five sounds, looked at on the same, and evaluated on them again: what it
    has learned by heart it must be found to hear."""
    folder = tmp_path_factory.mktemp("hearing")
    write_smoke_clips(folder / "clips")
    rows = [json.loads(line) for line in (folder / "clips" / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"id": f"{row['id']} {split}", "split": split} for split in ("train", "val", "test") for row in rows]
    (folder / "clips" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with chdir(folder):
        train(*TINY, *HEARING, *LONG)
        (folder / "said.txt").write_text(say("run=outputs/latest"))
    return folder


@pytest.fixture(scope="module")
def trained(place) -> Path:
    return (place / "outputs" / "latest").resolve()


@pytest.fixture(scope="module")
def figures(trained) -> dict:
    return json.loads((trained / "hearing" / "test.json").read_text())


@pytest.fixture
def copy(place, trained, tmp_path, monkeypatch) -> Path:
    """The run, to be spoilt; in the folder that its paths start at."""
    monkeypatch.chdir(place)
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("hearing"))


def first_line(asked: Evaluate, capsys) -> str:
    evaluate(asked)
    return capsys.readouterr().out.splitlines()[0]


def test_a_model_that_hears_is_said_to_hear(place, trained, figures):
    said = (place / "said.txt").read_text()
    assert said.startswith("HEARS  audio gain ")
    assert said.splitlines()[0].endswith(
        f"interval {figures['audio_gain']['low']:.3g} to {figures['audio_gain']['high']:.3g}"
    )
    assert said.splitlines()[-1].endswith(f" in {trained / 'hearing'}")
    assert figures["hears"] is True
    assert 0 < figures["audio_gain"]["low"] < figures["audio_gain"]["value"] < figures["audio_gain"]["high"]
    losses = figures["losses"]
    assert list(losses) == CONDITIONS
    assert min(losses.values()) == losses["matched"]
    assert losses["shuffled"] - losses["matched"] == pytest.approx(figures["audio_gain"]["value"])


def test_what_is_told_is_what_was_found(trained, figures):
    text = (trained / "hearing" / "test.md").read_text()
    assert "**It hears**" in text
    for loss in figures["losses"].values():
        assert f" {loss:.3f} |" in text
    found = figures["retrieval"]["to_text"]
    assert (
        f"| a clip's transcript | {found['recall_1']:.1%} | {found['recall_5']:.1%} | {found['median_rank']:.3g} |"
        in text
    )
    assert f"| this model | {figures['wer']:.1%} | {figures['cer']:.1%} |" in text
    assert figures["retrieval"]["chance"]["recall_1"] == 0.2
    lines = [json.loads(line) for line in (trained / "hearing" / "test.jsonl").read_text().splitlines()]
    assert lines[0]["said"] == "a low steady tone"
    assert all(f"| {line['said']} |" in text for line in lines)
    for name in ("conditions", "test_plane", "test_rms"):
        assert f"({name}.png)" in text
        assert (trained / "hearing" / f"{name}.png").stat().st_size > 10_000
        assert (trained / "hearing" / f"{name}.csv").read_text().count("\n") > 4


def test_the_looks_of_the_run_say_when_it_began_to_hear(trained, figures):
    looks = read_metrics(trained / "metrics.csv")
    lows = looks["audio_gain_low"]
    assert figures["looks"] == [20, 40, 60, 80] == [step for step, _ in lows]
    assert figures["emergence_step"] == next(step for step, low in lows if low > 0)
    # Looked at on the same sounds: the last look and the report agree.
    for condition, loss in figures["losses"].items():
        assert looks[f"loss_{condition}"][-1][1] == pytest.approx(loss, rel=1e-4)
    assert looks["audio_gain"][-1][1] == pytest.approx(figures["audio_gain"]["value"], rel=1e-3)
    table = (trained / "hearing" / "conditions.csv").read_text().splitlines()
    assert table[0].split(",")[:6] == ["step", *(f"loss_{condition}" for condition in CONDITIONS)]
    assert [line.split(",")[0] for line in table[1:]] == ["20", "40", "60", "80"]


def test_a_model_whose_soft_tokens_are_zeroed_is_deaf(copy, capsys):
    newest = copy / "checkpoints" / "step_000080"
    (weights,) = newest.glob("*.safetensors")
    tensors = load_file(weights)
    silenced = [name for name in tensors if "fc2" in name]
    assert silenced
    save_file(tensors | {name: torch.zeros_like(tensors[name]) for name in silenced}, weights)
    assert first_line(Evaluate(run=str(copy)), capsys).startswith("DEAF  audio gain ")
    figures = json.loads((copy / "hearing" / "test.json").read_text())
    assert figures["hears"] is False
    # The sounds are equally long, so nothing at all is left to hear.
    assert figures["audio_gain"] == {"value": 0, "low": 0, "high": 0}
    assert "**It is deaf**" in (copy / "hearing" / "test.md").read_text()


def test_a_gain_that_may_be_luck_is_deaf(copy, capsys, monkeypatch):
    shuffled, matched = np.array([9.0, 9, 9, 3, 3]), np.array([3.0, 3, 3, 9, 9])  # three of five clips speak for it
    nats = dict.fromkeys(CONDITIONS, matched) | {"shuffled": shuffled}
    lucky = Losses(nats, tokens=np.full(5, 3))
    monkeypatch.setattr("omni.evaluation.report.five_losses", lambda *_, **__: lucky)
    said = first_line(Evaluate(run=str(copy)), capsys)
    gain = lucky.gain()
    assert gain.low < 0 < gain.value
    assert said == f"DEAF  audio gain 0.4 nats a token, 95 % interval {gain.low:.3g} to {gain.high:.3g}"


def test_whispers_own_texts_end_where_ours_do():
    clips = [SimpleNamespace(seconds=1.0), SimpleNamespace(seconds=0.2)]
    dataset = SimpleNamespace(clips=clips, whisper=["good day " + "and so on " * 9, "yes"])
    found = of_whisper(SimpleNamespace(dataset=dataset, clips=[0, 1]), ["good day", "yes"])
    assert found["whisper_wer"] == pytest.approx(5 / 3)  # "good day and so on and so" is what a second holds
    assert of_whisper(SimpleNamespace(dataset=SimpleNamespace(clips=clips)), ["a", "b"]) == {}


def test_transcripts_end_where_speech_would(copy, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "omni.evaluation.report.transcribe",
        lambda *given, seconds: asked.extend(seconds) or ["a low steady tone" + " and on" * 40] * len(seconds),
    )
    assert "5 of 5 cut off" in capsys_of(copy, capsys)
    assert asked == [5.0] * 5


def capsys_of(run: Path, capsys) -> str:
    evaluate(Evaluate(run=str(run)))
    return capsys.readouterr().out


def test_an_earlier_checkpoint_is_reported_apart_and_knows_no_later_looks(copy, capsys):
    said = first_line(Evaluate(run=str(copy / "checkpoints" / "step_000025"), split="val"), capsys)
    assert said.split()[0] in ("HEARS", "DEAF")
    (folder,) = (copy / "hearing").iterdir()
    assert folder.name == "step_000025"
    figures = json.loads((folder / "val.json").read_text())
    assert (figures["step"], figures["split"], figures["looks"]) == (25, "val", [20])


def test_a_run_nobody_looked_at_is_reported_without_its_looks(copy, capsys):
    (copy / "metrics.csv").write_text("step,loss\n1,5.0\n80,0.1\n")
    assert first_line(Evaluate(run=str(copy)), capsys).startswith("HEARS")
    assert not (copy / "hearing" / "conditions.png").exists()
    assert "is not known: nothing looked at it" in (copy / "hearing" / "test.md").read_text()


def test_a_run_with_the_looks_of_old_is_drawn_with_what_there_is(copy, capsys):
    names = ["step", "loss", "loss_matched", "loss_shuffled", "audio_gain", "audio_gain_low", "audio_gain_high"]
    (copy / "metrics.csv").write_text(f"{','.join(names)}\n40,2.0,4.0,4.1,0.1,-0.1,0.2\n80,1.0,2.0,4.0,2.0,1.8,2.2\n")
    evaluate(Evaluate(run=str(copy)))
    assert "first lay above zero at step 80, not yet at 40" in capsys.readouterr().out
    assert (copy / "hearing" / "conditions.csv").read_text().startswith("step,loss_matched,loss_shuffled,audio_gain,")


def test_what_cannot_be_evaluated_is_said(copy, tmp_path):
    with pytest.raises(OmniError, match=r"split 'tset' has no clips.*train \(5\).*Did you mean 'test'"):
        evaluate(Evaluate(run=str(copy), split="tset"))
    with pytest.raises(OmniError, match="dataset: test has no row with choices; suite=hearing takes the others"):
        say(f"run={copy}", "suite=questions")
    with pytest.raises(OmniError, match="audiobench_mini has sounds of its own"):
        say(f"run={copy}", "suite=audiobench_mini", "dataset=manifest", "dataset.path=clips/manifest.jsonl")
    with pytest.raises(OmniError, match=r"dataset.path: a value is missing"):
        say(f"run={copy}", "dataset=manifest")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(OmniError, match="has no checkpoint yet"):
        evaluate(Evaluate(run=str(copy)))


def test_a_run_of_text_alone_has_no_ears(place, monkeypatch):
    monkeypatch.chdir(place)
    Path("text.txt").write_text("\n\n".join(f"The sun of {i % 97} is near the moon of {i}." for i in range(9000)))
    words = ["stage=w0_base", "dataset=text", "dataset.path=text.txt", "backbone=gpt_d2", "backbone.sequence_len=64"]
    words += ["backbone.tokenizer=bytes", "backbone.vocab_size=257", "stage.max_steps=1", "stage.accumulate=1"]
    words += ["stage.batch_size=2", "stage.eval_tokens=256", "stage.gate=null", "logger=[csv]", "device=cpu"]
    base = train(*words)
    assert load_trained(str(base)).model.encoder is None
    with pytest.raises(OmniError, match="is of text alone and has no ears"):
        say(f"run={base}", "dataset=manifest", "dataset.path=clips/manifest.jsonl")
    with pytest.raises(OmniError, match="gives text, and this stage hears"):
        say(f"run={base}", "dataset=text", "dataset.path=text.txt")


# --- sounds of one's own


def write_own(rows: list[dict], name: str = "own.jsonl") -> str:
    Path(name).write_text("\n".join(map(json.dumps, rows)))
    return f"dataset.path={name}"


@pytest.fixture
def five(copy) -> list[dict]:
    """The sounds that the run has learned, as a manifest of somebody's own has them."""
    rows = [json.loads(line) for line in Path("clips/manifest.jsonl").read_text().splitlines()]
    return [{"audio": f"clips/{row['audio']}", "text": row["text"]} for row in rows]


def figures_in(folder: Path, name: str = "own") -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_run_is_asked_about_sounds_of_ones_own(copy, five, figures):
    said = say(f"run={copy}", "dataset=manifest", write_own(five))
    assert said.startswith("HEARS")
    assert "5 clips of own\n" in said
    found = figures_in(copy / "hearing")  # no row names a split, so all count
    assert (found["split"], found["clips"], found["left_out"], found["step"]) == ("own", 5, 0, 80)
    assert found["losses"] == pytest.approx(figures["losses"], rel=1e-5)
    assert "(own_plane.png)" in (copy / "hearing" / "own.md").read_text()


def test_what_cannot_be_read_or_does_not_fit_is_left_out_and_counted(copy, five):
    soundfile.write("clips/long.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 16_000 * 20), 16_000)
    Path("clips/damaged.wav").write_bytes(b"no sound" * 50)
    long, damaged = {"audio": "clips/long.wav", "text": "x " * 1200}, {"audio": "clips/damaged.wav", "text": "a word"}
    said = say(f"run={copy}", "dataset=manifest", write_own([*five, long, damaged]))
    assert said.startswith("HEARS")
    assert "5 clips of own, 2 left out\n" in said
    assert "clip 'long': " in said.partition("\n2 left out\n")[2]
    assert "clips/damaged.wav: is not" in said
    assert figures_in(copy / "hearing")["left_out"] == 2
    assert "5 clips of own, 2 left out." in (copy / "hearing" / "own.md").read_text()
    with pytest.raises(OmniError, match=r"none of its 2 clips can be asked about:\n.*\n.*clip 'long'"):
        say(f"run={copy}", "dataset=manifest", write_own([damaged, long]))


def test_the_split_of_a_manifest_is_test_or_the_one_that_is_asked_for(copy, five):
    rows = [row | {"split": split} for row, split in zip(five, ["test", "test", "dev", "dev", "dev"], strict=True)]
    path = write_own(rows)
    assert "2 clips of own_test" in say(f"run={copy}", "dataset=manifest", path)
    for words in (["split=dev"], ["dataset.split=dev"]):
        assert "3 clips of own_dev" in say(f"run={copy}", "dataset=manifest", path, *words)
    assert {"own_test.json", "own_dev.json"} <= {file.name for file in (copy / "hearing").iterdir()}
    with pytest.raises(OmniError, match=r"split 'val' has no clips. The manifest has: dev \(3\), test \(2\)"):
        say(f"run={copy}", "dataset=manifest", path, "split=val")


def test_a_folder_that_was_exported_stays_as_it_is_and_needs_no_cache(copy, five):
    (copy / "metrics.csv").unlink()
    config = (copy / "config.yaml").read_text().replace("features: features", "features: null")
    (copy / "config.yaml").write_text(config.replace("eval_every: 20", "eval_every: null"))
    before = {path: path.stat().st_mtime_ns for path in (*copy.rglob("*"), *Path("features").rglob("*"))}
    said = say(f"run={copy}", "dataset=manifest", write_own(five))
    assert said.splitlines()[-1].endswith(" in outputs/evaluated/run/hearing")
    assert figures_in(Path("outputs/evaluated/run/hearing"))["clips"] == 5
    assert {path: path.stat().st_mtime_ns for path in (*copy.rglob("*"), *Path("features").rglob("*"))} == before
