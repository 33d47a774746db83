"""The one room that turns configuration into objects."""

import inspect
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from omni.config.check import ConfigError, name_of_tokenizer
from omni.config.device import import_torch, pick_device, pick_dtype, turn_to_fp8
from omni.errors import OmniError
from omni.text.tokenizer import TokenizerError, load_tokenizer

if TYPE_CHECKING:  # torch is imported when something is built, not when a config is shown
    import torch

    from omni.data.cached import CachedClips
    from omni.data.clips import Clips
    from omni.data.features import EncodedClips
    from omni.data.feed import Feed
    from omni.evaluation.hearing import HearingLook
    from omni.evaluation.language import LanguageReport
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
    evaluate: "LanguageReport | HearingLook | None"
    idle_patterns: list[str]
    init_from: dict[str, str] | None


def build(cfg: DictConfig) -> Built:
    """Build model, data and trainer.

    Raises:
        ConfigError: a class that cannot be imported or does not take its keys, a device that is not there.
        OmniError: whatever the parts themselves refuse: weights, manifests, sizes.
    """
    import_torch()
    from omni.model.init_from import load_backbone
    from omni.training.freeze import freeze

    device = pick_device(cfg.device.name)
    dtype = pick_dtype(cfg.precision.name, device)
    tokenizer = build_tokenizer(cfg)
    model = build_model(cfg, dtype, device)
    source = cfg.backbone.get("init_from")
    init_from = None if source is None else load_backbone(model.backbone, Path(source), tokenizer)
    idle_patterns = freeze(model, list(cfg.stage.freeze))
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


def key_of(node: DictConfig) -> str:
    """A node as text, so that equal nodes of a sweep's jobs share what is built from them."""
    return json.dumps(OmegaConf.to_container(node, resolve=True, enum_to_str=True), sort_keys=True)


@lru_cache(maxsize=2)
def frozen_encoder(node: str, device: "torch.device") -> "torch.nn.Module":
    """The encoder of a node; the jobs of a sweep in one process load it once, which is safe since it never changes."""
    return make(OmegaConf.create(json.loads(node)), "encoder").to(device)


def build_dataset(dataset: DictConfig, augment: DictConfig | None) -> "Clips":
    """The clips to train on, with changed copies where they are asked for."""
    clips = make(dataset, "dataset")
    if hasattr(clips, "feed"):
        raise ConfigError(
            f"dataset: {type(clips).__module__}.{type(clips).__name__} gives text, and this stage hears; choose a "
            "dataset of clips, or take the ears away: ~encoder ~projector"
        )
    return clips if augment is None else make(augment, "augment", clips=clips)


@lru_cache(maxsize=2)
def encoded_clips(
    dataset: str, augment: str | None, encoder: str, tokenizer: str, device: "torch.device", limit: int | None
) -> "EncodedClips":
    """The clips of the nodes of `build_dataset` through the encoder of another; states stay for the next job of a
    sweep."""
    from omni.data.features import EncodedClips

    nodes = [None if node is None else OmegaConf.create(json.loads(node)) for node in (dataset, augment)]
    return EncodedClips(
        build_dataset(*nodes),
        encoder=frozen_encoder(encoder, device),
        tokenizer=load_tokenizer(tokenizer),
        device=device,
        limit=limit,
    )


def build_model(cfg: DictConfig, dtype: "torch.dtype", device: "torch.device") -> "Omni":
    """Encoder, projector and backbone; seeded one by one, so that another projector leaves the backbone's start
    as it is."""
    from omni.model.omni import Omni
    from omni.training.seed import seed_everything

    encoder = projector = None
    if cfg.encoder is not None:
        encoder = frozen_encoder(key_of(cfg.encoder), device)
        seed_everything(cfg.seed)
        projector = make(cfg.projector, "projector")
    seed_everything(cfg.seed)
    backbone = make(without(cfg.backbone, "tokenizer", "init_from"), "backbone", dtype=dtype)
    return Omni(encoder=encoder, projector=projector, backbone=backbone).to(device)


def cached_clips(
    cfg: DictConfig, dataset: "Clips", encoder: Any, tokenizer: "Tokenizer", device: "torch.device"
) -> "CachedClips":
    """A dataset's clips by way of the encoder states on disk."""
    from omni.data.cached import CachedClips
    from omni.data.shards import Shards

    for name, why in (("signature", "to know its states by"), ("frame_rate", "to know their time by")):
        if not hasattr(encoder, name):
            raise ConfigError(f"features: the encoder has no `{name}` {why}; give it one, or set features=null")
    return CachedClips(
        dataset,
        shards=Shards(cfg.features, encoder.signature),
        encoder=encoder,
        tokenizer=tokenizer,
        device=device,
        limit=cfg.debug.limit_clips,
    )


