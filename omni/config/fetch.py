"""Getting ready what a configuration names: data sets that can be fetched, tokenizers that can be trained, the states
of an encoder."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from omni.config.build import build_encoder, build_tokenizer
from omni.config.check import ConfigError, check
from omni.config.device import import_torch, pick_device, pick_dtype
from omni.config.feeds import build_dataset, cached_clips
from omni.config.make import make
from omni.data.manifest import NoSplitError
from omni.record.facts import SKIPPED_TOLD
from omni.record.progress import Progress
from omni.text.tokenizer import BYTES, TokenizerError
from omni.text.vocabulary import find_file

if TYPE_CHECKING:
    from omni.data.cached import CachedClips
    from omni.data.clips import Clips

log = logging.getLogger("omni.prepare")

SPLITS = ("train", "val", "test")
"""Of a dataset that does not declare its `splits`; those that it does not have are passed over."""

ENOUGH = 2_000_000_000
"""Characters to train a tokenizer on, as nanochat."""


def prepare(cfg: DictConfig) -> None:
    """Fetch the dataset where it can be, train the backbone's tokenizer where it is not there, and cut what the encoder
    makes of every split into shards where `features` names a folder for it.

    Raises:
        ConfigError: see `check`; or a tokenizer is wanted, and the dataset holds no text.
        OmniError: whatever the dataset itself cannot get.
    """
    import_torch()
    check(cfg)
    dataset = make(cfg.dataset, "dataset")
    if hasattr(dataset, "prepare"):
        dataset.prepare(log.info)
    else:
        log.info("dataset: nothing to fetch for %s", cfg.dataset._target_)
    train_tokenizer(cfg.backbone, dataset)
    if cfg.encoder is not None and cfg.features is not None:
        cut_features(cfg)


def cut_features(cfg: DictConfig) -> None:
    """Encode every split of the dataset, unless it is done. Several of these commands at once share the work.

    Raises:
        OmniError: clips, weights or a disk that are not as they should be.
    """
    device = pick_device(cfg.device.name)
    encoder = build_encoder(cfg.encoder, pick_dtype(cfg.precision.name, device), device)
    tokenizer = build_tokenizer(cfg)
    for name, dataset in parts_of(cfg):
        encode_split(name, cached_clips(cfg, dataset, encoder, tokenizer, device))


def parts_of(cfg: DictConfig) -> Iterator[tuple[str, "Clips"]]:
    """A dataset as it is trained on, and its other splits, by their names."""
    own = cfg.dataset.get("split", "train")
    yield own, build_dataset(cfg.dataset, cfg.augment)
    dataset = make(cfg.dataset, "dataset")
    if not hasattr(dataset, "of"):
        return
    for name in getattr(dataset, "splits", SPLITS):
        if name != own:
            with suppress(NoSplitError):
                if len(other := dataset.of(name)):
                    yield name, other


def encode_split(name: str, clips: "CachedClips") -> None:
    """Encode what is not there of a split, and say how it went."""
    missing, began = len({key for key in clips.keys.values() if key not in clips.shards}), time.monotonic()
    with Progress(len(clips), 0, f"encode {name}", unit="clip") if missing else nullcontext() as progress:
        for done, _ in enumerate(clips.encode_ahead(), start=1):
            if progress is not None:
                progress.update(done, {})
    for reason in list(clips.skipped.values())[:SKIPPED_TOLD]:
        log.warning("features: %s: left out %s", name, reason)
    told = f"{missing} were missing, {time.monotonic() - began:.1f} s" if missing else "all were there"
    log.info("features: %s: %d clips in %s; %s", name, len(clips), clips.shards.folder, told)


def train_tokenizer(backbone: DictConfig, dataset: Any) -> None:
    """Train the tokenizer that `backbone.tokenizer` names on the dataset's text, unless it is there."""
    from omni.text.bpe import BPETokenizer

    name, size = backbone.get("tokenizer"), backbone.get("vocab_size")
    if name in (None, BYTES):
        return
    with suppress(TokenizerError):  # not there, or an empty folder is
        find_file(Path(name))
        log.info("tokenizer: %s is there", name)
        return
    if not hasattr(dataset, "documents"):
        raise ConfigError(f"backbone.tokenizer: {name} is not there, and the dataset has no text to train it on")
    BPETokenizer.train(first_texts(dataset.documents("train")), size).save(Path(name))
    log.info("tokenizer: %d tokens, in %s", size, name)


def first_texts(documents: Iterable[str]) -> Iterator[str]:
    """The first documents, up to `ENOUGH` characters."""
    characters = 0
    for text in documents:
        yield text
        characters += len(text)
        if characters >= ENOUGH:
            return
