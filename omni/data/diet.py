"""What a base for hearing is raised on: plain text, and copies of sentences from soft tokens and from tokens."""

from typing import Any

from omni.data.copies import Copies, split_sentences
from omni.data.debian_text import DebianText, read_dialogue
from omni.data.feed import Feed, Turns

SENTENCES = 200_000
"""Sentences to copy, from the first documents of the corpus."""
DIALOGUE_ROUNDS = 5
"""How often each line of dialogue stands among the sentences: it is what speech sounds like, and it is little."""


class Diet(DebianText):
    """`debian_text` whose batches are plain text and copies in turn.

    Args:
        folder, packages, dialogue: see `DebianText`.
        soft: share of the batches that are copies from soft tokens.
        hard: share of the batches that are copies from tokens.
        copies: sentences a batch of copies.
        ripening: batches of copies over which the hardest become as worn as `Wear` says.
    """

    def __init__(
        self, *, folder: str, packages: str, dialogue: str, soft: float, hard: float, copies: int, ripening: int
    ):
        super().__init__(folder=folder, packages=packages, dialogue=dialogue)
        self.shares = {"text": 1 - soft - hard, "soft": soft, "hard": hard}
        self.copies, self.ripening = copies, ripening

    def feed(self, *, seed: int, **given: Any) -> Feed:
        """See `Corpus.feed`."""
        sentences = [*self.sentences(), *DIALOGUE_ROUNDS * read_dialogue(self.dialogue)]
        keys = {"tokenizer": given["tokenizer"], "embeddings": given["embeddings"], "batch_size": self.copies}
        ripening = {"soft": self.ripening, "hard": round(self.ripening * self.shares["hard"] / self.shares["soft"])}
        feeds = {"text": super().feed(seed=seed, **given)}
        for name, batches in ripening.items():
            feeds[name] = Copies(sentences, soft=name == "soft", seed=seed, ripening=batches, **keys)
        return Turns(feeds, self.shares)

    def sentences(self) -> list[str]:
        """The sentences of the corpus' first documents."""
        documents, found = self.documents("train"), []
        for place in range(len(documents)):
            found += split_sentences(documents.read([place])[0] or "")
            if len(found) >= SENTENCES:
                break
        return found
