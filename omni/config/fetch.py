"""Getting ready what a configuration names: data sets that can be fetched, tokenizers that can be trained."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni.config.build import make
from omni.config.check import ConfigError, check
from omni.config.device import import_torch
from omni.text.tokenizer import BYTES, TokenizerError
from omni.text.vocabulary import find_file

log = logging.getLogger("omni.prepare")

ENOUGH = 2_000_000_000
"""Characters to train a tokenizer on, as nanochat."""


def prepare(cfg: DictConfig) -> None:
    """Fetch the dataset where it can be, and train the backbone's tokenizer where it is not there.

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
