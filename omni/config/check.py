"""Everything that is wrong with a composed configuration, said at once and before torch is imported."""

import math
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni.config.schema import Train
from omni.config.targets import TARGETS
from omni.errors import OmniError
from omni.text.tokenizer import BYTES, TokenizerError, read_vocab_size
from omni.text.vocabulary import find_file

GROUPS = ("encoder", "projector", "backbone", "dataset", "optimizer")
"""The groups whose options become objects."""

OPTIONAL = ("augment", "mixer", "texture")
"""Those too, and null is an option."""

EARS = ("encoder", "projector")
"""The groups that a stage of text alone does without."""

AT_LEAST_ONE = (
    *(f"stage.{key}" for key in ("max_steps", "batch_size", "accumulate", "checkpoint_every", "checkpoints_kept")),
    *(f"backbone.{key}" for key in ("sequence_len", "n_layer", "n_head", "n_kv_head", "n_embd")),
    *(
        "encoder.width",
        "encoder.depth",
        "encoder.n_heads",
        "projector.stack",
        "projector.hidden_dim",
        "projector.halvings",
    ),
    *("augment.copies", "debug.limit_clips", "texture.parts", "texture.hidden_dim", "mixer.rank", "dataset.n"),
)
"""Sizes and counts."""

STARTER = "data/starter"

MADE_AT_ONCE = "omni.data.clips.audio_smoke"
"""The data set that needs no preparation."""

PREPARED = {
    "omni.corpora.amazon_queen.AmazonQueen": "queen.1c",
    "omni.corpora.debian_text.DebianText": "facts.json",
    "omni.corpora.diet.Diet": "facts.json",
    "omni.corpora.starter_chats.StarterChats": "conversations.jsonl",
}
"""What a data set's folder holds once it is prepared; of others, anything."""


class ConfigError(OmniError):
    """A configuration that cannot run; the message names each dotted key and the way out."""


def check(cfg: DictConfig) -> None:
    """Raise ConfigError with every unknown key, missing value, broken interpolation, wrong type and misfit."""
    deaf = all(cfg.get(key) is None for key in EARS)
    nothing = [
        f"{key}: null builds nothing; choose an option, as in {key}=NAME"
        + (f", or {' '.join(f'~{ear}' for ear in EARS)} for text alone" if key in EARS else "")
        for key in (*GROUPS, "stage")
        if cfg.get(key) is None and not OmegaConf.is_missing(cfg, key) and not (deaf and key in EARS)
    ]
    if nothing:
        raise ConfigError("\n".join(nothing))
    typed = [(cfg, Train, "")]
    for key, node in components(cfg):
        if schema := TARGETS.get(str(node.get("_target_"))):
            typed.append((node, schema, key + "."))
    unknown = [line for node in typed for line in unknown_keys(*node)]
    broken = [*unresolved(cfg)]
    broken += [line for node in typed for line in wrong_types(*node, said={line.split(":")[0] for line in broken})]
    problems = unknown + broken
    if not broken:  # what is missing or of another type cannot be compared
        problems += misfits(cfg)
    if problems:
        raise ConfigError("\n".join(problems))


def refuse_twice(overrides: list[str]) -> None:
    """Raise ConfigError for a key that is set twice: hydra takes the last one and drops the others without a word."""
    given: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        given.setdefault(f"{override.key_or_group}@{override.package}", []).append(override.input_line)
    if twice := [" ".join(lines) for lines in given.values() if len(lines) > 1]:
        raise ConfigError(f"{twice[0]}: the key is set twice and only the last would count; set it once")


def refuse_missing(cfg: DictConfig, overrides: list[str]) -> None:
    """Raise ConfigError with all that a run needs and does not find, and how to get it.

    Apart from `check`, since `omni.prepare` is there to get it.
    """
    named = [override for override in overrides if not override.startswith(("resume=", "device="))]
    by = (
        f"`python -m omni.prepare {shlex.join(named)}`"
        if named
        else "`python -m omni.prepare` with the run's overrides"
    )
    missing, start = [], cfg.stage.init_from
    if start is not None and not (Path(start) / "config.yaml").is_file():
        missing.append(
            f"stage.init_from: {start} is no run, and no folder with one that passed; train the stage before it, as "
            "`make align` does, or name a run of it"
        )
    if (tokenizer := name_of_tokenizer(cfg.backbone)) != BYTES:
        try:
            find_file(Path(tokenizer))
        except TokenizerError as error:
            missing.append(f"backbone.tokenizer: {error}; {by} trains one")
    for key, node in components(cfg):
        if not key.startswith("dataset") or (target := str(node.get("_target_"))) not in TARGETS:
            continue
        paths = node.get("path") or []
        for path in [paths] if isinstance(paths, str) else paths:
            if "*" not in path and not Path(path).expanduser().exists():
                missing.append(f"{key}.path: {path} is not there; a relative path starts where you are")
        folder = None if target == MADE_AT_ONCE else node.get("folder")
        if folder and not any(Path(folder).expanduser().glob(PREPARED.get(target, "*"))):
            missing.append(f"{key}.folder: {folder} is not prepared; {by} sees to it")
    if missing:
        raise ConfigError("\n".join(missing))


