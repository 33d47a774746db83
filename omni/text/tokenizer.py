"""Text to token ids and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from omni.text.vocabulary import BOS, TokenizerError, read_vocabulary, well_formed

__all__ = ["IGNORE", "ByteTokenizer", "Tokenizer", "TokenizerError", "load_tokenizer", "read_vocab_size"]

IGNORE = -1
"""The target that is not graded: padding, audio, another speaker's turn."""

BYTES = "bytes"
"""The name of the tokenizer that needs no file."""


class Tokenizer(Protocol):
    """What a tokenizer offers.

    Specials are tokens that no text can spell: a document's start, a speaker's turn. They stand for no bytes, and
    neither do ids above the vocabulary, which a model with a larger table can produce; both are left out of what is
    decoded.
    """

    vocab_size: int
    bos: int
    specials: dict[str, int]
    fingerprint: str
    """The same for the same tokenizer, wherever it is kept."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS. Text that looks like a special token is text like any other, and half of
        a surrogate pair becomes U+FFFD."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`."""

    def token_bytes(self) -> list[int]:
        """How many bytes each id stands for, 0 for specials: what bits per byte divide by."""


class ByteTokenizer:
    """UTF-8 bytes and one BOS, 257 tokens: nothing to train, nothing out of vocabulary.

    BOS (256) opens a document, and as in nanochat it is what a model says when the document is over.
    """

    vocab_size = 257
    bos = 256
    fingerprint = BYTES

    def __init__(self):
        self.specials = {BOS: self.bos}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS."""
        return list(well_formed(text).encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; BOS is left out, and bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`; BOS is left out."""
        return bytes(i for i in ids if 0 <= i < 256)

    def token_bytes(self) -> list[int]:
        """How many bytes each id stands for: one, and none for BOS."""
        return [1] * 256 + [0]


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer called `name`: "bytes", or a path: its file, its folder, or weights that it goes with.

    Raises:
        TokenizerError: there is none, or its file is damaged.
    """
    if name == BYTES:
        return ByteTokenizer()
    # Here and not above: who only checks a configuration does without tiktoken.
    from omni.text.bpe import BPETokenizer

    return BPETokenizer.load(Path(name))


def read_vocab_size(name: str | Path) -> int:
    """How many tokens the tokenizer called `name` has, without building it. Raises as `load_tokenizer`."""
    return ByteTokenizer.vocab_size if name == BYTES else read_vocabulary(Path(name)).size
