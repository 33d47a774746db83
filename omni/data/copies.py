"""Stretched copies: sentences as a projector may one day render them, and the sentence itself behind.

A frozen language model can only be taught to hear what it can already collapse and repeat. Speech reaches it as soft
tokens that come too fast, repeat themselves, blur into each other, fall silent, and cut words in odd places. A base
that has met such rows knows what to do with them: write down what they say. Each copy is made anew, as sound is:

1. **pieces**: the sentence, often without capitals and commas, is cut as the tokenizer does or finer, down to letters;
2. **stretch**: each piece lasts a time in proportion to its length, with blanks between, before and behind;
3. **blur**: a row is the mean of the embeddings of what sounds during it, as a stack of encoder frames is;
4. **wear**: wrong pieces mix in, rows are lost, noise lies over everything.

How far a copy is from a row a token depends on its difficulty, a number from 0 to 1. Worn copies alone teach nothing in
hours; from plain ones a model learns to repeat in minutes, and then follows (experiments/starter). So difficulties are
drawn evenly from 0 to a bound that rises.

Shape letters: B batch, P pieces, S soft tokens, K moments a soft token, L text tokens, C width, V vocabulary.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omni.data.batch import Batch
from omni.data.feed import Numbered
from omni.data.fingerprint import fingerprint
from omni.text.tokenizer import IGNORE, Tokenizer

STEP = 32
"""Batches are padded to multiples of it: kernels are made for each new shape, and kept."""
BLANK = -1
"""The id of a piece that is silent."""
MOMENTS = 4
"""A soft token is the mean of so many moments."""
SHORTEST, LONGEST = 12, 160
"""Letters of a sentence."""
NEIGHBOURS = 16
"""A batch is drawn from so many times its size of sentences of like length, which keeps padding short."""


@dataclass(frozen=True)
class Wear:
    """What a copy of difficulty 1 may have to bear; one of difficulty .3 bears .3 of it.

    rate: fewest and most soft tokens that four letters last. blanks: share of pieces with a pause behind.
    spelled: share of sentences cut finer than the tokenizer does. spoken: share without capitals and punctuation.
    confusion: most that a wrong piece weighs. lost: greatest share of soft tokens that are blanked.
    noise: loudest Gaussian noise, as a share of the embeddings' RMS.
    """

    rate: tuple[float, float] = (1.5, 5.0)
    blanks: float = 0.3
    spelled: float = 0.6
    spoken: float = 0.7
    confusion: float = 0.5
    lost: float = 0.1
    noise: float = 0.8


class Copies(Numbered):
    """A feed of batches `[stretched copy | sentence]`, graded on the sentence.

    Args:
        sentences: texts to copy.
        tokenizer: text to ids.
        embeddings: gives the model's token embeddings (V, C) as they are now. They are read, not trained, by this.
        batch_size: sentences a batch.
        soft: copies are soft tokens; else they are tokens, each repeated as often as it sounds, blanks left out.
        seed: of the order and of everything drawn.
        ripening: batches over which the greatest difficulty rises from 0 to 1.
        wear: how worn the copies are at most.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        *,
        tokenizer: Tokenizer,
        embeddings: Callable[[], Tensor],
        batch_size: int,
        soft: bool,
        seed: int,
        ripening: int = 0,
        wear: Wear | None = None,
    ):
        self.sentences = sorted(sentences, key=len)
        self.fingerprint = fingerprint(self.sentences)
        self.tokenizer, self.embeddings = tokenizer, embeddings
        self.batch_size, self.soft, self.seed = batch_size, soft, seed
        self.ripening, self.wear = ripening, wear or Wear()
        self.bytes_of = tokenizer.token_bytes()

    def __next__(self) -> Batch:
        random = np.random.default_rng([self.seed, self.number])
        hardest = min(1.0, self.number / self.ripening) if self.ripening else 1.0
        self.number += 1
        texts, difficulties = self.draw(random), random.uniform(0, hardest, self.batch_size)
        copies = [
            self.stretch(self.pieces(text, difficulty, random), difficulty, random)
            for text, difficulty in zip(texts, difficulties, strict=True)
        ]
        ids = [torch.tensor([self.tokenizer.bos, *row]) for row in self.tokenizer.encode_batch(texts)]
        targets = [torch.cat([row[1:], row[:1]]) for row in ids]
        table_VC = self.embeddings().detach()
        inputs = {}
        if self.soft:
            soft = soften(copies, difficulties, table_VC, self.wear, random)
            inputs["audio_features"] = pad(soft, 0.0)
            inputs["audio_lengths"] = torch.tensor([len(row) for row in soft])
        else:
            hard = [torch.from_numpy(copy[:, 0][copy[:, 0] != BLANK]) for copy in copies]
            ids = [torch.cat(pair) for pair in zip(hard, ids, strict=True)]
            targets = [
                torch.cat([row.new_full((len(copy),), IGNORE), row]) for copy, row in zip(hard, targets, strict=True)
            ]
        inputs["idx_BL"] = pad(ids, 0)
        inputs["targets_BL"] = pad(targets, IGNORE)
        graded = int((inputs["targets_BL"] != IGNORE).sum())
        return Batch(inputs=inputs, graded=graded, names=[f"the copy of {text[:40]!r}" for text in texts])

    def draw(self, random: np.random.Generator) -> list[str]:
        """`batch_size` sentences of like length."""
        reach = min(self.batch_size * NEIGHBOURS, len(self.sentences))
        first = random.integers(len(self.sentences) - reach + 1)
        return [self.sentences[first + i] for i in random.integers(reach, size=self.batch_size)]

    def pieces(self, text: str, difficulty: float, random: np.random.Generator) -> list[int]:
        """The sentence as it sounds, cut into pieces: token ids."""
        if random.random() < difficulty * self.wear.spoken:
            text = re.sub(r"[^\w' ]+", "", text.lower())
        if random.random() >= difficulty * self.wear.spelled:
            return self.tokenizer.encode(text)
        cuts = np.flatnonzero(random.random(len(text)) < 1 / random.integers(1, 4)).tolist()
        chunks = [text[a:b] for a, b in pairwise([0, *cuts, len(text)]) if a < b]
        return [token for piece in self.tokenizer.encode_batch(chunks) for token in piece]

    def stretch(self, pieces: list[int], difficulty: float, random: np.random.Generator) -> np.ndarray:
        """What sounds at each moment: ids (S, K). At difficulty 0 each piece lasts one soft token."""
        rate = random.uniform(*self.wear.rate) / 4
        ids, lasts = [BLANK], [difficulty * random.exponential(2.0)]
        for token in pieces:
            ids.append(token)
            lasts.append(1 - difficulty + difficulty * rate * self.bytes_of[token] * random.uniform(0.6, 1.5))
            if random.random() < difficulty * self.wear.blanks:
                ids.append(BLANK)
                lasts.append(random.exponential(1.0))
        ids.append(BLANK)
        lasts.append(difficulty * random.exponential(2.0))
        ends = np.cumsum(lasts)
        moments = np.arange(max(1, round(ends[-1])) * MOMENTS) / MOMENTS
        sounding = np.searchsorted(ends, moments, side="right").clip(max=len(ids) - 1)
        return np.array(ids)[sounding].reshape(-1, MOMENTS)


