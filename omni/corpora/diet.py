"""What a base for hearing is raised on: plain text, and copies of sentences from soft tokens and from tokens."""

from itertools import chain, islice
from typing import Any

from omni.corpora.debian_text import DebianText, read_dialogue
from omni.data.copies import Copies, split_sentences
from omni.data.feed import Feed, Turns
from omni.errors import OmniError

SENTENCES = 200_000
"""Sentences to copy, from the first documents of the corpus."""
DIALOGUE_ROUNDS = 5
"""How often each line of dialogue stands among the sentences: it is what speech sounds like, and it is little."""


class Diet(DebianText):
    """`debian_text` whose batches are plain text and copies in turn.

    Args:
        folder: see `DebianText`.
        soft: share of the batches that are copies from soft tokens.
        hard: share of the batches that are copies from tokens.
        copies: sentences a batch of copies.
        ripening: batches of soft copies over which the hardest become as worn as `Wear` says; 0: at once. Hard copies
            ripen in the same time.

    Raises:
        OmniError: a share that cannot be, no sentence a batch, or a ripening below 0.
    """

    def __init__(self, *, folder: str, soft: float, hard: float, copies: int, ripening: int):
        super().__init__(folder=folder)
        if not (soft >= 0 and hard >= 0 and soft + hard <= 1):
            raise OmniError(f"dataset.soft, dataset.hard: {soft} and {hard} are no shares of all batches")
        if copies < 1 or ripening < 0:
            raise OmniError(f"dataset.copies, dataset.ripening: {copies} must be 1 or more, and {ripening} 0 or more")
        self.shares = {"text": 1 - soft - hard, "soft": soft, "hard": hard}
        self.copies, self.ripening = copies, ripening

    def feed(self, *, seed: int, **given: Any) -> Feed:
        """See `PackedText.feed`."""
        sentences = islice(chain.from_iterable(map(split_sentences, self.documents("train"))), SENTENCES)
        sentences = [*sentences, *DIALOGUE_ROUNDS * read_dialogue(self.folder)]
        feeds: dict[str, Feed] = {"text": super().feed(seed=seed, **given)}
        for kind in ("soft", "hard"):
            if share := self.shares[kind]:
                feeds[kind] = Copies(
                    sentences,
                    tokenizer=given["tokenizer"],
                    embeddings=given["embeddings"],
                    batch_size=self.copies,
                    soft=kind == "soft",
                    seed=seed,
                    ripening=round(self.ripening * share / (self.shares["soft"] or share)),
                )
        return Turns(feeds, self.shares)
