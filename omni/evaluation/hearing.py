"""Does the model hear? A look at one in training, on clips it has not trained on."""

from omni.data.cached import CachedClips
from omni.data.features import EncodedClips, Example
from omni.evaluation.conditions import CONDITIONS, five_losses, project, seconds, silences
from omni.evaluation.retrieval import CANDIDATES, loss_matrix, ranks, recall, tellable
from omni.evaluation.transcription import transcribe
from omni.model.omni import Omni
from omni.text.tokenizer import Tokenizer

CLIPS, RANKED, SAMPLES = 128, 32, 6
"""So many clips are looked at; of fewer the transcript is ranked, of the first ones written down."""


class HearingLook:
    """Looks at a model in training: does it hear yet? Call it for its scores and samples.

    Args:
        model: the pipeline.
        examples: held-out clips; `CLIPS` of them are looked at, spread over all.
        tokenizer: of the text.
    """

    metrics = (
        *(f"loss_{condition}" for condition in CONDITIONS),
        "audio_gain",
        "audio_gain_low",
        "audio_gain_high",
        "recall_1",
    )

    def __init__(self, model: Omni, examples: EncodedClips | CachedClips, *, tokenizer: Tokenizer):
        self.model, self.examples, self.tokenizer = model, examples, tokenizer
        self.heard: list[Example] = []

    def __call__(self) -> tuple[dict[str, float], list[str]]:
        """Losses in nats a token, the audio gain with its interval, and the share of clips whose own transcript is
        the likeliest; and what the model writes down."""
        if not self.heard:
            self.listen()
        self.model.eval()
        backbone, bos = self.model.backbone, self.tokenizer.bos
        texts, soft = [example.ids_L for example in self.heard], project(self.model, self.heard)
        losses = five_losses(backbone, soft, project(self.model, self.silent), texts, bos=bos)
        gain = losses.gain()
        said = [self.tokenizer.decode(text.tolist()[1:]) for text in texts]
        among = tellable(said)[:CANDIDATES]
        ranked = [among[i] for i in spread(len(among), RANKED)] if len(among) > 1 else []  # alone it would be first
        among = ranked + [i for i in among if i not in ranked]
        matrix = loss_matrix(backbone, [soft[i] for i in ranked], [texts[i] for i in among], bos=bos)
        scores = {f"loss_{condition}": loss for condition, loss in losses.means().items()}
        scores |= {"audio_gain": gain.value, "audio_gain_low": gain.low, "audio_gain_high": gain.high}
        scores["recall_1"] = recall(ranks(matrix), 1)
        lasting = seconds(self.model.encoder, self.heard[:SAMPLES])
        heard = transcribe(backbone, self.tokenizer, soft[:SAMPLES], seconds=lasting)
        return scores, [f"{text}|{guess}" for text, guess in zip(said, heard, strict=False)]

    def listen(self) -> None:
        """Keep the states of the clips and of silence, which never change: before training, or at the first look.

        Raises:
            OmniError: a clip that does not fit the model, or too many that cannot be read.
        """
        for _ in self.examples.encode_ahead(lambda: spread(len(self.examples), CLIPS)):
            pass
        # Of fewer, when some were unreadable.
        self.heard = [self.examples[i] for i in spread(len(self.examples), CLIPS)]
        for example in self.heard:
            self.model.check_fits(example.id, frames=example.states_KTD.size(1), tokens=len(example.ids_L))
        self.silent = silences(self.model, self.heard)


def spread(count: int, most: int) -> list[int]:
    """At most so many of `count`, evenly: neighbours share a speaker."""
    return [i * count // min(most, count) for i in range(min(most, count))]
