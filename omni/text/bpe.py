"""Byte-level BPE as nanochat has it: trained by rustbpe, run by tiktoken."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import rustbpe
import tiktoken

from omni.atomic import replace_text
from omni.text.vocabulary import BOS, JSON, TokenizerError, Vocabulary, read_vocabulary, well_formed

SPECIALS = (
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
# GPT-4's, but numbers fall into groups of at most two digits: a small vocabulary is too good for a thousand numbers.
SPLIT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SMALLEST = 256 + len(SPECIALS)
PROBE = "Naïve  99 don't,\n\n 狐狸\t(1.5)!\r\n "
"""What every split has to give back: letters, digits, spaces, signs, ends of lines."""
LONG = 100_000
"""Where a run of spaces is cut: tiktoken's regular expressions run out of stack in one of a million."""
LONG_RUN = re.compile(rf"(?<!\s)\s{{{LONG + 1},}}")


class BPETokenizer:
    """Byte-level BPE with nanochat's split and special tokens, which stand at the end of the vocabulary.

    Args:
        ranks: the bytes of each token and its id, which is also its merge priority; every byte is a token.
        pattern: a regular expression that cuts text into the pieces within which tokens are merged.
        specials: special tokens and their ids, behind all others.

    Raises:
        TokenizerError: the ids have a gap, a byte is missing, or the pattern is no regular expression or loses text.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str, specials: dict[str, int]):
        self.vocabulary = Vocabulary(ranks, pattern, specials)
        self.vocabulary.check()
        self.vocab_size, self.bos, self.specials = self.vocabulary.size, specials[BOS], specials
        self._bytes = {i: token for token, i in ranks.items()}
        try:
            # The name that nanochat gives it, so that an exported one is the same file.
            self.encoding = tiktoken.Encoding(
                "rustbpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials
            )
        except ValueError as error:
            raise TokenizerError(f"the split pattern is no regular expression: {error}") from None
        if self._probe() != PROBE:
            raise TokenizerError(
                f"the split pattern {pattern!r:.80} loses text: it has to match all of it, piece by piece"
            )

    def _probe(self) -> str | None:
        try:
            return self.decode(self.encoding.encode_ordinary(PROBE))
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's: no Exception, and it cannot be imported
                raise
            return None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from `texts` until there are `vocab_size` tokens, specials included. The same texts in the
        same order give the same tokenizer.

        Raises:
            TokenizerError: vocab_size is below 265, or the texts are empty or too few for that many tokens.
        """
        if vocab_size < SMALLEST:
            raise TokenizerError(f"vocab_size: {vocab_size} is less than 256 bytes and {len(SPECIALS)} specials")
        characters = 0

        def counted() -> Iterator[str]:
            nonlocal characters
            for text in texts:
                characters += len(text)
                yield from pieces(well_formed(text))

        learner = rustbpe.Tokenizer()
        learner.train_from_iterator(counted(), vocab_size - len(SPECIALS), pattern=SPLIT)
        if not characters:
            raise TokenizerError("there is no text to learn a tokenizer from")
        ranks = {bytes(token): rank for token, rank in learner.get_mergeable_ranks()}
        found = len(ranks) + len(SPECIALS)
        if found < vocab_size:
            raise TokenizerError(
                f"vocab_size: {characters} characters of text give only {found} tokens, {vocab_size} are asked for; "
                f"give more text or set vocab_size={found}"
            )
        return cls(ranks, SPLIT, {name: len(ranks) + i for i, name in enumerate(SPECIALS)})

    @classmethod
    def load(cls, path: Path) -> "BPETokenizer":
        """The tokenizer in a folder or file: omni's `tokenizer.json` or nanochat's `tokenizer.pkl`.

        Raises:
            TokenizerError: nothing there, damaged, or a pickle that holds anything else.
        """
        vocabulary = read_vocabulary(path)
        try:
            return cls(*vocabulary)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` into `folder`, which is made if need be. Raises TokenizerError if the disk refuses."""
        path = folder / JSON
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(path, self.vocabulary.to_json())
        except OSError as error:
            raise TokenizerError(f"{path}: the tokenizer cannot be written ({error.strerror or error})") from error
        return path

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the file that `save` writes."""
        return hashlib.sha256(self.vocabulary.to_json().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS and never a special, whatever is typed there."""
        return [i for piece in pieces(text) for i in self.encoding.encode_ordinary(piece)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on several threads."""
        if any(len(pieces(text)) > 1 for text in texts):
            return [self.encode(text) for text in texts]
        return self.encoding.encode_ordinary_batch(list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; specials are left out, and bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`; specials are left out."""
        return b"".join(self._bytes.get(i, b"") for i in ids)

    def token_bytes(self) -> list[int]:
        """How many bytes each id stands for, 0 for specials."""
        return [len(self._bytes.get(i, b"")) for i in range(self.vocab_size)]


def pieces(text: str) -> list[str]:
    """`text`, cut where it has been nothing but spaces for `LONG` characters, which ordinary text never is."""
    runs = LONG_RUN.finditer(text) if len(text) > LONG else ()
    cuts = [0, *(cut for run in runs for cut in range(run.start() + LONG, run.end(), LONG)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]
