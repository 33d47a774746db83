"""What is read along while a row is written: its text, and the tool calls in it."""

import codecs

from omni.generation.calculator import calculate
from omni.text.tokenizer import Tokenizer


class TextStream:
    """Text from tokens as they come. A character split over tokens waits for its last byte."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, token: int) -> str:
        """The characters that this token completes; bytes that are not UTF-8 become U+FFFD."""
        return self.decoder.decode(self.tokenizer.decode_bytes([token]))

    def close(self) -> str:
        """What is left when no more tokens come: U+FFFD for half a character, else nothing."""
        return self.decoder.decode(b"", final=True)


class ToolCalls:
    """Listens between <|python_start|> and <|python_end|>, and answers between <|output_start|> and <|output_end|>.

    A tokenizer that lacks one of the four makes no calls.
    """

    def __init__(self, tokenizer: Tokenizer):
        names = ("python_start", "python_end", "output_start", "output_end")
        ids = [tokenizer.specials.get(f"<|{name}|>") for name in names]
        self.start, self.end, self.output_start, self.output_end = ids if None not in ids else [None] * 4
        self.tokenizer, self.heard = tokenizer, None

    def read(self, token: int) -> list[int]:
        """The tokens that have to follow this one: the result of a call that it ends, mostly none."""
        if token == self.start:
            self.heard = []
        elif token == self.end and self.heard is not None:
            result = calculate(self.tokenizer.decode(self.heard))
            self.heard = None
            if result is not None:
                return [self.output_start, *self.tokenizer.encode(result), self.output_end]
        elif self.heard is not None:
            self.heard.append(token)
        return []
