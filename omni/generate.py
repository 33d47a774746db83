"""python -m omni.generate: a model goes on from a prompt, and answers what it hears.

python -m omni.generate run=outputs/latest prompt="The sun is"              text
python -m omni.generate run=outputs/latest audio=question.wav               what a model that hears says to a clip
python -m omni.generate run=outputs/latest prompt="..." samples=3 temperature=0.8 top_k=50 seed=7
python -m omni.generate run=outputs/latest chat=true prompt="What is 2+2?"  a turn of a model tuned on conversations
python -m omni.generate run=outputs/latest chat=true audio=dog.wav prompt="What animal is it?"    about what it hears
python -m omni.generate run=data/starter prompt="The sun is"                an exported folder, or nanochat's
python -m omni.generate run=outputs/latest trust=my_ear prompt="..."        a run with a class of your own, of my_ear.py

audio can be given more than once; it stands in front of the prompt, in order.
"""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from omni.config.arguments import run
from omni.config.check import ConfigError
from omni.config.schema import Device, Precision
from omni.config.trained import Trained, load_trained


@dataclass
class Generate:
    """What the command takes; see the module, and `omni.generation.sampling.Settings` for how tokens are drawn."""

    run: str = MISSING
    prompt: str = ""
    audio: list[str] = field(default_factory=list)
    chat: bool = False
    samples: int = 1
    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    device: Device = Device.auto
    precision: Precision = Precision.auto
    trust: list[str] = field(default_factory=list)


def main() -> None:
    """The command."""
    run(generate, Generate, doc=__doc__)


def generate(asked: Generate) -> None:
    """Print what the model says as it comes; several samples one after another when all are done."""
    for sound in asked.audio:
        if not Path(sound).expanduser().exists():  # said before torch is imported
            raise ConfigError(f"audio: {sound} does not exist")
    trained = load_trained(asked.run, device=asked.device.name, precision=asked.precision.name, trust=asked.trust)
    from omni.generation.engine import Engine
    from omni.generation.sampling import Settings

    drawn = {name: getattr(asked, name) for name in ("max_tokens", "temperature", "top_k", "top_p", "seed")}
    engine = Engine(trained.model.backbone, trained.tokenizer)
    if asked.samples != 1:
        rows = dict(engine.generate(prompt_of(asked, trained), Settings(**drawn), samples=asked.samples))
        print("\n\n".join(f"[{number}] {row.text}" for number, row in enumerate(rows, start=1)))
        return
    shown = 0
    for row, _ in engine.generate(prompt_of(asked, trained), Settings(**drawn)):
        print(row.text[shown:], end="", flush=True)
        shown = len(row.text)
    print()


def prompt_of(asked: Generate, trained: Trained) -> list:
    """The segments of the prompt: what is heard, then what is read."""
    if asked.chat:
        return trained.turn(asked.prompt, asked.audio)
    tokenizer = trained.tokenizer
    return [*map(trained.hear, asked.audio), [tokenizer.bos, *tokenizer.encode(asked.prompt)]]


if __name__ == "__main__":
    main()
