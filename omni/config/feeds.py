"""What a stage feeds on, and what it is asked at each look: clips or text, as the configuration says."""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from omni.config.check import ConfigError, name_of_tokenizer
from omni.config.make import key_of, make
from omni.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch

    from omni.data.cached import CachedClips
    from omni.data.clips import Clips
    from omni.data.features import EncodedClips
    from omni.data.feed import Feed
    from omni.data.manifest import Clip
    from omni.evaluation.language import LanguageReport
    from omni.evaluation.looks import Looks
    from omni.model.omni import Omni
    from omni.text.tokenizer import Tokenizer


def build_clips(
    cfg: DictConfig, model: "Omni", tokenizer: "Tokenizer", device: "torch.device"
) -> tuple["Feed", "Looks | None"]:
    """The feed of a stage that hears, and what looks at its model on held-out clips, if it is to be looked at."""
    from omni.data.feed import ClipFeed
    from omni.instructions.questions import refuse_overlap

    look = None
    if cfg.features is None:
        nodes = [None if node is None else key_of(node) for node in (cfg.dataset, cfg.augment)]
        examples = encoded_clips(*nodes, model.encoder, name_of_tokenizer(cfg.backbone), device, cfg.debug.limit_clips)
    else:
        examples = cached_clips(cfg, build_dataset(cfg.dataset, cfg.augment), model.encoder, tokenizer, device)
        if cfg.stage.eval_every:
            look = build_look(cfg, examples.dataset.of("val"), model, tokenizer)
    dataset = examples.dataset
    if hasattr(dataset, "clips"):  # one of one's own may have no rows
        keys = examples.keys if cfg.features else {clip: dataset.key(clip) for clip in range(len(examples))}
        places = [*keys]
        heard = {"hear": lambda place: dataset[places[place]].waveform}
        refuse_overlap([dataset.clips[clip] for clip in places], keys.values(), **heard)
    feed = ClipFeed(
        examples,
        check_fits=model.check_fits,
        bos=tokenizer.bos,
        batch_size=cfg.stage.batch_size,
        seed=cfg.seed,
        ahead=cfg.features is not None,
    )
    return feed, look


def build_look(cfg: DictConfig, held_out: "Clips", model: "Omni", tokenizer: "Tokenizer") -> "Looks":
    """What asks a model in training: of transcripts whether it hears, of questions whether it answers."""
    from omni.data.script import asks
    from omni.evaluation.hearing import HearingLook
    from omni.evaluation.looks import ChoiceLook, Looks
    from omni.instructions.questions import question_of

    device, looks = model.backbone.lm_head.weight.device, []
    if not all(map(asks, held_out.clips)):
        clips = cached_clips(cfg, held_out, model.encoder, tokenizer, device, lambda clip: not asks(clip))
        looks.append(HearingLook(model, clips, tokenizer=tokenizer))
    if any(clip.choices for clip in held_out.clips):
        clips = cached_clips(cfg, held_out, model.encoder, tokenizer, device, lambda clip: bool(clip.choices))
        questions = [question_of(held_out.clips[clip]) for clip in clips.clips]
        looks.append(ChoiceLook(model, clips, questions, tokenizer=tokenizer))
    return Looks(looks)


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
    dataset: str,
    augment: str | None,
    encoder: "torch.nn.Module",
    tokenizer: str,
    device: "torch.device",
    limit: int | None,
) -> "EncodedClips":
    """The clips of the nodes of `build_dataset` through an encoder; states stay for the next job of a sweep."""
    from omni.data.features import EncodedClips

    nodes = [None if node is None else OmegaConf.create(json.loads(node)) for node in (dataset, augment)]
    return EncodedClips(
        build_dataset(*nodes),
        encoder=encoder,
        tokenizer=load_tokenizer(tokenizer),
        device=device,
        limit=limit,
    )


def cached_clips(
    cfg: DictConfig,
    dataset: "Clips",
    encoder: Any,
    tokenizer: "Tokenizer",
    device: "torch.device",
    only: Callable[["Clip"], bool] | None = None,
) -> "CachedClips":
    """A dataset's clips, or only some, by way of the encoder states on disk."""
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
        only=only,
    )
