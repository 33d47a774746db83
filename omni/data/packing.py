"""Documents cut and laid into rows of equal length, so that no forward pass computes padding.

Best fit, as in nanochat: of the documents waiting, the largest that still fits goes into the row; when none does, the
shortest is cropped to fill it, which loses the fewest tokens. Every document begins with BOS.

Where a stream is split among processes, each packs all of it and passes over what another takes. So what has been used
is one number and a list, whatever the number of processes, and a run resumed on more or fewer of them loses and repeats
nothing. The price is that each process tokenizes everything, and while it does so its GPU waits: packing stands between
the steps, not beside them. Two cores pack 1.5 M tokens a second, twice what eight GPUs eat at depth 24, so that these
would wait a third of the time.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from omni.data.fingerprint import refuse_other_data
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
    """A document's tokens, at most a row of them, and which are graded."""

    ids: list[int]
    graded: list[int]


class Packer:
    """What packed text and packed conversations share: the documents waiting, and where the stream stands.

    Args:
        stream: where documents come from.
        tokenizer: text to ids.
        row_tokens: length T of a row; it takes T + 1 tokens, as each but the last is asked for the next.
        buffer: documents to choose from, no more than there are in an epoch.
        once: end after one epoch.
    """

    hint = ""
    """What may be done when no document can be used."""

    def __init__(
        self, stream: Stream, tokenizer: Tokenizer, *, row_tokens: int, buffer: int = 1000, once: bool = False
    ):
        self.stream, self.tokenizer = stream, tokenizer
        self.size = row_tokens + 1
        self.buffer = min(buffer, len(stream))
        self.end = len(stream) if once else math.inf
        self.place = 0  # of the next document to be read
        self.waiting: list[tuple[int, int]] = []  # tokens and place of each document, sorted
        self.pieces: dict[int, Piece] = {}

    def take(self, rows: int) -> tuple[Tensor, Tensor]:
        """The next rows: ids (B, T) and targets (B, T), int64; fewer or none where the stream has come to its end.

        Raises OmniError when no document can be used.
        """
        packed = [row for _ in range(rows) if (row := self.row())]
        ids = torch.tensor([ids for ids, _ in packed], dtype=torch.int64).view(-1, self.size)
        graded = torch.tensor([graded for _, graded in packed], dtype=torch.bool).view(-1, self.size)
        return ids[:, :-1], ids[:, 1:].where(graded[:, 1:], IGNORE)

    def row(self) -> tuple[list[int], list[int]] | None:
        """The next row: T + 1 ids, and 1 for each that is graded. None where the stream has come to its end."""
        ids: list[int] = []
        graded: list[int] = []
        if not self._refill():
            return None
        while len(ids) < self.size and (self.waiting or self._refill()):  # a small corpus may fit into the row whole
            piece = self._choose(self.size - len(ids))
            if piece is None:
                break
            ids += piece.ids[: self.size - len(ids)]
            graded += piece.graded[: self.size - len(graded)]
        padding = self.size - len(ids)
        return ids + [self.tokenizer.bos] * padding, graded + [0] * padding

    def state_dict(self) -> dict[str, Any]:
        """How far the stream has been used: small, as the documents waiting are named, not held."""
        return {"fingerprint": self.stream.fingerprint, "place": self.place, "waiting": sorted(self.pieces)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there with the very rows. Raises OmniError when the documents are not those of the state."""
        refuse_other_data(state["fingerprint"], self.stream.fingerprint)
        self.waiting, self.pieces = [], {}
        self._read(state["waiting"])
        self.place = state["place"]

    def _refill(self) -> bool:
        """Read on until `buffer` documents wait, or for an epoch where fewer can be used; returns whether any waits.

        Raises OmniError when an epoch had none.
        """
        start, held, epoch = self.place, len(self.waiting), len(self.stream)
        while len(self.waiting) < self.buffer and self.place < self.end:
            read, found = self.place - start, len(self.waiting) > held
            if read >= 2 * epoch or (found and read >= epoch):  # any two epochs' places hold a whole one
                break
            places = range(self.place, min(self.place + min(READ_AHEAD, self.buffer), self.end))
            self._read(places)
            self.place = places.stop
        if len(self.waiting) == held < self.buffer and self.place - start >= epoch:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in list(self.stream.skipped.items())[:5])
            raise OmniError(f"dataset: an epoch has passed without a document that can be used.{self.hint}{reasons}")
        return bool(self.waiting)

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
            return self.fallback()
        return self._pop(bisect_left(self.waiting, (self.waiting[end - 1][0],)))

    def _pop(self, index: int) -> Piece:
        return self.pieces.pop(self.waiting.pop(index)[1])

    def encode(self, items: list[Any]) -> list[Piece]:
        raise NotImplementedError

    def fallback(self) -> Piece | None:
        """What fills a row that no document waiting fits into."""
        raise NotImplementedError


class PackedRows(Packer):
    """Rows of text, every token of it graded, and full but for the last row of a stream that ends. See `Packer`."""

    def encode(self, items: list[str]) -> list[Piece]:
        # What a row cannot hold is lost anyway; cut here, a long document fits an empty row like any other.
        rows = [[self.tokenizer.bos, *ids] for ids in self.tokenizer.encode_batch(items)]
        return [Piece(ids[: self.size], [1] * min(len(ids), self.size)) for ids in rows]

    def fallback(self) -> Piece | None:
        return self._pop(0)


class PackedConversations(Packer):
    """Rows of whole conversations, graded where the assistant speaks, and padded: half an answer teaches to stop
    in the middle. One longer than a row loses its end, and counts only if the assistant speaks before it. See `Packer`.
    """

    hint = " The assistant has to speak within a row: raise backbone.sequence_len."

    def encode(self, items: list[dict]) -> list[Piece]:
        rendered = [render(item, self.tokenizer) for item in items]
        return [Piece(ids[: self.size], graded[: self.size]) for ids, graded in rendered]

    def fallback(self) -> Piece | None:
        return None
