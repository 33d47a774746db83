"""python -m omni.evaluate: what a run can do, by a suite of tests.

python -m omni.evaluate run=outputs/latest suite=hearing              does it hear? on held-out clips of its data set
python -m omni.evaluate run=outputs/latest suite=hearing split=val    on another split
python -m omni.evaluate run=outputs/latest/checkpoints/step_000500    as it was at an earlier step
python -m omni.evaluate run=outputs/latest suite=questions            does it answer? held-out questions with choices
python -m omni.evaluate run=outputs/latest suite=audiobench_mini      200 frozen questions about sounds
python -m omni.evaluate run=outputs/latest suite=audiobench_mini split=val         200 others, to tune on
python -m omni.evaluate run=outputs/latest suite=audiobench_mini split=extended    2,000 others, for a single category
python -m omni.evaluate run=outputs/latest trust=my_ear               a run with a class of your own, of my_ear.py

On sounds of one's own, or on another data set, in the words of omni.train; `run` may be an exported folder:

python -m omni.evaluate run=data/hearing suite=hearing dataset=manifest dataset.path=my.jsonl
python -m omni.evaluate run=data/hearing suite=questions dataset=manifest dataset.path=my.jsonl

Of a data set that is named the split "test" is taken, and all rows where it has none. What cannot be read or does not
fit the model's context is left out and counted.

Prints a short report whose first word is HEARS or DEAF, PASS or FAIL, and writes a long one with pictures into
RUN/hearing, RUN/questions or RUN/audiobench_mini; that of a checkpoint that was named into a folder of its own there,
and that of an exported folder, which stays as it is, into outputs/evaluated/NAME. The exit status is 0 either way: a
verdict is no failure, and what a run must reach is for its stage's gate to say.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    benchmark,
    encoded,
    find_checkpoint,
    held_out,
    load_trained,
    named_data,
    trained_questions,
)
from omni.data.script import asks
from omni.errors import OmniError
from omni.record.audiobench import log_test_use, write_audiobench
from omni.record.audiobench_text import render_short as render_answers
from omni.record.facts import SKIPPED_TOLD
from omni.record.folder import refuse_links
from omni.record.hearing import read_looks, write_hearing
from omni.record.hearing_text import render_short
from omni.record.metrics import NAME

if TYPE_CHECKING:
    from omni.data.cached import CachedClips


TEST_USES = Path("outputs/audiobench_mini_test_uses.jsonl")
EVALUATED = Path("outputs/evaluated")
"""Reports on folders that are no runs."""


class Suite(Enum):
    hearing = "hearing"
    questions = "questions"
    audiobench_mini = "audiobench_mini"


@dataclass
class Evaluate:
    """What the command takes; see the module. dataset: the overrides that name one, by their keys."""

    run: str = MISSING
    suite: Suite = Suite.hearing
    dataset: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    device: Device = Device.auto
    precision: Precision = Precision.auto
    trust: list[str] = field(default_factory=list)


def main() -> None:
    """The command."""
    run(evaluate, Evaluate, doc=__doc__)


def evaluate(asked: Evaluate) -> None:
    """Run a suite on a run, print and write what it finds."""
    hearing, mini = asked.suite is Suite.hearing, asked.suite is Suite.audiobench_mini
    if mini and asked.dataset:
        raise ConfigError("dataset: audiobench_mini has sounds of its own; suite=questions asks about those of another")
    if asked.dataset:
        overrides = [f"{key}={value}" for key, value in asked.dataset.items()]
        dataset, split = named_data(overrides, asked.split or asked.dataset.get("dataset.split"))
        split = "_".join(filter(None, [name_of(asked.dataset), split]))  # which names the files
    elif not mini or asked.split not in (None, "test"):
        check_data(asked.run, asked.trust)
    trained = load_trained(asked.run, device=asked.device.name, precision=asked.precision.name, trust=asked.trust)
    refuse_links(folder_of(trained))
    if not asked.dataset:
        split = asked.split or "test"
        dataset = (benchmark if mini else held_out)(trained, split)
    with tempfile.TemporaryDirectory() as memory:
        only = (lambda clip: not asks(clip)) if hearing else (lambda clip: bool(clip.choices))
        clips = encoded(trained, dataset, only, memory=memory, own=not asked.dataset)
        if not len(clips):
            wanted, other = ("row without a question", "questions") if hearing else ("row with choices", "hearing")
            raise OmniError(f"dataset: {split} has no {wanted}; suite={other} takes the others")
        if asked.dataset:  # all there is may be worth to be known; of what a run was trained with most is there
            clips.most_skipped = 1.0
        (hear if hearing else answer)(trained, clips, asked, split)
        if clips.skipped:
            reasons = list(clips.skipped.values())
            print("\n  ".join([f"\n{len(reasons):,} left out", *reasons[:SKIPPED_TOLD]]))


def check_data(source: str, trust: Sequence[str] = ()) -> None:
    """Raise ConfigError where nothing is here of the data that a run was trained on; without torch, whose import takes
    seconds. (Of several parts, one may be enough.)"""
    if (checkpoint := find_checkpoint(Path(source).expanduser())) is None:
        return
    nodes = [(key, node) for key, node in components(load(checkpoint.parents[1], trust)) if key.startswith("dataset")]
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


def hear(trained: Trained, clips: "CachedClips", asked: Evaluate, split: str) -> None:
    """Does it hear?"""
    from omni.evaluation.report import hearing_report

    def refusal(clip: int) -> str | None:
        name, frames, tokens = clips.measured(clip)
        try:
            trained.model.check_fits(name, frames=frames, tokens=tokens)
        except OmniError as error:
            return str(error)

    listen(clips, refusal)
    examples = [clips[i] for i in range(len(clips))]
    report = hearing_report(trained.model, examples, trained.tokenizer)
    said = [clips.dataset.clips[i].text for i in clips.clips]
    step = step_of(trained)
    figures, files = write_hearing(
        results(trained, asked),
        {
            **source_of(trained, clips, asked, split),
            **report.figures,
            **of_whisper(clips, said),
            "explained": report.plane.explained.tolist(),
        },
        [{"id": e.id, "said": s, "heard": h} for e, s, h in zip(examples, said, report.heard, strict=True)],
        looks={} if step is None else read_looks(folder_of(trained) / NAME, until=step),
        plane=(report.plane.soft, report.plane.text),
        loudness=(report.loudness.soft, report.loudness.text),
    )
    print(render_short(figures))
    print(f"\n{trained.arithmetic}\n{', '.join(file.name for file in files)} in {files[0].parent}")


def answer(trained: Trained, clips: "CachedClips", asked: Evaluate, split: str) -> None:
    """Does it answer?"""
    from omni.evaluation.audiobench import evaluate_questions, room
    from omni.evaluation.choices import check
    from omni.evaluation.conditions import project, silences
    from omni.instructions.questions import question_of

    model, mini = trained.model, asked.suite is Suite.audiobench_mini
    questions = {clip: question_of(clips.dataset.clips[clip]) for clip in clips.clips}
    check([*questions.values()])

    def refusal(clip: int) -> str | None:
        soft = model.soft_length(clips.measured(clip).frames)
        fits = room(questions[clip], model.backbone, trained.tokenizer)
        if soft > fits and not mini:  # a benchmark without some of its questions is another
            return f"question {questions[clip].id!r}: {soft} soft tokens, and beside its text the context holds {fits}"

    listen(clips, refusal)
    examples = [clips[i] for i in range(len(clips))]
    result = evaluate_questions(
        model.backbone,
        [questions[clip] for clip in clips.clips],
        project(model, examples),
        project(model, silences(model, examples)),
        trained.tokenizer,
        training=[] if asked.dataset else trained_questions(trained),
        sounds=[clips.keys[clip] for clip in clips.clips],
    )
    told, counted = source_of(trained, clips, asked, split), mini and split == "test"
    if counted:
        score = result.figures["matched"]["value"]
        told["uses"] = log_test_use(TEST_USES, run=told["run"], step=told["step"], score=score)
    named = {}
    if not mini:
        told["name"], named["stem"] = f"Questions of {split}", split.replace("/", "-")
    figures, files = write_audiobench(results(trained, asked), {**told, **result.figures}, result.rows, **named)
    print(render_answers(figures))
    if counted:
        print(f"\nlook {told['uses']} at these questions from here; tune on split=val")
    print(f"\n{trained.arithmetic}\n{', '.join(file.name for file in files)} in {files[0].parent}")


def listen(clips: "CachedClips", refusal: Callable[[int], str | None]) -> None:
    """Encode the clips, and leave out those that there is a reason against.

    Raises:
        OmniError: none is left.
    """
    for _ in clips.encode_ahead():
        pass
    clips.leave_out({clip: reason for clip in clips.clips if (reason := refusal(clip))})
    if not clips.clips:
        shown = "".join(f"\n  {reason}" for reason in list(clips.skipped.values())[:SKIPPED_TOLD])
        raise OmniError(f"dataset: none of its {len(clips.skipped):,} clips can be asked about:{shown}")


def source_of(trained: Trained, clips: "CachedClips", asked: Evaluate, split: str) -> dict[str, Any]:
    """What is asked, about what, in which arithmetic."""
    folder, named = folder_of(trained), {"dataset": asked.dataset} if asked.dataset else {}
    told = {"run": f"{folder.parent.name}/{folder.name}", "step": step_of(trained), "split": split, **named}
    return told | {"arithmetic": trained.arithmetic, "left_out": len(clips.skipped)}


def folder_of(trained: Trained) -> Path:
    """The run, or the folder that was exported of it."""
    if trained.checkpoint is None:
        return Path(trained.source).expanduser().resolve()
    return trained.checkpoint.resolve().parents[1]


def step_of(trained: Trained) -> int | None:
    return None if trained.checkpoint is None else int(trained.checkpoint.name.removeprefix("step_"))


def name_of(dataset: dict[str, str]) -> str:
    """What a data set that is named is called: a manifest or a folder of one's own by its name, another by its
    option's."""
    name = Path(dataset.get("dataset.path") or dataset.get("dataset", "dataset")).stem
    return re.sub(r"[^\w.-]+", "-", name)


def results(trained: Trained, asked: Evaluate) -> Path:
    """Where a suite's files go: in the run, and one floor lower what is not of its newest checkpoint or, of the
    benchmark, not of test."""
    folder, named = folder_of(trained), Path(asked.run).parent.name == "checkpoints"
    if not (folder / NAME).is_file():  # somebody's own, or the repository's: what was measured here is not its
        folder = EVALUATED / folder.name
    folder = folder / asked.suite.name / (trained.checkpoint.name if named else "")
    mini = asked.suite is Suite.audiobench_mini
    return folder / (asked.split if mini and asked.split not in (None, "test") else "")


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
