"""Questions with choices, as the text that a model reads."""

from collections.abc import Sequence
from string import ascii_uppercase

LETTERS = ascii_uppercase[:8]
"""Of choices; so many may a question have."""


def ask(question: str, choices: Sequence[str] = (), *, letter: bool = False) -> str:
    """A question and its choices, a line each behind its letter; `letter` asks for that alone."""
    lines = [question, *(f"{name}. {choice}" for name, choice in zip(ascii_uppercase, choices, strict=False))]
    return "\n".join([*lines, "Answer with a letter."] if letter else lines)