def pad(rows: list[Tensor], value: float) -> Tensor:
    """Rows (N, ...) of different lengths as one tensor (B, N, ...), N a multiple of STEP."""
    length = -(-max(map(len, rows)) // STEP) * STEP
    padded = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def soften(
    copies: list[np.ndarray], difficulties: np.ndarray, table_VC: Tensor, wear: Wear, random: np.random.Generator
) -> list[Tensor]:
    """Soft tokens (S, C) for each copy's ids (S, K); what a sentence draws holds for all its rows."""
    lengths = [len(copy) for copy in copies]
    device, rows = table_VC.device, np.repeat(np.arange(len(copies)), lengths)

    def up_to(most: float) -> Tensor:
        drawn = random.uniform(0, most * difficulties)
        return torch.from_numpy(drawn[rows]).float().to(device)[:, None]

    ids_SK = torch.from_numpy(np.concatenate(copies)).to(device)
    wrong_SK = torch.from_numpy(random.integers(len(table_VC), size=ids_SK.shape)).to(device)
    table_VC = F.rms_norm(table_VC.float(), table_VC.shape[1:], eps=torch.finfo(torch.float32).eps)
    sounds_SK1, weight = (ids_SK != BLANK)[..., None], up_to(wear.confusion)
    right_SC, wrong_SC = ((table_VC[ids.clamp(min=0)] * sounds_SK1).mean(1) for ids in (ids_SK, wrong_SK))
    kept = torch.from_numpy(random.random(len(rows))).to(device)[:, None] >= up_to(wear.lost)
    noise_SC = torch.from_numpy(random.standard_normal(right_SC.shape, dtype=np.float32)).to(device)
    soft_SC = ((1 - weight) * right_SC + weight * wrong_SC) * kept + up_to(wear.noise) * noise_SC
    return list(soft_SC.split(lengths))


def split_sentences(text: str) -> Iterator[str]:
    """The sentences of a text that could be spoken: words and little else."""
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        letters = sum(character.isalpha() or character in " ,.'" for character in sentence)
        if SHORTEST <= len(sentence) <= LONGEST and letters > 0.95 * len(sentence) and " " in sentence:
            yield sentence
