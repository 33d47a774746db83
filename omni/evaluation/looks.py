"""What a model in training is asked at each look: whether it hears, and whether it answers."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from omni.data.cached import CachedClips
from omni.evaluation.choices import Question, chance, check, score
from omni.evaluation.conditions import project
from omni.model.omni import Omni
from omni.text.tokenizer import Tokenizer

SAMPLES = 6


class Look(Protocol):
    """metrics: the names of the scores. listen: keep what never changes, before training or at the first look."""

    metrics: tuple[str, ...]

    def listen(self) -> None: ...

    def __call__(self) -> tuple[dict[str, float], list[str]]: ...


class ChoiceLook:
    """Held-out questions with choices: the share that is answered right, of all and of each category, and by how much
    that of all is above chance, which is what a gate can ask for whatever the number of choices.

    Args:
        model: the pipeline.
        examples: the clips that are asked about.
        questions: about each of them, in their order.
        tokenizer: of the text.
    """

    def __init__(self, model: Omni, examples: CachedClips, questions: Sequence[Question], *, tokenizer: Tokenizer):
        check(questions)
        self.model, self.examples, self.questions, self.tokenizer = model, examples, questions, tokenizer
        categories = sorted({question.category for question in questions})
        self.metrics = ("choice_accuracy", "choice_above_chance", *(f"choice_{category}" for category in categories))
        self.heard = []

    def listen(self) -> None:
        """Keep the states of the clips."""
        for _ in self.examples.encode_ahead():
            pass
        there = {self.examples.dataset.clips[clip].id: i for i, clip in enumerate(self.examples.clips)}
        self.questions = [question for question in self.questions if question.id in there]
        self.heard = [self.examples[there[question.id]] for question in self.questions]

    def __call__(self) -> tuple[dict[str, float], list[str]]:
        """Shares of right answers, and some answers."""
        if not self.heard:
            self.listen()
        self.model.eval()
        soft: list[Tensor] = project(self.model, self.heard)
        chosen = score(self.model.backbone, self.questions, soft, self.tokenizer).argmax(1)
        right = chosen == [question.answer for question in self.questions]
        of = np.array([question.category for question in self.questions])
        accuracy = float(right.mean())
        scores = {"choice_accuracy": accuracy, "choice_above_chance": accuracy - chance(self.questions)}
        scores |= {f"choice_{category}": float(right[of == category].mean()) for category in sorted(set(of.tolist()))}
        told = zip(self.questions[:SAMPLES], chosen, strict=False)
        return scores, [f"{q.question} {q.choices[q.answer]}|{q.choices[place]}" for q, place in told]


class Looks:
    """Several looks as one."""

    def __init__(self, looks: Sequence[Look]):
        self.looks = looks
        self.metrics = tuple(metric for look in looks for metric in look.metrics)

    def listen(self) -> None:
        for look in self.looks:
            look.listen()

    def __call__(self) -> tuple[dict[str, float], list[str]]:
        found = [look() for look in self.looks]
        return {k: v for scores, _ in found for k, v in scores.items()}, [line for _, lines in found for line in lines]
