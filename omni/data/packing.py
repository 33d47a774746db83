"""Documents cut and laid into rows of equal length, so that no forward pass computes padding.

Best fit, as in nanochat: of the documents waiting, the largest that still fits goes into the row; when none does, the
shortest is cropped to fill it, which loses the fewest tokens. Every document begins with BOS.

Where a stream is split among processes, each packs all of it and passes over what another takes. So what has been used
is one number and a list, whatever the number of processes, and a run resumed on more or fewer of them loses and repeats
nothing. The price is that each process tokenizes everything: 1.5 M tokens a second on two cores, which is twice what
eight GPUs eat at depth 24.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from omni.errors import OmniError
from omni.text.chat import render
from omni.text.tokenizer import IGNORE, Tokenizer

READ_AHEAD = 128  # documents tokenized at once, on several threads


class Stream(Protocol):
    """An endless stream of documents that can be read at any place; `TextFiles` and `Conversations` are such."""

    fingerprint: str
    skipped: dict[str, str]

    def __len__(self) -> int: ...

    def read(self, places: Iterable[int]) -> list[Any | None]: ...


class Piece(NamedTuple):
    """A document's tokens, at most a row of them; which are graded; and how many there were."""

    ids: list[int]
    graded: list[int]
    length: int


class Packer:
    """What packed text and packed conversations share: the documents waiting, and where the stream stands.

    Args:
        stream: where documents come from.
        tokenizer: text to ids.
        row_tokens: length T of a row; it takes T + 1 tokens, as each but the last is asked for the next.
        buffer: documents to choose from, no more than there are in an epoch.
    """

    def __init__(self, stream: Stream, tokenizer: Tokenizer, *, row_tokens: int, buffer: int = 1000):
        self.stream, self.tokenizer = stream, tokenizer
        self.size = row_tokens + 1
        self.buffer = min(buffer, len(stream))
        self.place = 0  # of the next document to be read
        self.waiting: list[tuple[int, int]] = []  # tokens and place of each document, sorted
        self.pieces: dict[int, Piece] = {}
        self.used = self.cropped = 0

    def take(self, rows: int) -> tuple[Tensor, Tensor]:
        """The next rows: ids (B, T) and targets (B, T), int64. Raises OmniError when no document can be read."""
        packed = [self.row() for _ in range(rows)]
        ids = torch.tensor([ids for ids, _ in packed])
        graded = torch.tensor([graded for _, graded in packed], dtype=torch.bool)
        return ids[:, :-1], ids[:, 1:].where(graded[:, 1:], IGNORE)

    def row(self) -> tuple[list[int], list[int]]:
        """The next row: T + 1 ids, and 1 for each that is graded."""
        self._refill()
        ids: list[int] = []
        graded: list[int] = []
        while len(ids) < self.size and (piece := self._choose(self.size - len(ids))):
            ids += piece.ids[: self.size - len(ids)]
            graded += piece.graded[: self.size - len(graded)]
        padding = self.size - len(ids)
        return ids + [self.tokenizer.bos] * padding, graded + [0] * padding

    @property
    def cropped_share(self) -> float:
        """The share of all tokens that was lost to cropping so far."""
        return self.cropped / max(1, self.used + self.cropped)

    def state_dict(self) -> dict[str, Any]:
        """How far the stream has been used: small, as the documents waiting are named, not held."""
        return {
            "fingerprint": self.stream.fingerprint,
            "place": self.place,
            "waiting": sorted(self.pieces),
            "used": self.used,
            "cropped": self.cropped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there with the very rows. Raises OmniError when the documents are not those of the state."""
        if state["fingerprint"] != self.stream.fingerprint:
            raise OmniError(
                "dataset: its documents are not those the checkpoint was trained on (files, their sizes or the seed "
                "have changed). Bring the old ones back, or start a new run from the checkpoint's weights."
            )
        self.waiting, self.pieces = [], {}
        self._read(state["waiting"])
        self.place, self.used, self.cropped = state["place"], state["used"], state["cropped"]

    def _refill(self) -> None:
        start = self.place
        while len(self.waiting) < self.buffer:
            places = range(self.place, self.place + min(READ_AHEAD, self.buffer))
            self._read(places)
            self.place = places.stop
            if not self.waiting and self.place - start >= len(self.stream):
                reasons = "".join(f"\n  {name}: {reason}" for name, reason in list(self.stream.skipped.items())[:5])
                raise OmniError(f"dataset: an epoch has passed without a document that can be used.{reasons}")

    def _read(self, places: Sequence[int]) -> None:
        found = [(place, item) for place, item in zip(places, self.stream.read(places), strict=True) if item]
        for (place, _), piece in zip(found, self.encode([item for _, item in found]), strict=True):
            if any(piece.graded):
                self.pieces[place] = piece
                insort(self.waiting, (len(piece.ids), place))

    def _choose(self, room: int) -> Piece | None:
        """Take the largest document of at most `room` tokens out of those waiting, the oldest of that size."""
        end = bisect_right(self.waiting, (room + 1,))
        if not end:
            return self.fallback(room)
        return self._pop(bisect_left(self.waiting, (self.waiting[end - 1][0],)), room)

    def _pop(self, index: int, room: int) -> Piece:
        piece = self.pieces.pop(self.waiting.pop(index)[1])
        kept = min(room, len(piece.ids))
        self.used += kept
        self.cropped += piece.length - kept
        return piece

    def encode(self, items: list[Any]) -> list[Piece]:
        raise NotImplementedError

    def fallback(self, room: int) -> Piece | None:
        """What fills a row that no document fits into."""
        raise NotImplementedError


class PackedRows(Packer):
    """Rows of text, full to the last token, and every token graded. See `Packer`."""

    def encode(self, items: list[str]) -> list[Piece]:
        # What a row cannot hold is lost anyway; cut here, a long document fits an empty row like any other.
        rows = [[self.tokenizer.bos, *ids] for ids in self.tokenizer.encode_batch(items)]
        return [Piece(ids[: self.size], [1] * min(len(ids), self.size), len(ids)) for ids in rows]

    def fallback(self, room: int) -> Piece | None:
        return self._pop(0, room) if self.waiting else None


class PackedConversations(Packer):
    """Rows of whole conversations, graded where the assistant speaks, and padded: half an answer teaches to stop
    in the middle. One longer than a row loses its end, and counts only if the assistant speaks before it. See `Packer`.
    """

    def encode(self, items: list[dict]) -> list[Piece]:
        rendered = [render(item, self.tokenizer) for item in items]
        return [Piece(ids[: self.size], graded[: self.size], len(ids)) for ids, graded in rendered]

    def fallback(self, room: int) -> Piece | None:
        return None
