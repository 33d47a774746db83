"""python -m omni.evaluate: what a run can do, by a suite of tests.

python -m omni.evaluate run=outputs/latest suite=hearing              does it hear? on held-out clips of its data set
python -m omni.evaluate run=outputs/latest suite=hearing split=val    on another split

Writes RUN/hearing/SPLIT.json, and SPLIT.jsonl with what was said and what it heard; of the newest checkpoint.
"""

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from omegaconf import MISSING

from omni.atomic import replace_text
from omni.config.arguments import run
from omni.config.schema import Device, Precision
from omni.config.trained import held_out_clips, load_trained


class Suite(Enum):
    hearing = "hearing"


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
    trained = load_trained(asked.run, device=asked.device.name, precision=asked.precision.name)
    clips = held_out_clips(asked.run, trained, asked.split)
    from omni.evaluation.report import hearing_report
    from omni.evaluation.transcription import error_rates

    for _ in clips.encode_ahead():
        pass
    examples = [clips[i] for i in range(len(clips))]
    figures, heard = hearing_report(trained.model, examples, trained.tokenizer)
    said = [clips.dataset.clips[i].text for i in clips.clips]
    if hasattr(clips.dataset, "whisper"):
        own = error_rates(said, [clips.dataset.whisper[i] for i in clips.clips])
        figures |= {"whisper_wer": own.wer, "whisper_cer": own.cer}
    figures = {name: None if figure != figure else figure for name, figure in figures.items()}  # JSON has no NaN
    folder = Path(asked.run).expanduser().resolve() / asked.suite.name
    folder.mkdir(exist_ok=True)
    lines = [{"id": e.id, "said": text, "heard": guess} for e, text, guess in zip(examples, said, heard, strict=True)]
    replace_text(folder / f"{asked.split}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    replace_text(folder / f"{asked.split}.json", json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
