"""The hearing report: all that is asked of a model that claims to hear, on clips it has not trained on.

Losses under the five conditions of `omni.evaluation.conditions`, the audio gain, retrieval both ways, transcripts, and
where soft tokens stand among text embeddings.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omni.data.features import Example
from omni.evaluation.conditions import five_losses, project, seconds, silences
from omni.evaluation.retrieval import retrieval
from omni.evaluation.space import Loudness, Plane, loudness, plane
from omni.evaluation.transcription import error_rates, most, transcribe
from omni.model.omni import Omni
from omni.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class HearingReport:
    """What was found.

    figures: clips; losses, nats a token by condition; audio_gain: value, low, high; hears: see
        `Losses.hears`; retrieval: see there; wer, cer: of greedy transcripts. cut: how many of them were cut off.
    heard: what the model writes down for each clip.
    plane, loudness: see `omni.evaluation.space`.
    """

    figures: dict[str, Any]
    heard: list[str]
    plane: Plane
    loudness: Loudness


def hearing_report(model: Omni, examples: Sequence[Example], tokenizer: Tokenizer) -> HearingReport:
    """The report on a model in eval mode."""
    backbone, bos = model.backbone, tokenizer.bos
    texts, soft = [example.ids_L for example in examples], project(model, examples)
    losses = five_losses(backbone, soft, project(model, silences(model, examples)), texts, bos=bos)
    said = [tokenizer.decode(text.tolist()[1:]) for text in texts]
    lasting = seconds(model.encoder, examples)
    heard = transcribe(backbone, tokenizer, soft, seconds=lasting)
    figures = {
        "clips": len(examples),
        "hears": losses.hears(),
        "losses": losses.means(),
        "audio_gain": asdict(losses.gain()),
        "retrieval": retrieval(backbone, soft, texts, said, bos=bos),
        **asdict(error_rates(said, heard)),
        "cut": sum(len(text) >= most(length) for text, length in zip(heard, lasting, strict=True)),
    }
    return HearingReport(figures, heard, plane(backbone, soft, texts), loudness(backbone, soft, texts))
