"""A model that somebody trained, ready to be used: out of a run's folder, an exported one, or nanochat's."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from omni.config.build import adapt, build_model, build_tokenizer
from omni.config.check import ConfigError, check
from omni.config.compose import compose
from omni.config.device import import_torch, pick_device, pick_dtype
from omni.config.feeds import build_dataset, cached_clips
from omni.config.make import make
from omni.config.render import load, self_contained
from omni.config.whole import PIPELINE, load_whole
from omni.data.manifest import NoSplitError
from omni.errors import OmniError
from omni.record.facts import arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from omni.data.cached import CachedClips
    from omni.data.clips import Clips
    from omni.data.manifest import Clip
    from omni.evaluation.choices import Question
    from omni.generation.prompt import Segment
    from omni.model.omni import Omni
    from omni.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Trained:
    """The pipeline in eval mode, its tokenizer, and where they come from: of a run, its checkpoint. trust: as it was
    given to `load_trained`."""

    source: str
    model: "Omni"
    tokenizer: "Tokenizer"
    checkpoint: Path | None = None
    trust: "str | Sequence[str]" = ()

    @property
    def arithmetic(self) -> str:
        """In words: where it computes, and in what."""
        return arithmetic(self.model, self.model.backbone.lm_head.weight.device)

    def ask(self, question: str, *sounds: str, max_tokens: int = 128) -> str:
        """The likeliest answer to a question about some sound files, or none. Raises as `hear`."""
        from omni.generation.engine import Engine
        from omni.generation.sampling import Settings

        settings = Settings(temperature=0, max_tokens=max_tokens)
        return Engine(self.model.backbone, self.tokenizer).complete([self.turn(question, sounds)], settings)[0].text

    def turn(self, question: str, sounds: "Sequence[str]") -> "list[Segment]":
        """The prompt of a user who brings some sound files and asks. Raises as `hear`."""
        from omni.generation.prompt import segments
        from omni.text.chat import render_prompt

        content = [*({"type": "audio"} for _ in sounds), {"type": "text", "text": question}]
        ids = render_prompt({"messages": [{"role": "user", "content": content}]}, self.tokenizer)
        return segments(ids, [self.hear(path) for path in sounds])

    def hear(self, path: str) -> "Tensor":
        """A sound file as soft tokens (S, C).

        Raises:
            ConfigError: the model is of text alone.
            AudioError: the file cannot be read, or holds nothing audible.
        """
        import torch

        from omni.audio.read import check_audible, read

        if self.model.encoder is None:
            raise ConfigError(f"audio: {self.source} is of text alone and has no ears")
        waveform = read(path)
        check_audible(waveform, min_seconds=0.1, what=path)
        with torch.inference_mode():
            states, frames = self.model.encoder([waveform.to(self.model.backbone.lm_head.weight.device)])
            soft, lengths = self.model.hear(states, frames)
        return soft[0, : lengths[0]]


def load_trained(
    source: str, *, device: str = "auto", precision: str = "auto", trust: "str | Sequence[str]" = ()
) -> Trained:
    """A model that somebody trained. No code of theirs runs.

    Args:
        source: a run (its newest checkpoint) or one of its checkpoints, or a folder that was exported of one, with all
            parts; or a language model alone: an exported folder, nanochat's base directory, or one of nanochat's
            `model_*.pt`.
        precision: of all parts, whatever they were trained in.
        trust: modules of your own whose classes it may be built of, besides omni's.

    Raises:
        ConfigError: a run that cannot be built here, or of classes that are not omni's and not in `trust`.
        OmniError: nothing to load there, or something damaged.
    """
    path = Path(source).expanduser()
    if checkpoint := find_checkpoint(path):
        check_base(checkpoint, trust)
    import_torch()  # it takes seconds, so what is missing is said before
    from omni.model.lora import has_lora, merge_lora
    from omni.model.omni import Omni
    from omni.model.pretrained import load_gpt

    on = pick_device(device)
    dtype = pick_dtype(precision, on)
    if checkpoint:
        model, tokenizer = load_run(checkpoint, dtype, on, trust)
        if has_lora(model.backbone):  # beside its matrices they would cost time with every token
            model.backbone = merge_lora(model.backbone)
    elif (path / PIPELINE).is_file():
        model, tokenizer = load_whole(path, dtype, on, trust)
    else:
        backbone, tokenizer = load_gpt(path, dtype)
        model = Omni(encoder=None, projector=None, backbone=backbone).to(on)
    model.backbone.to(dtype)  # nothing trains any more, so nothing needs fp32 masters
    return Trained(source, model.eval(), tokenizer, checkpoint, trust)


def own_data(trained: Trained) -> "Clips":
    """The data set that a run was trained on.

    Raises:
        ConfigError: an exported folder, which has none.
    """
    if trained.checkpoint is None:
        raise ConfigError(
            f"run: {trained.source} is no run, so it has no data of its own; name some, as in dataset=manifest "
            "dataset.path=my.jsonl"
        )
    return make(load(trained.checkpoint.parents[1], trained.trust).dataset, "dataset")


def held_out(trained: Trained, split: str) -> "Clips":
    """A split of the data set that a run was trained on.

    Raises:
        ConfigError: as `own_data`; a data set that has no splits.
        ManifestError: no such split.
    """
    dataset = own_data(trained)
    if not hasattr(dataset, "of"):
        raise ConfigError(f"dataset: {type(dataset).__name__} has no `of(split)`, so nothing of it is held out")
    return dataset.of(split)


def named_data(overrides: "Sequence[str]", split: str | None) -> "tuple[Clips, str | None]":
    """A data set that the overrides of a command line name, and its split: "test" unless another is asked for, and all
    of it (None) where it has none.

    Raises:
        ConfigError: overrides that do not compose, or that name text.
        ManifestError: no such split.
    """
    import_torch()
    cfg = compose(list(overrides))
    check(cfg)
    node, wanted = cfg.dataset, split or "test"
    if "split" not in node:
        dataset = build_dataset(node, None)
        return (dataset.of(wanted), wanted) if hasattr(dataset, "of") else (dataset, None)
    node.split = wanted
    try:
        return build_dataset(node, None), wanted
    except NoSplitError:
        if split is not None:
            raise
    node.split = None
    return build_dataset(node, None), None


def benchmark(trained: Trained, split: str) -> "Clips":
    """AudioBench-mini: the frozen questions for "test", those of the run's own data for "val" and "extended".

    Raises:
        ConfigError: another split; data without such questions.
    """
    if split == "test":
        from omni.instructions.benchmark import AudioBenchMini

        return AudioBenchMini()
    if split not in ("val", "extended"):
        raise ConfigError(f"split: {split} is none of test, val, extended")
    questions = held_out(trained, {"val": "val", "extended": "test"}[split])
    if not any(clip.choices for clip in questions.clips):
        raise ConfigError(
            f"split: {split} of {type(questions).__name__} has no questions: its run was not trained on any, or the "
            "extended set is not made yet (python -m omni.prepare dataset=audio_instructions dataset.split=test)"
        )
    return questions


def trained_questions(trained: Trained) -> "list[Question]":
    """The questions with choices that a run was trained on, each of its sounds once; none where its data is not here,
    as where it was exported to."""
    from omni.evaluation.choices import FEWEST, MOST
    from omni.instructions.questions import question_of

    try:
        dataset = own_data(trained)
        asked = [place for place in range(len(dataset)) if FEWEST <= len(dataset.clips[place].choices or ()) <= MOST]
        first = {dataset.key(place): dataset.clips[place] for place in reversed(asked)}
    except OmniError:
        return []
    return [question_of(clip) for clip in reversed(first.values())]


def encoded(
    trained: Trained, dataset: "Clips", only: "Callable[[Clip], bool]", *, memory: str, own: bool
) -> "CachedClips":
    """Some clips of a data set by way of a model's encoder; its states are kept where its run keeps them.

    Args:
        memory: a folder for them where there is no other.
        own: it is the run's own data, to be cut as that was.

    Raises:
        ConfigError: a model of text alone.
    """
    if trained.model.encoder is None:
        raise ConfigError(f"run: {trained.source} is of text alone and has no ears; give a run that was taught to hear")
    kept = {"features": None, "debug": {"limit_clips": None}}
    run = trained.checkpoint and trained.checkpoint.parents[1]
    cfg = OmegaConf.create(kept) if run is None else load(run, trained.trust)
    cfg.features = cfg.features or memory
    if not own:
        cfg.debug.limit_clips = None
    device = trained.model.backbone.lm_head.weight.device
    return cached_clips(cfg, dataset, trained.model.encoder, trained.tokenizer, device, only)


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that a path means if it is a run or in one. Raises OmniError where nothing is, and for a run that
    has none yet."""
    from omni.model.layout import list_checkpoints

    if not path.exists():
        raise OmniError(
            f"{path}: no weights there, it does not exist; give an omni run or checkpoint, or an exported folder"
        )
    if path.parent.name == "checkpoints" and (path.parents[1] / "config.yaml").is_file():
        return path
    if not (path / "config.yaml").is_file():
        return None
    if not (found := list_checkpoints(path / "checkpoints")):
        raise OmniError(f"run: {path} has no checkpoint yet; stage.checkpoint_every says when its stage makes one")
    return found[-1]


