"""The parts of one run, built of its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from omni.config.check import ConfigError, name_of_tokenizer
from omni.config.device import import_torch, pick_device, pick_dtype, turn_to_fp8
from omni.config.feeds import build_clips, build_text
from omni.config.make import frozen_encoder, key_of, make, without
from omni.text.tokenizer import TokenizerError, load_tokenizer

if TYPE_CHECKING:  # torch is imported when something is built, not when a config is shown
    import torch

    from omni.data.feed import Feed
    from omni.evaluation.language import LanguageReport
    from omni.evaluation.looks import Looks
    from omni.model.omni import Omni
    from omni.text.tokenizer import Tokenizer
    from omni.training.loop import Trainer


@dataclass(frozen=True)
class Built:
    """The parts of one run. precision: its arithmetic in words."""

    device: "torch.device"
    dtype: "torch.dtype"
    precision: str
    tokenizer: "Tokenizer"
    model: "Omni"
    trainer: "Trainer"
    evaluate: "LanguageReport | Looks | None"
    idle_patterns: list[str]
    init_from: dict[str, str] | None


def build(cfg: DictConfig) -> Built:
    """Build model, data and trainer.

    Raises:
        ConfigError: a class that cannot be imported or does not take its keys, a device that is not there.
        OmniError: whatever the parts themselves refuse: weights, manifests, sizes.
    """
    import_torch()
    from omni.model.init_from import load_backbone, load_pipeline
    from omni.training.freeze import freeze

    device = pick_device(cfg.device.name)
    dtype = pick_dtype(cfg.precision.name, device)
    tokenizer = build_tokenizer(cfg)
    model = build_model(cfg, dtype, device)
    source, run, init_from = cfg.backbone.get("init_from"), cfg.stage.init_from, None
    if run is not None:
        init_from = load_pipeline(model, Path(run), tokenizer)
    elif source is not None:
        init_from = load_backbone(model.backbone, Path(source), tokenizer)
    idle_patterns = freeze(model, list(cfg.stage.freeze))
    adapt(model, cfg)
    precision = str(dtype).removeprefix("torch.")
    if cfg.precision.name == "fp8":
        precision = f"fp8 in {turn_to_fp8(model, device)} layers, {precision} elsewhere"
    feed, evaluate = (build_text if cfg.encoder is None else build_clips)(cfg, model, tokenizer, device)
    trainer = build_trainer(cfg, model, feed)
    return Built(device, dtype, precision, tokenizer, model, trainer, evaluate, idle_patterns, init_from)


def build_tokenizer(cfg: DictConfig) -> "Tokenizer":
    """The backbone's tokenizer."""
    try:
        return load_tokenizer(name_of_tokenizer(cfg.backbone))
    except TokenizerError as error:
        raise ConfigError(
            f"backbone.tokenizer: {error}. `python -m omni.prepare` with the same overrides trains one"
        ) from error


def build_model(cfg: DictConfig, dtype: "torch.dtype", device: "torch.device", *, trained: bool = False) -> "Omni":
    """Encoder, mixer, projector and backbone; seeded one by one, so that another projector leaves the backbone's start
    as it is. trained: what its encoder computed in when it was trained does not count."""
    from omni.model.omni import Omni
    from omni.training.seed import seed_everything

    encoder = mixer = texture = projector = None
    if cfg.encoder is not None:
        encoder = build_encoder(cfg.encoder, dtype, device, trained=trained)
        if cfg.mixer is not None:
            seed_everything(cfg.seed)
            mixer = make(cfg.mixer, "mixer", n_states=encoder.n_states, width=encoder.width)
        if cfg.texture is not None:
            seed_everything(cfg.seed)
            texture = make(cfg.texture, "texture", n_states=encoder.n_states, width=encoder.width)
        seed_everything(cfg.seed)
        projector = make(cfg.projector, "projector")
    seed_everything(cfg.seed)
    backbone = make(without(cfg.backbone, "tokenizer", "init_from"), "backbone", dtype=dtype)
    parts = {"encoder": encoder, "mixer": mixer, "texture": texture, "projector": projector, "backbone": backbone}
    return Omni(**parts).to(device)


def build_encoder(
    node: DictConfig, dtype: "torch.dtype", device: "torch.device", *, trained: bool = False
) -> "torch.nn.Module":
    """The encoder, in `dtype` if it leaves it open by "auto". trained: as `build_model`."""
    asked = node.get("dtype")
    if asked == "auto" or (trained and asked in ("fp32", "bf16")):
        node = node.copy()
        node.dtype = "fp32" if dtype.itemsize == 4 else "bf16"
    elif asked == "bf16":
        pick_dtype(asked, device)  # for its warning
    return frozen_encoder(key_of(node), device)


def adapt(model: "Omni", cfg: DictConfig) -> None:
    """Put in the adapters that the stage asks for: behind the weights they start from, before those they were saved
    with."""
    if cfg.stage.lora is not None:
        from omni.model.lora import add_lora
        from omni.training.seed import seed_everything

        seed_everything(cfg.seed)
        add_lora(model.backbone, **OmegaConf.to_container(cfg.stage.lora, resolve=True))


def build_trainer(cfg: DictConfig, model: "Omni", feed: "Feed") -> "Trainer":
    from omni.training.loop import Trainer
    from omni.training.schedule import Schedule

    stage = cfg.stage
    return Trainer(
        model,
        make(cfg.optimizer, "optimizer", model=model, lr=stage.lr),
        feed,
        schedule=Schedule(
            max_steps=stage.max_steps,
            warmup_steps=stage.warmup_steps,
            warmdown=stage.warmdown,
            final=stage.final_lr,
        ),
        max_steps=stage.max_steps,
        accumulate=stage.accumulate,
        compile=cfg.compile,
    )


def build_loggers(cfg: DictConfig, folder: Path, **given: Any) -> list[Any]:
    """The loggers of `cfg.logger`, csv first; each takes of `given` (name, config, ...) what it asks for."""
    nodes = sorted(cfg.logger.items(), key=lambda item: item[0] != "csv")
    nodes = [(name, node) for name, node in nodes if node is not None]  # logger.wandb=null turns one off
    return [make(node, f"logger.{name}", folder=folder, optional=given) for name, node in nodes]
