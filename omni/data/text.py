"""Text as a stage of text alone trains on it: batches of packed rows, and held-out rows to judge by.

A dataset of text has `feed` and `held_out`; where it can be fetched it also has `prepare(report)`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omni.data.batch import Batch
from omni.data.documents import TextFiles
from omni.data.feed import Feed
from omni.data.packing import PackedRows, Packer
from omni.text.tokenizer import IGNORE, Tokenizer


class PackedText:
    """A dataset of packed rows; what they are made of is its `rows`."""

    def rows(self, split: str, tokenizer: Tokenizer, row_tokens: int, seed: int = 0) -> Packer:
        """A split, packed: "train" endlessly, "val" once."""
        raise NotImplementedError

    def feed(
        self,
        *,
        tokenizer: Tokenizer,
        batch_size: int,
        row_tokens: int,
        embeddings: Callable[[], Tensor],
        seed: int,
    ) -> Feed:
        """Training batches, endlessly.

        Args:
            batch_size, row_tokens: rows a batch, tokens a row.
            embeddings: gives the model's token embeddings, for a dataset that wants them.
            seed: of the order.
        """
        rows = self.rows("train", tokenizer, row_tokens, seed)
        return RowFeed(rows, batch_size=batch_size)

    def held_out(
        self, *, tokenizer: Tokenizer, batch_size: int, row_tokens: int, tokens: int, device: torch.device
    ) -> list[tuple[Tensor, Tensor]]:
        """Ids and targets (B, row_tokens) of about so many tokens of held-out text, always the same.

        Nothing comes twice: where there is less of it, all of it is taken, and the last batch has fewer rows.
        """
        rows = self.rows("val", tokenizer, row_tokens)
        batches = []
        while len(batches) < max(1, tokens // (batch_size * row_tokens)):
            idx_BL, targets_BL = rows.take(batch_size)
            if not len(idx_BL):
                break
            batches.append((idx_BL.to(device), targets_BL.to(device)))
        return batches


class Corpus(PackedText):
    """Documents in files.

    Args:
        path: a file, a folder, a pattern, or a list of files (see `TextFiles`).
        text_field: the column or key that holds the text.
    """

    def __init__(self, *, path: str | list[str], text_field: str = "text"):
        self.path, self.text_field = path, text_field

    def documents(self, split: str, seed: int = 0) -> TextFiles:
        """The documents of "train" or "val"."""
        return TextFiles(path=self.path, split=split, text_field=self.text_field, seed=seed)

    def rows(self, split: str, tokenizer: Tokenizer, row_tokens: int, seed: int = 0) -> Packer:
        """See `PackedText`."""
        return PackedRows(self.documents(split, seed), tokenizer, row_tokens=row_tokens, once=split == "val")


class RowFeed:
    """A feed of packed rows: `batch_size` a batch."""

    def __init__(self, rows: Packer, *, batch_size: int):
        self.rows, self.batch_size = rows, batch_size
        self.number = 0

    def __iter__(self) -> "RowFeed":
        return self

    @property
    def skipped(self) -> Mapping[str, str]:
        return self.rows.stream.skipped

    def __next__(self) -> Batch:
        first = self.number * self.batch_size
        idx_BL, targets_BL = self.rows.take(self.batch_size)
        self.number += 1
        return Batch(
            {"idx_BL": idx_BL, "targets_BL": targets_BL},
            graded=int((targets_BL != IGNORE).sum()),
            names=[f"text rows {first} to {first + self.batch_size - 1}"],
        )

    def skip(self) -> None:
        for _ in range(self.batch_size):
            self.rows.row()
        self.number += 1

    def state_dict(self) -> dict:
        return {"number": self.number, "rows": self.rows.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.number = state["number"]
        self.rows.load_state_dict(state["rows"])
