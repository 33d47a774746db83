"""A model that hears as one folder that needs nothing else: to pass on, to serve, to load in three lines.

pipeline.yaml          how encoder, mixer, texture, projector and language model are built
model.safetensors      all that was trained, in 16 bits a number, adapters merged into the language model
config.json            the language model's sizes; with them the folder is also one to start other runs from
tokenizer.json
encoder/               the frozen Whisper and its processor's settings, as transformers lays them out
README.md              a model card, drawn from the run
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from omni.atomic import replace_text, replacing, replacing_folder
from omni.config.build import build_model
from omni.config.check import ConfigError
from omni.config.make import without
from omni.config.render import load
from omni.config.trust import check_saved
from omni.errors import OmniError
from omni.record.card import card

if TYPE_CHECKING:
    import torch

    from omni.model.encoder import FrozenWhisper
    from omni.model.omni import Omni
    from omni.text.tokenizer import Tokenizer

PIPELINE, ENCODER = "pipeline.yaml", "encoder"
PARTS = ("encoder", "mixer", "texture", "projector", "backbone")
USE = """\
## Use

```python
from omni.config.trained import load_trained
model = load_trained("{name}")
print(model.ask("What do you hear?", "sound.wav"))
```

or `python -m omni.serve run={name}`, with omni installed.
"""


def export_whole(
    model: "Omni", tokenizer: "Tokenizer", run: Path, folder: Path, trust: str | Sequence[str] = ()
) -> int:
    """Write a run's model; returns its parameters, the encoder's among them.

    Args:
        model, tokenizer: of the run, adapters merged, in fp32.
        folder: a new one, or one that was exported so before, which is replaced.
        trust: see `check_saved`.

    Raises:
        ConfigError: the encoder is none of Whisper's, so there is no layout to pass it on in.
        OmniError: something is in the way.
    """
    from safetensors.torch import save_file

    from omni.config.slim import halved
    from omni.model.encoder import WhisperEncoder
    from omni.model.layout import CONFIG, MODEL
    from omni.training.checkpoint import learned_state

    folder, cfg = folder.resolve(), load(run, trust)
    if not isinstance(model.encoder, WhisperEncoder):
        raise ConfigError(
            f"run: {run} hears by a {type(model.encoder).__name__}; only Whisper's weights can be passed on"
        )
    if folder.exists() and not (folder / PIPELINE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise OmniError(f"{folder}: this is no exported folder, so it is not replaced; choose another")
    nodes = {name: cfg[name] and without(cfg[name], "tokenizer", "init_from") for name in PARTS}
    nodes["encoder"].merge_with({"weights": ENCODER, "ms_id": None, "wheel": None})
    with replacing_folder(folder) as aside:
        replace_text(aside / PIPELINE, OmegaConf.to_yaml(OmegaConf.create({"seed": cfg.seed} | nodes)))
        replace_text(aside / CONFIG, json.dumps(model.backbone.sizes, indent=2) + "\n")
        replace_text(aside / "README.md", f"{card(run)}\n{USE.format(name=folder.name)}")
        with replacing(aside / MODEL) as temporary:
            save_file({name: halved(tensor) for name, tensor in learned_state(model).items()}, temporary)
        shutil.copymode(aside / CONFIG, aside / MODEL)  # safetensors shuts out everybody else, whatever the umask
        if hasattr(tokenizer, "save"):  # bytes need no file
            tokenizer.save(aside)
        save_whisper(model.encoder, aside / ENCODER)
    return sum(tensor.numel() for tensor in model.state_dict().values())


def save_whisper(encoder: "FrozenWhisper", folder: Path) -> None:
    """The encoder alone, in transformers' layout; in 16 bits a number where that loses nothing, as in OpenAI's own."""
    import torch
    from safetensors.torch import save_file
    from transformers import WhisperFeatureExtractor

    from omni.model.layout import CONFIG, MODEL

    encoder.whisper.config.save_pretrained(folder)
    state = {f"encoder.{name}": tensor.contiguous() for name, tensor in encoder.whisper.state_dict().items()}
    if all(torch.equal(tensor.half().float(), tensor) for tensor in state.values()):
        state = {name: tensor.half() for name, tensor in state.items()}
    with replacing(folder / MODEL) as temporary:
        save_file(state, temporary)
    shutil.copymode(folder / CONFIG, folder / MODEL)
    WhisperFeatureExtractor(feature_size=encoder.whisper.config.num_mel_bins).save_pretrained(folder)


def load_whole(
    folder: Path, dtype: "torch.dtype", device: "torch.device", trust: str | Sequence[str] = ()
) -> "tuple[Omni, Tokenizer]":
    """What `export_whole` wrote.

    Args:
        trust: see `check_saved`.

    Raises:
        OmniError: a file is missing or damaged, does not fit the others, or asks for what is not built.
    """
    from omni.model.layout import TOKENIZER
    from omni.text.tokenizer import BYTES, load_tokenizer
    from omni.training.checkpoint import load_weights

    try:
        cfg = OmegaConf.load(folder / PIPELINE)
        check_saved(cfg, folder / PIPELINE, trust)
        cfg.encoder.weights = str(folder / cfg.encoder.weights)
    except ConfigError:
        raise
    except Exception as error:  # yaml, omegaconf and the file system have their own families of errors
        raise ConfigError(
            f"{folder / PIPELINE}: cannot be read ({str(error).splitlines()[0]}); export again"
        ) from error
    model = build_model(DictConfig(cfg), dtype, device, trained=True)
    load_weights(folder, model)
    return model, load_tokenizer(str(folder) if (folder / TOKENIZER).is_file() else BYTES)
