"""python -m omni.export: a run as one folder, to start other runs from, to serve or to pass on.

python -m omni.export run=outputs/latest to=my_model           a model that hears: ears and all, with a model card
python -m omni.export run=outputs/latest to=data/my_base       of text: model.safetensors (bf16), config, tokenizer
python -m omni.train backbone.init_from=data/my_base ...       a run that starts from it (with its sizes)
python -m omni.generate run=data/my_base prompt="The sun is"   what it says
python -m omni.export run=outputs/latest to=~/.cache/nanochat format=nanochat   as nanochat's own checkpoint
python -m omni.export run=outputs/latest to=data/my_adapter format=adapter     its adapters alone, as PEFT has them
python -m omni.export run=outputs/latest to=data/my_ears format=slim           a run without its frozen language model
python -m omni.export run=outputs/latest to=my_model trust=my_ear   a run with a class of your own, of my_ear.py

The other formats merge a run's adapters (stage.lora) into its weights. run is what omni.generate takes. A folder that
was exported before is replaced, whole; nothing else is.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from omegaconf import MISSING

from omni.config.arguments import run
from omni.config.check import ConfigError
from omni.config.device import import_torch
from omni.config.render import load


class Format(Enum):
    omni = "omni"
    nanochat = "nanochat"
    adapter = "adapter"
    slim = "slim"


@dataclass
class Export:
    """run: what to export. to: the folder to write. format: whose. trust: see `load_trained`."""

    run: str = MISSING
    to: str = MISSING
    format: Format = Format.omni
    trust: list[str] = field(default_factory=list)


def main() -> None:
    """The command."""
    run(export, Export, doc=__doc__)


def export(asked: Export) -> None:
    """Write what is asked for, whole or not at all."""
    import_torch()
    from omni.config.slim import export_slim
    from omni.config.trained import find_checkpoint, load_trained
    from omni.config.whole import export_whole
    from omni.model.adapter import save_adapter
    from omni.model.nanochat import export_nanochat
    from omni.model.pretrained import export_gpt, find_weights, load_adapted, load_gpt

    source, folder = Path(asked.run).expanduser(), Path(asked.to).expanduser()
    checkpoint = find_checkpoint(source)
    if asked.format is Format.omni:
        hears = checkpoint is not None and load(checkpoint.parents[1], asked.trust).encoder is not None
        if hears:
            trained = load_trained(str(checkpoint), device="cpu", precision="fp32", trust=asked.trust)
            written = export_whole(trained.model, trained.tokenizer, checkpoint.parents[1], folder, asked.trust)
        else:
            written = export_gpt(source, folder)
        print(f"{written:,} parameters in {folder}")
        return
    if asked.format is Format.adapter:
        print(f"{save_adapter(load_adapted(source), folder):,} parameters in {folder}")
        return
    if asked.format is Format.slim:
        if checkpoint is None:
            raise ConfigError(f"run: {source} is no run")
        print(f"{export_slim(checkpoint, folder, asked.trust):,} parameters in {folder}")
        return
    step = re.fullmatch(r"step_(\d+)", find_weights(source)[1].parent.name)
    print(export_nanochat(*load_gpt(source), folder, step=int(step[1]) if step else 0))


if __name__ == "__main__":
    main()
