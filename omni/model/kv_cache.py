"""The memory of a running batch: keys, values and the last text embedding of rows of different lengths.

Rows end together: whatever its length n, a row holds the n columns in front of `end`. So one token for every row is
one new column, a window is one slice, and a mask is needed only where a row is shorter than what a layer looks at.

Shape letters: N layers, B rows, G key/value heads, H heads, K columns seen, T new columns, E head width, C width.
"""

import torch
from torch import Tensor

from omni.model.attention import attend

SPARE = 256
"""Columns to grow by. Moving costs about what attention costs anyway in a step or two."""


class KVCache:
    """Keys and values (N, 2, rows, G, columns, E). Made by `GPT.new_cache`; grows as needed.

    Attributes:
        lengths: how many positions, audio and text, each row holds.
        previous_BC: each row's last text token as smear wants it: normed, not smeared. It is zero before the first
            one, and zero smears nothing.
    """

    def __init__(self, kv: Tensor, previous_BC: Tensor):
        self.kv, self.previous_BC, self.end = kv, previous_BC, 0
        self.lengths = [0] * len(previous_BC)

    def __len__(self) -> int:
        return len(self.lengths)

    def open(self, columns: int) -> "Chunk":
        """Room for `columns` new positions in every row; `close` says how many of them count."""
        if torch.is_grad_enabled():
            raise RuntimeError("a KV cache carries no gradients: call the model under torch.inference_mode()")
        if self.end + columns > self.kv.size(4):
            self._move(rows=len(self), end=max(self.lengths), room=columns + SPARE)
        return Chunk(self, columns)

    def close(self, counts: int | Tensor) -> None:
        """Keep the first `counts` of each row's new positions; a row with fewer than others moves up to the end."""
        counts = [counts] * len(self) if isinstance(counts, int) else counts.tolist()
        longest = max(counts)
        for row, count in enumerate(counts):
            self.lengths[row] += count
            if count < longest:
                last = self.end + count
                held = self.kv[:, :, row, :, last - self.lengths[row] : last].clone()
                self.kv[:, :, row, :, last - self.lengths[row] + longest - count : self.end + longest] = held
        self.end += longest

    def beginning(self, positions: int, *, columns: int, previous_BC: Tensor) -> "KVCache":
        """The first `positions` of the only row, in a cache with room for `columns`. previous_BC: what it has there."""
        other = KVCache(self.kv.new_zeros(*self.kv.shape[:4], columns, self.kv.size(5)), previous_BC)
        other.kv[..., :positions, :] = self._held(0)[..., :positions, :].unsqueeze(2)
        other.lengths, other.end = [positions], positions
        return other

    def join(self, other: "KVCache", copies: int = 1) -> None:
        """Add copies of `other`, a cache of one row, behind the rows that are here."""
        (length,), rows, end = other.lengths, len(self) + copies, max(self.end, other.lengths[0])
        if rows > self.kv.size(2) or end > self.end:
            self._move(rows=rows, end=end, room=SPARE)
        self.kv[:, :, len(self) : rows, :, end - length : end] = other._held(0).unsqueeze(2)
        self.previous_BC = torch.cat([self.previous_BC, other.previous_BC.expand(copies, -1)])
        self.lengths += [length] * copies

    def drop(self, row: int) -> None:
        """Let a row go; the last one takes its place."""
        last = len(self) - 1
        self.kv[:, :, row, :, self.end - self.lengths[last] : self.end] = self._held(last)
        self.previous_BC[row] = self.previous_BC[last]
        self.previous_BC = self.previous_BC[:last]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._move(rows=0, end=0, room=0)

    def _held(self, row: int) -> Tensor:
        """What a row holds (N, 2, G, length, E)."""
        return self.kv[:, :, row, :, self.end - self.lengths[row] : self.end]

    def _move(self, *, rows: int, end: int, room: int) -> None:
        """Go to storage for so many rows, their common end at `end`, with room behind it."""
        used, kept = max(self.lengths, default=0), self.kv[:, :, : len(self)]
        # Zeros, since a row's attention of 0 to columns that are not its own must not meet a NaN there.
        self.kv = self.kv.new_zeros(*kept.shape[:2], rows, kept.size(3), end + room, kept.size(5))
        self.kv[:, :, : len(self), :, end - used : end] = kept[..., self.end - used : self.end, :]
        self.end = end


class Chunk:
    """New columns at the end of a cache, while the layers fill them.

    Attributes:
        positions: what to number the new columns with: a slice where all rows agree, else (B, T).
    """

    def __init__(self, cache: KVCache, columns: int):
        self.cache, self.columns = cache, columns
        self.shortest, self.longest = min(cache.lengths), max(cache.lengths)
        self.positions = slice(self.longest, self.longest + columns)
        if self.shortest < self.longest:
            self.lengths_B = torch.tensor(cache.lengths, device=cache.kv.device)
            self.positions = self.lengths_B[:, None] + torch.arange(columns, device=cache.kv.device)

    def attend(self, layer: int, q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, window: int) -> Tensor:
        """Store the layer's new keys and values, and attend to those within the window (B, H, T, E)."""
        past, end = min(self.longest, window), self.cache.end
        seen = self.cache.kv[layer, :, : len(self.cache), :, end - past : end + self.columns]
        k_BGKE, v_BGKE = seen.unbind(0)
        k_BGKE[:, :, past:] = k_BGTE
        v_BGKE[:, :, past:] = v_BGTE
        return attend(q_BHTE, k_BGKE, v_BGKE, window, None if self.shortest >= past else past - self.lengths_B)
