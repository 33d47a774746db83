"""W3 in small, in this process: questions are made, adapters trained, the run gone on with, asked and exported."""

import json
import logging
import shutil
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni.audio.tones import write_smoke_clips
from omni.config.arguments import read_arguments
from omni.config.build import build
from omni.config.compose import compose
from omni.config.fetch import prepare
from omni.config.render import pinned
from omni.data.manifest import read_manifest
from omni.errors import OmniError
from omni.evaluate import TEST_USES, Evaluate, Suite, evaluate
from omni.export import Export, Format, export
from omni.instructions.dataset import AudioInstructions
from omni.instructions.questions import FROZEN, labels_of, normalised
from omni.instructions.writing import make_piece
from omni.record.metrics import read_metrics
from omni.train import train as train_one
from omni.training.distributed import World

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
    *("stage.gate.choice_above_chance=-1", "stage.gate.audio_gain_low=-99"),
    *("dataset.parts.transcripts=null", "+dataset.parts.tones._target_=omni.data.clips.ManifestClips"),
    *("+dataset.parts.tones.path=clips/all.jsonl", "+dataset.weights={tones:2}"),
]


def of_instructions(key: str) -> list[str]:
    """The overrides of the data set of questions, where it stands at `key`."""
    return [f"{key}.{name}={'null' if value is None else value}".replace("'", "") for name, value in MADE.items()]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(*overrides: str, folder: Path | None = None) -> Path:
    """What `omni.train` does here; returns the run."""
    cfg = compose([*overrides])
    folder = folder or Path("outputs/runs") / cfg.stage.name / "first"
    train_one(World(), cfg, folder, [])
    return folder


def say(*words: str) -> str:
    """What `omni.evaluate` says here."""
    with redirect_stdout(StringIO()) as said:
        evaluate(read_arguments(Evaluate, [*words, "device=cpu"], doc=""))
    return said.getvalue()


def refused(*overrides: str) -> str:
    """Why W3 does not train so."""
    with pytest.raises(OmniError) as caught:
        build(pinned(compose([*W3, *of_instructions("dataset.parts.instructions"), *overrides])))
    return str(caught.value)


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
        prepare(compose(["dataset=audio_instructions", "device=cpu", *of_instructions("dataset")]))
        train(*ALIGNED)
        train(*W3, *of_instructions("dataset.parts.instructions"))
    return folder


