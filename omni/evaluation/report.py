"""The hearing report: all that is asked of a model that claims to hear, on clips it has not trained on.

Losses under the five conditions of `omni.evaluation.hearing`, the audio gain, retrieval both ways, and transcripts.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni.audio import SAMPLE_RATE
from omni.data.features import Example
from omni.evaluation.hearing import another, gain, project, text_losses
from omni.evaluation.retrieval import loss_matrix, ranks, recall
from omni.evaluation.transcription import error_rates, transcribe
from omni.model.omni import Omni
from omni.text.tokenizer import Tokenizer

DRAWS, CANDIDATES, WORDS = 5, 100, 3
"""Retrieval is among so many clips whose transcripts differ and have so many words or more, drawn so often."""
MAX_TOKENS = 96


def hearing_report(model: Omni, examples: Sequence[Example], tokenizer: Tokenizer) -> tuple[dict[str, Any], list[str]]:
    """Figures for JSON, and what the model writes down for each clip.

    losses: nats a token by condition. audio_gain: value, low, high. retrieval: a clip's transcript among others
    (to_text) and a transcript's clip (to_audio). wer, cer: of greedy transcripts.
    """
    backbone, bos = model.backbone, tokenizer.bos
    texts, soft = [example.ids_L for example in examples], project(model, examples)
    silent = project(model, [silence(model, example) for example in examples])
    fronts = {
        "matched": soft,
        "shuffled": [soft[i] for i in another(len(soft))],
        "silence": silent,
        "none": [None] * len(soft),
        "transcript": [text[1:] for text in texts],
    }
    nats = {name: text_losses(backbone, front, texts, bos=bos) for name, front in fronts.items()}
    tokens = np.array([len(text) for text in texts])
    said = [tokenizer.decode(text.tolist()[1:]) for text in texts]
    heard = transcribe(backbone, tokenizer, soft, max_tokens=MAX_TOKENS)
    figures = {
        "clips": len(examples),
        "losses": {name: float(total.sum() / tokens.sum()) for name, total in nats.items()},
        "audio_gain": asdict(gain(nats["shuffled"], nats["matched"], tokens)),
        "retrieval": retrieval(model, soft, texts, said, bos=bos),
        **asdict(error_rates(said, heard)),
    }
    return figures, heard


def silence(model: Omni, example: Example) -> Example:
    """As long as a clip, and silent."""
    frames = example.states_KTD.size(1)
    device = example.states_KTD.device
    samples = round(frames * SAMPLE_RATE / model.encoder.frame_rate)
    states_BKTD, _ = model.encoder([torch.zeros(samples, device=device)])
    return Example(example.id, states_BKTD[0, :, :frames].to(example.states_KTD.dtype), example.ids_L)


def retrieval(
    model: Omni, soft: Sequence[Tensor], texts: Sequence[Tensor], said: Sequence[str], *, bos: int
) -> dict[str, Any]:
    """recall_1, recall_5 and the median rank, both ways, averaged over the draws; chance is 1, 5 and 50 of 100."""
    distinct = {text.lower(): i for i, text in enumerate(said) if len(text.split()) >= WORDS}
    pool = sorted(distinct.values())
    among = min(CANDIDATES, len(pool))
    found: dict[str, list[np.ndarray]] = {"to_text": [], "to_audio": []}
    for draw in range(DRAWS):
        chosen = np.random.default_rng(draw).choice(pool, among, replace=False)
        matrix = loss_matrix(model.backbone, [soft[i] for i in chosen], [texts[i] for i in chosen], bos=bos)
        found["to_text"].append(ranks(matrix))
        found["to_audio"].append(ranks(matrix.T))
    told = {
        way: {
            "recall_1": float(np.mean([recall(each, 1) for each in drawn])),
            "recall_5": float(np.mean([recall(each, 5) for each in drawn])),
            "median_rank": float(np.mean([np.median(each) for each in drawn])),
        }
        for way, drawn in found.items()
    }
    return {"candidates": among, "draws": DRAWS} | told