def check_base(checkpoint: Path, trust: "str | Sequence[str]" = ()) -> None:
    """Raise ConfigError for a checkpoint without its language model where that is not here either."""
    from omni.model.layout import holds_base

    run = checkpoint.parents[1]
    source = load(run, trust).backbone.get("init_from")
    if source and not Path(source).expanduser().exists() and not holds_base(checkpoint):
        raise ConfigError(
            f"backbone.init_from: {run} is without its language model, which is {source}, and that is not in "
            f"{Path.cwd()}; go where it is, as data/starter is in a checkout of omni, or copy it here"
        )


def load_run(
    checkpoint: Path, dtype: "torch.dtype", device: "torch.device", trust: "str | Sequence[str]" = ()
) -> tuple["Omni", "Tokenizer"]:
    """The whole pipeline of a run, as it was at a checkpoint."""
    from omni.model.init_from import load_backbone
    from omni.model.layout import holds_base
    from omni.training.checkpoint import load_weights

    run = checkpoint.parents[1]
    named = load(run, trust)
    cfg = self_contained(named, run)
    check(cfg)
    model = build_model(cfg, dtype, device, trained=True)
    if not holds_base(checkpoint):
        load_backbone(model.backbone, Path(named.backbone.init_from), build_tokenizer(named))
    adapt(model, cfg)
    load_weights(checkpoint, model)
    return model, build_tokenizer(cfg)
