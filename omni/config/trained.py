"""A model that somebody trained, ready to be used: out of a run's folder, or out of an exported one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from omni.config.build import build_model, build_tokenizer, import_torch, pick_device, pick_dtype
from omni.config.check import ConfigError, check
from omni.config.render import load, self_contained
from omni.errors import OmniError

if TYPE_CHECKING:
    from torch import Tensor

    from omni.model.omni import Omni
    from omni.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Trained:
    """The pipeline in eval mode, its tokenizer, and the configuration of its run."""

    cfg: DictConfig
    model: "Omni"
    tokenizer: "Tokenizer"

    def hear(self, path: str) -> "Tensor":
        """A sound file as soft tokens (S, C).

        Raises:
            ConfigError: the run is of text alone.
            AudioError: the file cannot be read, or holds nothing audible.
        """
        import torch

        from omni.audio.read import check_audible, read

        if self.model.encoder is None:
            raise ConfigError(f"audio: this run ({self.cfg.stage.name}) is of text alone and has no ears")
        waveform = read(path)
        check_audible(waveform, min_seconds=0.1, what=path)
        with torch.inference_mode():
            states, frames = self.model.encoder([waveform.to(self.model.backbone.lm_head.weight.device)])
            soft, lengths = self.model.projector(states.to(self.model.backbone.dtype), frames)
        return soft[0, : lengths[0]]


def load_trained(folder: str, *, device: str = "auto", precision: str = "auto") -> Trained:
    """The model of a run at its last checkpoint.

    Raises:
        ConfigError: no run there, or one that cannot be built here.
        OmniError: it has no checkpoint, or a damaged one.
    """
    import_torch()
    from omni.training.checkpoint import list_checkpoints, load_weights

    run = Path(folder)
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"run: {folder} is no run folder (it has no config.yaml); outputs/latest is the newest one")
    cfg = self_contained(load(run), run)
    check(cfg)
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise OmniError(f"run: {folder} has no checkpoint yet; its stage makes one every {cfg.stage.checkpoint_every}")
    on = pick_device(device)
    model = build_model(cfg, pick_dtype(precision, on), on)
    load_weights(checkpoints[-1], model)
    model.backbone.to(model.backbone.dtype)  # nothing trains any more, so nothing needs fp32 masters
    return Trained(cfg, model.eval(), build_tokenizer(cfg))


def backbone_sizes(cfg: DictConfig) -> dict[str, object]:
    """What a GPT is built from, as plain values."""
    plain = OmegaConf.to_container(cfg.backbone, resolve=True, enum_to_str=True)
    return {key: value for key, value in plain.items() if key not in ("_target_", "tokenizer", "init_from")}
