"""From a model's sizes to its recipe: how many tokens, in what batches, at what weight decay, for how many FLOPs.

nanochat's scaling: the depth is the one dial, everything else is carried over from d12, where it was tuned. Tokens
follow the parameters (Hoffmann et al., 2022), the batch follows tokens^0.383, and the weight decay keeps
tokens * rate * decay / batch fixed, that is, the share of the run that the weights remember (Bergsma et al., 2025).

No model is built and torch is not imported, so a configuration can be judged before anything is loaded.
"""

import math
from dataclasses import dataclass

TUNED_DEPTH, TUNED_BATCH, TUNED_WEIGHT_DECAY = 12, 2**19, 0.28
BATCH_EXPONENT = 0.383
HEAD_DIM = 128
SMEAR_CHANNELS, GATE_CHANNELS = 24, 12


@dataclass(frozen=True)
class Sizes:
    """The sizes of a `GPT`, named as there."""

    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    vocab_size: int = 32768
    sequence_len: int = 2048
    window_pattern: str = "SSSL"

    @classmethod
    def from_depth(cls, n_layer: int, **others: int | str) -> "Sizes":
        """nanochat's: 64 wide a layer, rounded up to whole heads of 128."""
        heads = math.ceil(64 * n_layer / HEAD_DIM)
        return cls(n_layer=n_layer, n_embd=heads * HEAD_DIM, n_head=heads, n_kv_head=heads, **others)

    @property
    def kv_width(self) -> int:
        return self.n_kv_head * (self.n_embd // self.n_head)

    @property
    def vocab_rows(self) -> int:
        """Rows of every table over the vocabulary: the next multiple of 64."""
        return math.ceil(self.vocab_size / 64) * 64

    @property
    def value_layers(self) -> int:
        """Layers with value embeddings: every other one, counted from the last."""
        return math.ceil(self.n_layer / 2)

    @property
    def windows(self) -> list[int]:
        """How far back each layer looks (see `omni.model.gpt.window_sizes`)."""
        short = math.ceil(self.sequence_len / 4 / 128) * 128
        pattern = [self.window_pattern[i % len(self.window_pattern)].upper() for i in range(self.n_layer - 1)]
        return [short if letter == "S" else self.sequence_len for letter in pattern] + [self.sequence_len]

    @property
    def matrix_parameters(self) -> int:
        """What scaling counts as the model's size: the matrices of the blocks and lm_head."""
        attention = 2 * self.n_embd * (self.n_embd + self.kv_width)
        gates = self.value_layers * GATE_CHANNELS * self.n_kv_head
        return self.n_layer * (attention + 8 * self.n_embd**2) + gates + self.vocab_rows * self.n_embd

    @property
    def parameters(self) -> int:
        """All of them."""
        tables = self.vocab_rows * (self.n_embd + self.value_layers * self.kv_width)
        return self.matrix_parameters + tables + SMEAR_CHANNELS + 2 + 2 * self.n_layer


def run_tokens(sizes: Sizes, ratio: float) -> int:
    """Tokens of a run: `ratio` for each of `matrix_parameters`."""
    return int(ratio * sizes.matrix_parameters)


def best_batch(sizes: Sizes, ratio: float) -> int:
    """Tokens of an optimizer step, a power of two."""
    grown = run_tokens(sizes, ratio) / run_tokens(tuned(sizes), ratio)
    return 2 ** round(math.log2(TUNED_BATCH * grown**BATCH_EXPONENT))


def best_weight_decay(sizes: Sizes, ratio: float, batch_tokens: int) -> float:
    """Muon's at the start of a run of `run_tokens` in steps of `batch_tokens`."""
    grown = run_tokens(sizes, ratio) / run_tokens(tuned(sizes), ratio)
    return TUNED_WEIGHT_DECAY * math.sqrt(batch_tokens / TUNED_BATCH) / grown


def tuned(sizes: Sizes) -> Sizes:
    """The model that all was tuned on, with a vocabulary as large."""
    return Sizes.from_depth(TUNED_DEPTH, vocab_size=sizes.vocab_size)


def flops_per_token(sizes: Sizes, length: int) -> int:
    """FLOPs of forward and backward, a token in rows of `length` tokens (PaLM's count, Chowdhery et al., 2022).

    A multiplied parameter costs 6, an attended position 12 a channel; causality's saving is not counted.
    """
    attended = sum(min(window, length) for window in sizes.windows)
    return 6 * (sizes.matrix_parameters + SMEAR_CHANNELS) + 12 * sizes.n_embd * attended
