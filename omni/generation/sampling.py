"""From logits to the next token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from omni.errors import OmniError

COLDEST = 1e-4
"""Below this temperature the likeliest token is as good as certain, and dividing by it overflows."""


@dataclass(frozen=True)
class Settings:
    """How to continue a prompt.

    Args:
        max_tokens: the most tokens to produce.
        min_tokens: none that ends the answer is drawn before there are so many.
        max_characters: the length of text with which it is over; None for any.
        temperature: 0 takes the likeliest token; 1 draws from the model's own distribution.
        top_k: draw among the k likeliest; None for all of them.
        top_p: draw among the likeliest that together hold this much probability (Holtzman et al. 2020).
        seed: of the first sample; sample i draws with seed + i.
        stop: tokens that end the answer, besides the ends of a turn and of a document.
        until: texts that end it, none of them empty; what it says stops in front of the first that comes.

    Raises:
        OmniError: a value out of range.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    max_characters: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[int, ...] = ()
    until: tuple[str, ...] = ()

    def __post_init__(self):
        bounds = {
            "max_tokens": (self.max_tokens >= 1, "1 or more"),
            "min_tokens": (0 <= self.min_tokens <= self.max_tokens, "from 0 to max_tokens"),
            "max_characters": (self.max_characters is None or self.max_characters >= 1, "1 or more, or left out"),
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "1 or more, or left out"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "until": (all(self.until), "texts that are not empty"),
            "seed": (0 <= self.seed < 2**63, "from 0 to below 2**63"),
        }
        for name, (holds, range_) in bounds.items():
            if not holds:
                raise OmniError(f"{name}={getattr(self, name)} must be {range_}")


def sample(logits_V: Tensor, settings: Settings, generator: torch.Generator) -> int:
    """Draw a token: top-k, then temperature, then top-p, as nanochat has the first two.

    Logits and generator belong on the CPU, so that a seed means the same on every machine.
    """
    if settings.temperature < COLDEST:
        return int(logits_V.argmax())
    ids_V = None
    if settings.top_k is not None or settings.top_p < 1:
        logits_V, ids_V = logits_V.topk(min(settings.top_k or len(logits_V), len(logits_V)))
    # The largest logit goes to 0 first: a temperature near 0 would send it to infinity.
    probabilities_V = torch.softmax((logits_V - logits_V.max()) / settings.temperature, dim=-1)
    if settings.top_p < 1:
        likelier_V = probabilities_V.cumsum(-1) - probabilities_V
        kept_V = likelier_V < settings.top_p
        kept_V[0] = True  # however small top_p is
        probabilities_V = probabilities_V * kept_V
    choice = int(torch.multinomial(probabilities_V, 1, generator=generator))
    return choice if ids_V is None else int(ids_V[choice])