def build_clips(
    cfg: DictConfig, model: "Omni", tokenizer: "Tokenizer", device: "torch.device"
) -> tuple["Feed", "HearingLook | None"]:
    """The feed of a stage that hears, and what looks at its model on held-out clips, if it is to be looked at."""
    from omni.data.feed import ClipFeed
    from omni.evaluation.hearing import HearingLook

    look = None
    if cfg.features is None:
        nodes = [None if node is None else key_of(node) for node in (cfg.dataset, cfg.augment, cfg.encoder)]
        examples = encoded_clips(*nodes, name_of_tokenizer(cfg.backbone), device, cfg.debug.limit_clips)
    else:
        examples = cached_clips(cfg, build_dataset(cfg.dataset, cfg.augment), model.encoder, tokenizer, device)
        if cfg.stage.eval_every:
            held_out = cached_clips(cfg, examples.dataset.of("val"), model.encoder, tokenizer, device)
            look = HearingLook(model, held_out, tokenizer=tokenizer)
    feed = ClipFeed(
        examples,
        check_fits=model.check_fits,
        bos=tokenizer.bos,
        batch_size=cfg.stage.batch_size,
        seed=cfg.seed,
        ahead=cfg.features is not None,
    )
    return feed, look


def build_text(
    cfg: DictConfig, model: "Omni", tokenizer: "Tokenizer", device: "torch.device"
) -> tuple["Feed", "LanguageReport"]:
    """The feed of a stage of text alone, and what looks at its model on held-out text."""
    from omni.evaluation.language import LanguageReport

    stage = cfg.stage
    dataset = make(cfg.dataset, "dataset")
    if not hasattr(dataset, "feed"):
        raise ConfigError(
            f"dataset: {cfg.dataset._target_} gives clips, and this stage is of text alone; choose a dataset of text, "
            "or a stage that hears"
        )
    feed = dataset.feed(
        tokenizer=tokenizer,
        batch_size=stage.batch_size,
        row_tokens=cfg.backbone.sequence_len,
        embeddings=lambda: model.backbone.transformer.wte.weight,
        device=device,
        seed=cfg.seed,
    )
    held_out = dataset.held_out(
        tokenizer=tokenizer,
        batch_size=stage.batch_size,
        row_tokens=cfg.backbone.sequence_len,
        tokens=stage.eval_tokens,
        device=device,
    )
    return feed, LanguageReport(model.backbone, held_out, tokenizer=tokenizer, prompts=list(stage.samples))


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


def without(node: DictConfig, *keys: str) -> DictConfig:
    """A resolved copy of a node that lacks some keys."""
    plain = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    return OmegaConf.create({key: value for key, value in plain.items() if key not in keys})


def build_loggers(cfg: DictConfig, folder: Path, **given: Any) -> list[Any]:
    """The loggers of `cfg.logger`, csv first; each takes of `given` (name, config, ...) what it asks for."""
    nodes = sorted(cfg.logger.items(), key=lambda item: item[0] != "csv")
    nodes = [(name, node) for name, node in nodes if node is not None]  # logger.wandb=null turns one off
    return [make(node, f"logger.{name}", folder=folder, optional=given) for name, node in nodes]


def make(node: DictConfig, key: str, *, optional: dict[str, Any] | None = None, **given: Any) -> Any:
    """Call a node's `_target_` with its keys and `given`; errors name the key."""
    plain = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    if not plain.get("_target_"):
        raise ConfigError(f"{key}: has no _target_, the dotted name of the class to build")
    try:
        target = instantiate(plain, _partial_=True, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ConfigError(
            f"{key}._target_: {plain.get('_target_')} cannot be imported ({cause}); a class of your own must be "
            "importable from the folder you are in, or from PYTHONPATH"
        ) from error
    parameters = inspect.signature(target.func).parameters
    given |= {name: value for name, value in (optional or {}).items() if name in parameters}
    try:
        inspect.signature(target.func).bind(**target.keywords, **given)
    except TypeError as error:
        raise ConfigError(f"{key}: {plain['_target_']} takes {', '.join(parameters)}: {error}") from error
    try:
        return target(**given)
    except OmniError:
        raise
    except Exception as error:  # a class of the user's own may raise anything
        raise ConfigError(f"{key}: {plain['_target_']} failed: {type(error).__name__}: {error}") from error