@pytest.fixture(autouse=True)
def there(place, monkeypatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def aligned(place) -> Path:
    return place / "outputs/runs/w1_smoke/first"


@pytest.fixture(scope="module")
def trained(place) -> Path:
    return place / "outputs/runs/w3_lora/first"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step_000004" / "model.safetensors")


def test_questions_are_made_and_said_to_be(place):
    (manifest,) = place.glob("data/audio_instructions/*/train_*.jsonl")
    clips = read_manifest(manifest)
    assert len({clip.sha256 for clip in clips}) == ITEMS
    assert len(clips) >= 4 * ITEMS
    assert all(clip.question and clip.answer for clip in clips)
    assert {clip.answer in (clip.choices or [clip.answer]) for clip in clips} == {True}


def test_adapters_and_ears_are_trained_from_the_newest_run_that_passed(place, trained, aligned):
    start = aligned
    assert f"init_from: {start.relative_to(place)}\n" in (trained / "config.yaml").read_text()
    told = json.loads((trained / "run.json").read_text())
    assert [each["metric"] for each in told["gate"]] == ["choice_above_chance", "audio_gain_low"]
    assert told["status"] == "passed"
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
    above = [value for _, value in metrics["choice_above_chance"]]
    assert above == [value - 0.25 for _, value in metrics["choice_accuracy"]]


def test_a_run_goes_on_to_the_bit_without_what_it_started_from(place, trained, caplog):
    caplog.set_level(logging.INFO, logger="omni.train")
    again = shutil.copytree(trained, trained.parent / "again")
    shutil.rmtree(again / "checkpoints" / "step_000004")
    start = (place / "outputs" / "runs" / "w1_smoke").rename(place / "elsewhere")
    try:
        train(f"resume={again}", folder=again)
        assert "going on after step 2" in caplog.messages
        assert (again / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()
        ours, theirs = weights(again), weights(trained)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    finally:
        start.rename(place / "outputs" / "runs" / "w1_smoke")
        shutil.rmtree(again)


def test_a_run_is_asked_and_its_adapters_are_exported(place, trained):
    said = say(f"run={trained}", "suite=audiobench_mini", "split=val")
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
    export(Export(run=str(trained), to="adapter", format=Format.adapter))
    assert {path.name for path in (place / "adapter").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    assert all(".lora_" in name for name in load_file(place / "adapter" / "adapter_model.safetensors"))


def test_a_run_without_questions_is_not_asked_any(aligned):
    asked = {"run": str(aligned), "suite": Suite.audiobench_mini}
    with pytest.raises(OmniError, match="has no questions: its run was not trained on any"):
        evaluate(Evaluate(**asked, split="val"))
    with pytest.raises(OmniError, match="split: train is none of test, val, extended"):
        evaluate(Evaluate(**asked, split="train"))
    with pytest.raises(OmniError, match=r"test\.jsonl: is not there; start in omni's own folder"):
        evaluate(Evaluate(**asked))


def asked_about(*choices: list[str], **more) -> list[dict]:
    """Questions about the tones, one of them with each of these choices in turn."""
    rows = [json.loads(line) for line in Path("clips/manifest.jsonl").read_text().splitlines()]
    return [
        {"id": f"q{i}", "audio": f"clips/{row['audio']}", "text": row["text"], "question": "What is it?"}
        | {"choices": own, "answer": own[0]}
        | more
        for i, own in enumerate(choices)
        for row in (rows[i % len(rows)],)
    ]


@pytest.mark.parametrize("stage", ["aligned", "trained"])
def test_any_run_is_asked_ones_own_questions_and_listens_to_ones_own_transcripts(stage, request):
    run = request.getfixturevalue(stage)
    two, three, eight = ["high", "low"], ["high", "low", "noise"], list("abcdefgh")
    rows = asked_about(two, three, eight, two, three, two, two)  # about five sounds
    rows.append(rows[0] | {"id": "endless", "question": "What is it? " * 200})
    rows.append(rows[0] | {"id": "free", "choices": None})
    rows += [{"audio": row["audio"], "text": row["text"]} for row in rows[:5]]
    Path("own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = ["dataset=manifest", "dataset.path=own.jsonl"]
    said = say(f"run={run}", "suite=questions", *own)
    chance = (4 / 2 + 2 / 3 + 1 / 8) / 7
    assert said.split()[0] in ("PASS", "FAIL")
    assert f"chance {chance:.0%}" in said.splitlines()[0]
    assert "7 questions of own, 1 left out" in said
    assert "question 'endless': " in said
    figures = json.loads((run / "questions/own.json").read_text())
    assert figures["chance"] == pytest.approx(chance)
    assert (figures["name"], figures["questions"], figures["left_out"]) == ("Questions of own", 7, 1)
    assert figures["dataset"] == {"dataset": "manifest", "dataset.path": "own.jsonl"}
    assert figures["controls"]["probe"] is None  # no training question tells what these numbers mean
    lines = [json.loads(line) for line in (run / "questions/own.jsonl").read_text().splitlines()]
    assert [len(line["probabilities"]) for line in lines] == [2, 3, 8, 2, 3, 2, 2]
    assert "AudioBench" not in (run / "questions/own.md").read_text()
    assert "5 clips of own\n" in say(f"run={run}", *own)


def test_rows_that_a_suite_has_no_use_for_name_the_other(trained):
    Path("asked.jsonl").write_text("\n".join(map(json.dumps, asked_about(["high", "low"]))))
    own = ["dataset=manifest", "dataset.path=asked.jsonl"]
    with pytest.raises(OmniError, match="asked has no row without a question; suite=questions takes the others"):
        say(f"run={trained}", *own)
    Path("asked.jsonl").write_text("\n".join(map(json.dumps, asked_about(["high", "low"], ["high"]))))
    with pytest.raises(OmniError, match="'q1': has 1 choices, needs 2 to 8"):
        say(f"run={trained}", "suite=questions", *own)


def test_held_out_questions_of_its_own_data_and_each_look_at_the_frozen_ones(place, trained):
    said = say(f"run={trained}", "suite=questions", "split=val")
    assert f"{ITEMS} questions of val" in said
    figures = json.loads((trained / "questions/val.json").read_text())
    mini = json.loads((trained / "audiobench_mini/val/audiobench_mini.json").read_text())
    assert figures["matched"] == mini["matched"]
    assert not TEST_USES.exists()
    FROZEN.parent.mkdir()
    try:
        rows = asked_about(*[["high", "low", "noise", "a voice"]] * 4)
        FROZEN.write_text("\n".join(json.dumps(row | {"audio": str(place / row["audio"])}) for row in rows))
        assert "look 1 at these questions" in say(f"run={trained}", "suite=audiobench_mini")
        assert "look 2 at these questions" in say(f"run={trained}", "suite=audiobench_mini")
        assert len(TEST_USES.read_text().splitlines()) == 2
    finally:
        shutil.rmtree(FROZEN.parent)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rank=200", "rank: 200 is more than 128, the smaller side of transformer.h.{0-1}."),
        ("targets=[transformer.z.*]", "targets: 'transformer.z.*' matches no matrix; there are"),
    ],
)
def test_adapters_that_do_not_fit_say_why(override, told):
    assert refused(f"stage.lora.{override}").startswith(f"stage.lora.{told}")


def test_nothing_to_start_from_says_what_to_train_first():
    assert refused("stage.init_from=outputs/runs/w2_align") == (
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
        assert refused().startswith(f"dataset: {shared}, on which models are tested")
    finally:
        shutil.rmtree((place / FROZEN).parent)
