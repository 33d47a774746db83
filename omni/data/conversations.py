"""Conversations to train on: JSON lines of `{"messages": [...]}` (see `omni.text.chat`), and some to start with."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from omni.atomic import replace_text
from omni.data.debian_text import DIALOGUE, PACKAGES, prepare_debian_text, spoken_rows
from omni.data.documents import HELD_OUT, find, permutation, read_lines
from omni.data.packing import PackedConversations, Packer
from omni.data.text import Corpus
from omni.errors import OmniError
from omni.text.bpe import SPECIALS
from omni.text.chat import ChatError, render
from omni.text.tokenizer import Tokenizer

FAULTS_SHOWN = 10
TURNS = 3  # question and answer pairs a conversation of dialogue
DEFINITIONS = 6_000


class Conversations:
    """An endless stream of conversations, in a new order each epoch; every hundredth is held out as "val".

    A line is `{"messages": [...]}` or, as nanochat has it, the messages alone.
    Raises OmniError: no such file, none in the split, or bad lines: all of them, each with its number.
    """

    def __init__(self, *, path: str | list[str], split: str = "train", seed: int = 0):
        self.seed = seed
        self.skipped: dict[str, str] = {}
        content, rows, faults = hashlib.sha256(repr((split, seed)).encode()), [], []
        for file in find(path):
            for number, line in read_lines(file):
                content.update(line)
                try:
                    rows.append(parse(line))
                except (ValueError, RecursionError, ChatError) as error:
                    faults.append(f"{file}:{number}: {error}")
        if faults:
            more = [f"... and {len(faults) - FAULTS_SHOWN} more"] if len(faults) > FAULTS_SHOWN else []
            raise OmniError("\n".join(faults[:FAULTS_SHOWN] + more))
        self.rows = [row for i, row in enumerate(rows) if (i % HELD_OUT == HELD_OUT - 1) == (split == "val")]
        if not self.rows:
            raise OmniError(f"{path}: {len(rows)} conversations leave none for split {split!r}")
        self.fingerprint = content.hexdigest()[:16]
        self._epoch = (-1, [])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Iterable[int]) -> list[dict]:
        """The conversations at these places of the stream."""
        return [self._row(*divmod(place, len(self.rows))) for place in places]

    def _row(self, epoch: int, offset: int) -> dict:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, permutation(len(self.rows), f"{self.seed}/{epoch}"))
        return self.rows[self._epoch[1][offset]]


class NoTokens:
    """A tokenizer that knows every special token and no text: to render with it is to check a conversation."""

    bos = 0

    def __init__(self):
        self.specials = dict.fromkeys(SPECIALS, 0)

    def encode(self, text: str) -> list[int]:
        return []


def parse(line: bytes) -> dict:
    """A line's conversation. Raises ValueError for what is no JSON, ChatError for what is no conversation."""
    row = json.loads(line)
    row = {"messages": row} if isinstance(row, list) else row
    _, graded = render(row, NoTokens())
    if not any(graded):
        raise ChatError("messages: the assistant says nothing, so there is nothing to learn")
    return row


class Chats(Corpus):
    """Conversations in files, as a stage trains on them: packed whole, graded where the assistant speaks.

    Args:
        path: .jsonl files: one, a folder, a pattern, or a list.
    """

    def __init__(self, *, path: str | list[str]):
        super().__init__(path=path)

    def rows(self, split: str, tokenizer: Tokenizer, row_tokens: int, seed: int = 0) -> Packer:
        """The conversations of a split, packed."""
        conversations = Conversations(path=self.path, split=split, seed=seed)
        return PackedConversations(conversations, tokenizer, row_tokens=row_tokens)


class StarterChats(Chats):
    """Conversations out of what `debian_text` is made of: dialogue, sentences to repeat, words to explain."""

    def __init__(self, *, folder: str, packages: str = PACKAGES, dialogue: str = DIALOGUE):
        self.folder = Path(folder)
        super().__init__(path=str(self.folder / "conversations.jsonl"))

    def rows(self, split: str, tokenizer: Tokenizer, row_tokens: int, seed: int = 0) -> Packer:
        """See `Chats.rows`. Raises OmniError when the conversations are not there."""
        if not Path(self.path).is_file():
            raise OmniError(f"{self.path}: is not there. Run: python -m omni.prepare dataset=starter_chats")
        return super().rows(split, tokenizer, row_tokens, seed)

    @staticmethod
    def prepare(*, folder: str, packages: str, dialogue: str, report: Callable[[str], None]) -> None:
        """Prepare `debian_text` and write conversations.jsonl beside it."""
        prepare_debian_text(folder, report=report, packages=packages, dialogue=dialogue)
        texts = pq.read_table(Path(folder) / "documents.parquet").to_pylist()
        entries = [row["text"] for row in texts if row["source"] == "dict-wn"]
        rows = [*spoken(dialogue), *repeated(dialogue), *explained(entries)]
        lines = [json.dumps({"messages": messages(*turns)}) for turns in rows]
        lines.sort(key=lambda line: hashlib.sha256(line.encode()).digest())  # no kind stands together
        replace_text(Path(folder) / "conversations.jsonl", "\n".join(lines) + "\n")
        report(f"{len(lines)} conversations")


def messages(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def spoken(dialogue: str) -> Iterator[list[str]]:
    """What Joe says and what he is answered. A row's id is a scene, an exchange in it, `j` for Joe, and a count."""
    exchanges: dict[str, dict[bool, list[str]]] = {}
    for row in spoken_rows(dialogue):
        exchange = exchanges.setdefault(row["id"][3:9], {True: [], False: []})
        exchange[row["id"][9:10] == "j"].append(row["text"])
    scenes: dict[str, list[list[str]]] = {}
    for name, exchange in exchanges.items():
        if exchange[True] and exchange[False]:
            scenes.setdefault(name[:2], []).append([" ".join(exchange[True]), " ".join(exchange[False])])
    for pairs in scenes.values():
        yield from pairs
        for first in range(0, len(pairs) - 1, TURNS):
            yield [turn for pair in pairs[first : first + TURNS] for turn in pair]


def repeated(dialogue: str) -> Iterator[list[str]]:
    for text in dict.fromkeys(row["text"] for row in spoken_rows(dialogue)):
        yield [f"Repeat after me: {text}", text]


def explained(entries: Iterable[str]) -> Iterator[list[str]]:
    """Words and what they mean, out of lines such as `appetite (noun): a feeling of craving something; "..."`."""
    senses = re.findall(r"^([a-z]{3,12}) \((\w+)\): ([^\n;\"(]{20,150}?)[.;]", "\n".join(entries), flags=re.MULTILINE)
    first = {word: (part, meaning) for word, part, meaning in reversed(senses)}
    words = sorted(first, key=lambda word: hashlib.sha256(word.encode()).digest())[:DEFINITIONS]
    for i, word in enumerate(words):
        part, meaning = first[word]
        question = (f"What does {word} mean?", f"What is the meaning of the {part} {word}?", f"Define {word}.")[i % 3]
        yield [question, f"{meaning[0].upper()}{meaning[1:]}."]
