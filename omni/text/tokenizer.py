"""Text to token ids and back."""

IGNORE = -1
"""The target that is not graded: padding, audio, another speaker's turn."""


class ByteTokenizer:
    """UTF-8 bytes and one BOS, 257 tokens: nothing to train, nothing out of vocabulary.

    BOS (256) opens a document, and as in nanochat it is what a model says when the document is over.
    """

    vocab_size = 257
    bos = 256

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS."""
        return list(text.encode("utf-8"))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; BOS is left out, and bytes that are not UTF-8 become U+FFFD."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")
