"""`starter_chats`: conversations made of what `debian_text` is made of, for a base to learn to take turns."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from omni.atomic import replace_text
from omni.corpora import debian_text
from omni.corpora.debian_text import prepare_debian_text, read_source, spoken_rows
from omni.data.conversations import Chats
from omni.data.packing import Packer
from omni.errors import OmniError
from omni.text.tokenizer import Tokenizer

TURNS = 3  # question and answer pairs a conversation of dialogue
DEFINITIONS = 6_000
HELD_OUT = 25
"""One scene and one word in so many are held out."""
Told = tuple[str, list[str]]
"""The scene or the word that a conversation is about, and its turns."""


class StarterChats(Chats):
    """Conversations in `folder`, beside `debian_text`: dialogue, sentences to repeat, words to explain."""

    def __init__(self, *, folder: str):
        self.folder = Path(folder)
        super().__init__(path=str(self.folder / "conversations.jsonl"))

    def rows(self, split: str, tokenizer: Tokenizer, row_tokens: int, seed: int = 0) -> Packer:
        """See `Chats.rows`. Raises OmniError when the conversations are not there."""
        if not Path(self.path).is_file():
            raise OmniError(f"{self.path}: is not there. Run: python -m omni.prepare dataset=starter_chats")
        return super().rows(split, tokenizer, row_tokens, seed)

    def prepare(self, report: Callable[[str], None]) -> None:
        """Prepare `debian_text` and write conversations.jsonl beside it, unless it is there and the same."""
        prepare_debian_text(self.folder, report=report)
        path = Path(self.path)
        lines = write_lines(debian_text.DIALOGUE, read_source(self.folder, "dict-wn"))
        if path.is_file() and path.read_text() == "".join(lines):
            report(f"{path} is there")
        else:
            replace_text(path, "".join(lines))
            report(f"{path}: {len(lines)} conversations")


def write_lines(dialogue: str, entries: Iterable[str]) -> list[str]:
    """The conversations as JSON lines, each once and with its split, in an order that keeps no kind together.

    What is held out is a scene or a word with all that is made of it, less what is said in training too.
    """
    train, val = [], []
    for about, turns in (*spoken(dialogue), *repeated(dialogue), *explained(entries)):
        (val if order(about) % HELD_OUT == 0 else train).append(turns)
    said = {turn for turns in train for turn in turns}
    val = [turns for turns in val if said.isdisjoint(turns)]
    lines = {
        json.dumps({"messages": messages(*turns), "split": split}) + "\n"
        for split, conversations in (("train", train), ("val", val))
        for turns in conversations
    }
    return sorted(lines, key=order)


def order(text: str) -> int:
    """A number that depends on the text alone and on nothing that it says."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def messages(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def spoken(dialogue: str) -> Iterator[Told]:
    """What Joe says and what he is answered. A row's id is a scene, an exchange in it, `j` for Joe, and a count."""
    exchanges: dict[str, dict[bool, list[str]]] = {}
    for row in spoken_rows(dialogue):
        exchange = exchanges.setdefault(row["id"][3:9], {True: [], False: []})
        exchange[row["id"][9:10] == "j"].append(row["text"])
    scenes: dict[str, list[list[str]]] = {}
    for name, exchange in exchanges.items():
        if exchange[True] and exchange[False]:
            scenes.setdefault(name[:2], []).append([" ".join(exchange[True]), " ".join(exchange[False])])
    for scene, pairs in scenes.items():
        yield from ((scene, pair) for pair in pairs)
        for first in range(0, len(pairs) - 1, TURNS):
            yield scene, [turn for pair in pairs[first : first + TURNS] for turn in pair]


def repeated(dialogue: str) -> Iterator[Told]:
    """Each line of the dialogue, asked for and said."""
    scene_of = {row["text"]: row["id"][3:5] for row in spoken_rows(dialogue)}
    for text, scene in scene_of.items():
        yield scene, [f"Repeat after me: {text}", text]


def explained(entries: Iterable[str]) -> Iterator[Told]:
    """Words and what they mean, out of lines such as `appetite (noun): a feeling of craving something; "..."`."""
    senses = re.findall(r"^([a-z]{3,12}) \((\w+)\): ([^\n;\"(]{20,150}?)[.;]", "\n".join(entries), flags=re.MULTILINE)
    first = {word: (part, meaning) for word, part, meaning in reversed(senses)}
    for i, word in enumerate(sorted(first, key=order)[:DEFINITIONS]):
        part, meaning = first[word]
        question = (f"What does {word} mean?", f"What is the meaning of the {part} {word}?", f"Define {word}.")[i % 3]
        yield word, [question, f"{meaning[0].upper()}{meaning[1:]}."]
