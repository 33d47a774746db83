"""What a language model can do with text: bits per byte on text it has not seen, and samples to read."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from omni.generation.engine import Engine
from omni.generation.sampling import Settings
from omni.model.gpt import GPT
from omni.text.tokenizer import IGNORE, Tokenizer

GREEDY = Settings(temperature=0.0, max_tokens=48)


class LanguageReport:
    """Looks at a model in training; call it for its scores and samples.

    Args:
        model: the language model.
        batches: ids and targets (B, L) of held-out text.
        tokenizer: of the text.
        prompts: beginnings for the model to go on from, greedily.
    """

    metrics = ("bpb",)

    def __init__(
        self, model: GPT, batches: Sequence[tuple[Tensor, Tensor]], *, tokenizer: Tokenizer, prompts: Sequence[str]
    ):
        self.model, self.batches, self.tokenizer, self.prompts = model, batches, tokenizer, prompts

    def __call__(self) -> tuple[dict[str, float], list[str]]:
        """Scores by name, and each prompt with what the model makes of it."""
        self.model.eval()
        bytes_V = torch.tensor(self.tokenizer.token_bytes(), device=self.model.lm_head.weight.device)
        scores = {"bpb": bits_per_byte(self.model, self.batches, bytes_V)}
        prompts = [[[self.tokenizer.bos, *self.tokenizer.encode(prompt)]] for prompt in self.prompts]
        rows = Engine(self.model, self.tokenizer).complete(prompts, GREEDY)
        return scores, [f"{prompt}|{row.text}" for prompt, row in zip(self.prompts, rows, strict=True)]


@torch.no_grad()
def bits_per_byte(model: GPT, batches: Sequence[tuple[Tensor, Tensor]], bytes_V: Tensor) -> float:
    """Bits needed per byte of text: the sum of nats / (ln 2 x the sum of bytes).

    A loss per token falls when tokens get shorter; bits per byte compare across vocabularies, and with gzip. Special
    tokens have no bytes: neither their loss nor their length counts (nanochat).

    Args:
        batches: ids and targets (B, L) each.
        bytes_V: how many bytes each token stands for, 0 for specials.
    """
    sums = []  # left on the device, so that it is waited for once
    for idx_BL, targets_BL in batches:
        losses = model(idx_BL, targets_BL, reduction="none")
        targets = targets_BL.flatten()
        bytes_of = torch.where(targets == IGNORE, 0, bytes_V[targets.clamp(min=0)])
        graded = torch.where(bytes_of > 0, losses, 0)
        sums.append(torch.stack([graded.sum(), bytes_of.sum().to(losses.dtype)]))
    # In fp64, which some GPUs have not, only here.
    nats, bytes_seen = torch.stack(sums).cpu().double().sum(0).tolist() if sums else (0.0, 0.0)
    return nats / (math.log(2) * bytes_seen) if bytes_seen else math.nan
