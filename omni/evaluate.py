"""python -m omni.evaluate: what a run can do, by a suite of tests.

python -m omni.evaluate run=outputs/latest suite=hearing              does it hear? on held-out clips of its data set
python -m omni.evaluate run=outputs/latest suite=hearing split=val    on another split
python -m omni.evaluate run=outputs/latest/checkpoints/step_000500    as it was at an earlier step
python -m omni.evaluate run=outputs/latest suite=audiobench_mini      does it answer? 200 frozen questions about sounds
python -m omni.evaluate run=outputs/latest suite=audiobench_mini split=val         200 others, to tune on
python -m omni.evaluate run=outputs/latest suite=audiobench_mini split=extended    2,000 others, for a single category

Prints a short report whose first word is HEARS or DEAF, PASS or FAIL, and writes a long one with pictures into
RUN/hearing or RUN/audiobench_mini; that of a checkpoint that was named into a folder of its own there. The exit status
is 0 either way: a verdict is no failure, and what a run must reach is for its stage's gate to say.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, OmegaConf

from omni.config.arguments import run
from omni.config.check import ConfigError, components
from omni.config.paths import conf_dir
from omni.config.render import load
from omni.config.schema import Device, Precision
from omni.config.trained import (
    Trained,
    find_checkpoint,
    held_out_clips,
    load_trained,
    question_clips,
    trained_questions,
)
from omni.record.audiobench import log_test_use, write_audiobench
from omni.record.audiobench_text import render_short as render_answers
from omni.record.hearing import read_looks, write_hearing
from omni.record.hearing_text import render_short
from omni.record.metrics import NAME

if TYPE_CHECKING:
    from omni.data.cached import CachedClips


TEST_USES = Path("outputs/audiobench_mini_test_uses.jsonl")


class Suite(Enum):
    hearing = "hearing"
    audiobench_mini = "audiobench_mini"


@dataclass
class Evaluate:
    """What the command takes; see the module."""

    run: str = MISSING
    suite: Suite = Suite.hearing
    split: str = "test"
    device: Device = Device.auto
    precision: Precision = Precision.auto


def main() -> None:
    """The command."""
    run(evaluate, Evaluate, doc=__doc__)


def evaluate(asked: Evaluate) -> None:
    """Run a suite on a run, print and write what it finds."""
    if asked.suite is Suite.hearing or asked.split != "test":
        check_data(asked.run)
    trained = load_trained(asked.run, device=asked.device.name, precision=asked.precision.name)
    clips = (question_clips if asked.suite is Suite.audiobench_mini else held_out_clips)(trained, asked.split)
    for _ in clips.encode_ahead():
        pass
    (answer if asked.suite is Suite.audiobench_mini else hear)(trained, clips, asked)


def check_data(source: str) -> None:
    """Raise ConfigError where nothing is here of the data that a run was trained on; without torch, whose import takes
    seconds. (Of several parts, one may be enough.)"""
    if (checkpoint := find_checkpoint(Path(source).expanduser())) is None:
        return
    nodes = [(key, node) for key, node in components(load(checkpoint.parents[1])) if key.startswith("dataset")]
    places = {key: place for key, node in nodes if (place := node.get("path") or node.get("folder"))}
    if any(Path(place).expanduser().exists() for place in places.values()):
        return
    options = {OmegaConf.load(file).get("_target_"): file.stem for file in (conf_dir() / "dataset").glob("*.yaml")}
    lines = [
        f"{key}: {places[key]} is not in {Path.cwd()}; run `python -m omni.prepare dataset={options[node._target_]}`"
        for key, node in nodes
        if key in places and node._target_ in options
    ]
    if lines:
        raise ConfigError("\n".join(lines))


def hear(trained: Trained, clips: "CachedClips", asked: Evaluate) -> None:
    """Does it hear?"""
    from omni.evaluation.report import hearing_report

    examples = [clips[i] for i in range(len(clips))]
    report = hearing_report(trained.model, examples, trained.tokenizer)
    said = [clips.dataset.clips[i].text for i in clips.clips]
    folder, step = trained.checkpoint.resolve().parents[1], step_of(trained)
    figures, files = write_hearing(
        results(trained, asked),
        {
            "run": f"{folder.parent.name}/{folder.name}",
            "step": step,
            "split": asked.split,
            **report.figures,
            **of_whisper(clips, said),
            "explained": report.plane.explained.tolist(),
        },
        [{"id": e.id, "said": s, "heard": h} for e, s, h in zip(examples, said, report.heard, strict=True)],
        looks=read_looks(folder / NAME, until=step),
        plane=(report.plane.soft, report.plane.text),
        loudness=(report.loudness.soft, report.loudness.text),
    )
    print(render_short(figures))
    print(f"\n{', '.join(file.name for file in files)} in {files[0].parent}")


def answer(trained: Trained, clips: "CachedClips", asked: Evaluate) -> None:
    """Does it answer?"""
    from omni.evaluation.audiobench import evaluate_questions
    from omni.evaluation.conditions import project, silences
    from omni.instructions.questions import question_of

    model, examples = trained.model, [clips[i] for i in range(len(clips))]
    result = evaluate_questions(
        model.backbone,
        [question_of(clips.dataset.clips[i]) for i in clips.clips],
        project(model, examples),
        project(model, silences(model.encoder, examples)),
        trained.tokenizer,
        training=trained_questions(trained),
    )
    run = trained.checkpoint.resolve().parents[1]
    told = {"run": f"{run.parent.name}/{run.name}", "step": step_of(trained), "split": asked.split}
    if asked.split == "test":
        score = result.figures["matched"]["value"]
        told["uses"] = log_test_use(TEST_USES, run=told["run"], step=told["step"], score=score)
    figures, files = write_audiobench(results(trained, asked), {**told, **result.figures}, result.rows)
    print(render_answers(figures))
    if asked.split == "test":
        print(f"\nlook {told['uses']} at these questions from here; tune on split=val")
    print(f"\n{', '.join(file.name for file in files)} in {files[0].parent}")


def step_of(trained: Trained) -> int:
    return int(trained.checkpoint.name.removeprefix("step_"))


def results(trained: Trained, asked: Evaluate) -> Path:
    """Where a suite's files go: in the run, and one floor lower what is not of its newest checkpoint or of test."""
    named = Path(asked.run).parent.name == "checkpoints"
    folder = trained.checkpoint.resolve().parents[1] / asked.suite.name / (trained.checkpoint.name if named else "")
    return folder / (asked.split if asked.suite is Suite.audiobench_mini and asked.split != "test" else "")


def of_whisper(clips: "CachedClips", said: list[str]) -> dict[str, Any]:
    """What Whisper's own decoder got wrong on the same clips, where the data set knows what it understood; its texts
    end where ours do."""
    from omni.evaluation.transcription import error_rates, most

    if not hasattr(clips.dataset, "whisper"):
        return {}
    lasting = [clips.dataset.clips[i].seconds for i in clips.clips]
    heard = [clips.dataset.whisper[i][: most(seconds)] for i, seconds in zip(clips.clips, lasting, strict=True)]
    own = error_rates(said, heard)
    return {"whisper_wer": own.wer, "whisper_cer": own.cer}


if __name__ == "__main__":
    main()
