"""Getting ready what a configuration names: data sets that can be fetched, tokenizers that can be trained."""

import logging
from pathlib import Path

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from omni.config.build import import_torch, make
from omni.config.check import ConfigError, check
from omni.text.tokenizer import BYTES

log = logging.getLogger("omni.prepare")

ENOUGH = 2_000_000_000
"""Characters to train a tokenizer on, as nanochat."""


def fetch_dataset(cfg: DictConfig) -> None:
    """Call `prepare` of the dataset's class with the dataset's keys, where it has one."""
    import_torch()
    check(cfg)
    keys = OmegaConf.to_container(cfg.dataset, resolve=True, enum_to_str=True)
    name = keys.pop("_target_")
    try:
        prepare = getattr(get_object(name), "prepare", None)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"dataset._target_: {name} cannot be imported ({error})") from error
    if prepare is None:
        log.info("dataset: nothing to fetch for %s", name)
    else:
        prepare(**keys, report=log.info)


def train_tokenizer(cfg: DictConfig) -> None:
    """Train the tokenizer that `backbone.tokenizer` names on the dataset's text, unless it is there.

    Raises:
        ConfigError: the dataset holds no text.
    """
    from omni.text.bpe import BPETokenizer

    name, size = cfg.backbone.get("tokenizer"), cfg.backbone.get("vocab_size")
    if name in (None, BYTES):
        return
    if Path(name).exists():
        log.info("tokenizer: %s is there", name)
        return
    dataset = make(cfg.dataset, "dataset")
    if not hasattr(dataset, "documents"):
        raise ConfigError(f"backbone.tokenizer: {name} is not there, and the dataset has no text to train it on")
    BPETokenizer.train(first_texts(dataset.documents("train")), size).save(Path(name))
    log.info("tokenizer: %d tokens, in %s", size, name)


def first_texts(documents):
    """The texts of the first documents, up to `ENOUGH` characters."""
    characters = 0
    for place in range(len(documents)):
        for text in documents.read([place]):
            if text:
                yield text
                characters += len(text)
        if characters >= ENOUGH:
            return