def components(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """The nodes that become objects: the groups, the parts of a data set, and each logger by its own name."""
    named = {group: cfg.get(group) for group in (*GROUPS, *OPTIONAL)}
    if isinstance(parts := OmegaConf.select(cfg, "dataset.parts"), DictConfig):
        named |= {f"dataset.parts.{name}": node for name, node in parts.items()}
    named |= {f"logger.{name}": node for name, node in (cfg.get("logger") or {}).items()}
    yield from ((key, node) for key, node in named.items() if isinstance(node, DictConfig))


def unresolved(node: Any, path: str = "") -> Iterator[str]:
    """A line for each value that is missing or whose interpolation leads nowhere."""
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        name = f"{path}{key}"
        if OmegaConf.is_missing(node, key):
            yield f"{name}: a value is missing; set it, as in {name}=VALUE"
            continue
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            yield f"{name}: {first_line(error)}"
            continue
        if isinstance(value, DictConfig | ListConfig):
            yield from unresolved(value, name + ".")


def unknown_keys(node: DictConfig, schema: type, prefix: str) -> Iterator[str]:
    """A line for each key the schema does not know: hydra lets `+stage.typo=3` through."""
    known = [field.name for field in fields(schema)]
    for key in node:
        if key not in known:
            yield f"{prefix}{key}: unknown key{suggest(str(key), known, prefix)}"
        elif not OmegaConf.is_interpolation(node, key) and is_dataclass(inner := OmegaConf.get_type(node, key)):
            yield from unknown_keys(node[key], inner, f"{prefix}{key}.")


def wrong_types(node: DictConfig, schema: type, prefix: str, *, said: set[str]) -> Iterator[str]:
    """A line for each value of another type than the schema asks for, unless something was `said` of it."""
    typed, known = OmegaConf.structured(schema), {field.name for field in fields(schema)}
    for key in node:
        name = f"{prefix}{key}"
        if key not in known or any(other == name or other.startswith(name + ".") for other in said):
            continue
        try:
            typed[key] = node[key]
        except OmegaConfBaseException as error:
            yield f"{name}: {first_line(error)}"


def misfits(cfg: DictConfig) -> Iterator[str]:
    """A line for each pair of values that do not fit together; whatever a user's own class lacks is not judged."""
    width, heads = cfg.backbone.get("n_embd"), cfg.backbone.get("n_head")
    if cfg.get("encoder") is not None:
        yield from misfits_of_ears(cfg.encoder, cfg.projector, width, mixed=cfg.mixer is not None)
    yield from misfits_of_stage(cfg)
    if cfg.precision.name == "fp8" and not cfg.compile:
        yield "compile: without it fp8 is slower than bf16; set compile=true, or precision=bf16"
    if width and heads and heads > 0 and (width % heads or width // heads % 2):
        fits = max(1, width // 128)
        yield f"backbone.n_head: {heads} heads do not divide a width of {width} into even parts; try {fits}"
    elif heads and (cfg.backbone.get("n_kv_head") or 0) > 0 and heads % cfg.backbone.n_kv_head:
        yield f"backbone.n_kv_head: {cfg.backbone.n_kv_head} does not divide n_head={heads}"
    if set(cfg.backbone.get("window_pattern", "L").upper()) - {"S", "L"}:
        yield f"backbone.window_pattern: {cfg.backbone.window_pattern!r} must be made of S and L"
    yield from misfits_of_tokenizer(cfg.backbone)
    for name, node in cfg.logger.items():
        if node is not None and not isinstance(node, DictConfig):
            yield f"logger.{name}: put a name of its own above a logger's keys, as conf/logger/csv.yaml does"
    if cfg.logger.get("csv") is None:
        yield "logger.csv: missing, and curve, gate and resume read it; keep csv in the list, as in logger=[csv]"
    yield from out_of_range(cfg)


def misfits_of_stage(cfg: DictConfig) -> Iterator[str]:
    """What a stage that hears and one of text alone each ask for and the other has no use for."""
    if cfg.get("encoder") is not None:
        if cfg.stage.eval_every and cfg.features is None:
            yield "stage.eval_every: looks at held-out clips whose states are kept on disk; set features=data/features"
        return
    if cfg.mixer is not None:
        yield "mixer: there is no encoder whose layers it could mix; drop it"
    if cfg.stage.eval_tokens is None:
        yield "stage.eval_tokens: missing, and a stage of text alone is judged by them; set it, or take stage=w0_base"
    if cfg.augment is not None:
        yield "augment: there are no clips in a stage of text alone; drop it"
    if cfg.debug.limit_clips is not None:
        yield "debug.limit_clips: there are no clips in a stage of text alone; drop it"


def misfits_of_tokenizer(backbone: DictConfig) -> Iterator[str]:
    """A tokenizer that is not there yet is no misfit: `omni.prepare` may be about to train it."""
    source = backbone.get("init_from")
    if source and not Path(source).expanduser().exists():
        yield f"backbone.init_from: {source} is not there; " + (
            "it comes with a clone of omni, and not with the package: start in the clone's folder, or set "
            "backbone.init_from and backbone.tokenizer to its place there"
            if source == STARTER
            else "name a run, an exported folder, or a nanochat base directory"
        )
        return
    name = name_of_tokenizer(backbone)
    with suppress(TokenizerError):
        size = read_vocab_size(name)
        if backbone.get("vocab_size", size) != size:
            yield (
                f"backbone.vocab_size: {backbone.vocab_size}, and the tokenizer of {name} has {size}; "
                f"set backbone.vocab_size={size}"
            )


def name_of_tokenizer(backbone: DictConfig) -> str:
    """What `load_tokenizer` takes: the one that is named, the one beside the weights to start from, or bytes."""
    named, source = backbone.get("tokenizer"), backbone.get("init_from")
    if named or not source:
        return named or BYTES
    try:
        return str(find_file(Path(source)))
    except TokenizerError:  # a run on bytes keeps none
        return BYTES


def misfits_of_ears(encoder: DictConfig, projector: DictConfig, width: int | None, *, mixed: bool) -> Iterator[str]:
    yield from misfits_of_layers(encoder, projector.get("in_dim"), mixed=mixed)
    if projector.get("init") == "zero" and projector.get("gate"):
        yield (
            "projector.init: zero with gate=true puts two norms behind a zero, and the first step explodes; "
            "set projector.gate=false"
        )
    if width is not None and projector.get("out_dim") not in (None, width):
        yield f"projector.out_dim: {projector.out_dim} is not the backbone's width; set projector.out_dim={width}"
    if encoder.get("n_heads") and encoder.get("width", 0) % encoder.n_heads:
        yield f"encoder.n_heads: {encoder.n_heads} does not divide encoder.width={encoder.width}"


def misfits_of_layers(encoder: DictConfig, in_dim: int | None, *, mixed: bool) -> Iterator[str]:
    layers, depth, width = list(encoder.get("layers", [-1])), encoder.get("depth"), encoder.get("width")
    if depth is not None:
        outside = [layer for layer in layers if not -depth - 1 <= layer <= depth]
        if outside:
            yield f"encoder.layers: {outside} are not among the states 0..{depth} (or -1..{-depth - 1} from the end)"
        if len({layer % (depth + 1) for layer in layers}) < len(layers):
            yield f"encoder.layers: {layers} names a state twice"
            return
    kept = 1 if mixed else len(layers) or (depth or 0) + 1
    if width is not None and in_dim not in (None, kept * width):
        yield (
            f"projector.in_dim: {in_dim} is not what the {'mixer' if mixed else 'encoder'} gives, {kept} layer(s) of "
            f"{width}; set projector.in_dim={kept * width}"
        )


def out_of_range(cfg: DictConfig) -> Iterator[str]:
    """A line for each number that no run can have."""
    if not 0 < cfg.stage.lr < math.inf:
        yield f"stage.lr: {cfg.stage.lr} must be a number above 0"
    if cfg.stage.warmup_steps < 0:
        yield f"stage.warmup_steps: {cfg.stage.warmup_steps} must not be below 0"
    if not 0 <= cfg.seed < 2**32:
        yield f"seed: {cfg.seed} must lie between 0 and {2**32 - 1}"
    for key in ("warmdown", "final_lr"):
        if not 0 <= cfg.stage[key] <= 1:
            yield f"stage.{key}: {cfg.stage[key]} must lie between 0 and 1"
    if re.search(r"[/\\]|^\.*$", cfg.stage.name) or re.search(r"[/\\]|^\.*$", cfg.sweep.name):
        yield "stage.name, sweep.name: they name a folder, so they are not empty and hold no slash"
    for metric, threshold in (cfg.stage.gate or {}).items():
        if threshold is not None and not math.isfinite(threshold):
            yield f"stage.gate.{metric}: {threshold} is reached by nothing"
    for key, low, high in (("weight_decay", 0, math.inf), ("eps", 0, math.inf)):
        if not low <= cfg.optimizer.get(key, low) < high:
            yield f"optimizer.{key}: {cfg.optimizer[key]} must be a number not below {low}"
    if not 0 <= ((cfg.get("projector") or {}).get("dropout") or 0) < 1:
        yield f"projector.dropout: {cfg.projector.dropout} must be a share from 0 to below 1"
    betas = cfg.optimizer.get("betas")
    if betas is not None and (len(betas) != 2 or not all(0 <= beta < 1 for beta in betas)):
        yield f"optimizer.betas: {list(betas)} must be two numbers from 0 to below 1"
    for key in AT_LEAST_ONE:
        value = OmegaConf.select(cfg, key)
        if value is not None and value < 1:
            yield f"{key}: {value} must be at least 1"


def suggest(word: str, known: list[str], prefix: str = "") -> str:
    """'; did you mean ...?' with the nearest known word, or what there is to choose from."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {prefix}{near[0]}?"
    names = sorted(name for name in known if not name.startswith("_"))
    return f"; known here: {', '.join(names)}" if names else "; it takes none"


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].removeprefix("OmniError raised while resolving interpolation: ")
