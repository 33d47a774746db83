"""What was read before is not read again: the caches of the last prompts, for those that begin like one of them.

So a system prompt is read once for all who have it, and of a conversation only what is new in each turn.
"""

import torch

from omni.generation.prompt import Prompt
from omni.model.gpt import GPT
from omni.model.kv_cache import KVCache

WORTHWHILE = 16
"""Positions; to copy fewer saves nothing."""
PROMPTS = 32
"""Held at most, since each new one is compared with all."""


class PromptMemory:
    """Prompts with their caches, the newest last.

    Args:
        positions: held in all; the oldest prompts go when there are more. A position takes two numbers a layer and
            key/value channel: 7.5 kB on the starter in fp32, so a context of 1,024 takes 8 MB.
    """

    def __init__(self, model: GPT, positions: int):
        self.model, self.positions = model, positions
        self.held: list[tuple[Prompt, KVCache]] = []

    def recall(self, prompt: Prompt) -> KVCache | None:
        """A cache of one row that holds the longest known beginning of a prompt, never all of it; None where nothing
        worthwhile is known."""
        shared = [min(prompt.shared(known), prompt.length - 1) for known, _ in self.held]
        most = max(shared, default=0)
        if most < WORTHWHILE:
            return None
        known, cache = self.held[shared.index(most)]
        text_1L, _ = known.piece(0, most)
        # The last text is smeared into what follows; where there was only sound, nothing is.
        before_BC = self.model.embed(text_1L)[:, -1] if text_1L.numel() else torch.zeros_like(cache.previous_BC)
        return cache.beginning(most, columns=prompt.length, previous_BC=before_BC)

    def keep(self, prompt: Prompt, cache: KVCache) -> None:
        """Hold a prompt whose cache nobody writes to any more, in place of those that are its beginning."""
        if prompt.length < WORTHWHILE:
            return
        self.held = [(known, held) for known, held in self.held if prompt.shared(known) < known.length]
        self.held.append((prompt, cache))
        while len(self.held) > PROMPTS or sum(known.length for known, _ in self.held) > self.positions:
            self.held.pop(0)
