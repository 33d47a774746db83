"""A model card, drawn from the files of a run: what it is made of, what it was trained on, what it scored."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from omni.record.hearing_text import percent
from omni.record.run import read_run

LIMITS = """\
It is a small model for research. It answers about the one clip that it is given, in English, in a few words; it was
taught on short clips, mostly of synthetic speech and sounds, and knows next to nothing of the world. What it says of a
voice is about its sound, never about who somebody is or how they feel. Do not decide anything about people with it."""


def card(run: Path) -> str:
    """Markdown about a run folder, or one that was exported of it.

    Raises:
        OmniError: its run.json or config.yaml cannot be read.
    """
    told, cfg = read_run(run), yaml.safe_load((run / "config.yaml").read_text())
    parts = [f"# omni {told['stage']}", "", sentence(told, cfg), "", *table(rows_of(told, cfg)), ""]
    if scores := scores_of(run):
        parts += ["## What it scored", "", *table(scores), ""]
    return "\n".join([*parts, "## What it cannot do", "", LIMITS, ""])


def sentence(told: dict[str, Any], cfg: dict[str, Any]) -> str:
    if cfg.get("encoder") is None:
        return "A language model of text alone."
    return "A language model that hears: a frozen speech encoder, a projector, a small GPT."


def rows_of(told: dict[str, Any], cfg: dict[str, Any]) -> list[tuple[str, str]]:
    """What it is and where it comes from."""
    sizes, parameters = cfg["backbone"], told["parameters"]
    found = [
        ("language model", f"GPT, {sizes['n_layer']} layers of {sizes['n_embd']}, context {sizes['sequence_len']}"),
        ("parameters", f"{parameters['all']:,}, of which this run trained {parameters['trainable']:,}"),
    ]
    for part in ("encoder", "backbone"):
        if told.get(part):
            source, sha256 = told[part]["source"], told[part]["sha256"]
            source = re.sub(r"^/.*?/(?=(outputs|data)/)", "", source)  # where it lay on that machine tells nobody
            found.append((f"{part} weights", source if "sha256" in source else f"{source} (sha256 {sha256[:16]})"))
    if lora := cfg["stage"].get("lora"):
        found.append(("adapters", f"LoRA of rank {lora['rank']}"))
    data = [cfg["dataset"]["_target_"], *(part["_target_"] for part in (cfg["dataset"].get("parts") or {}).values())]
    found.append(("trained on", ", ".join(name.rpartition(".")[2] for name in data)))
    found.append(
        ("for", f"{cfg['stage']['max_steps']:,} steps of {cfg['stage']['batch_size']} clips, seed {told['seed']}")
    )
    if told.get("git"):
        found.append(("code", f"{told['git']['sha'][:12]}{' and changes' if told['git'].get('dirty') else ''}"))
    return [*found, ("run", f"{told['created'][:10]}, {told['status']}")]


def scores_of(run: Path) -> list[tuple[str, str]]:
    """Of the suites that it went through."""
    found = []
    for file in sorted(run.glob("hearing/*.json")):
        scores = json.loads(file.read_text())
        if scores.get("dataset"):  # somebody's own sounds, not those that its run held out
            continue
        gain, retrieval = scores["audio_gain"]["value"], scores["retrieval"]
        held_out = f"{scores['clips']} clips held out ({scores['split']})"
        if gain is not None:
            found.append(("what a clip's sound is worth to its text", f"{gain:.2f} nats a token; {held_out}"))
        if retrieval is not None:  # there were two transcripts to tell apart
            recall = percent(retrieval["to_text"]["recall_1"])
            found.append((f"its transcript found among {retrieval['candidates']}", recall))
        if scores["wer"] is not None:  # there were words to write down
            found.append(("words written down wrong", percent(scores["wer"])))
    for file in sorted(run.glob("audiobench_mini/*.json")):
        scores = json.loads(file.read_text())
        matched, shuffled = scores["matched"], scores["controls"]["shuffled"]
        right, low, high = (percent(matched[key]) for key in ("value", "low", "high"))
        told = f"{right} [{low}, {high}] of {matched['questions']}; another clip's sound {percent(shuffled)}"
        found.append((f"{scores['name']}, {scores['split']}", told))
    return found


def table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
