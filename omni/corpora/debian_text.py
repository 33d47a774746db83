"""`debian_text`: 65 MB of English out of 24 Debian packages and a game's dialogue, for a base without a network hub.

Prose, dictionaries, a bible, quips and what games tell: enough for a tokenizer and a base of depth 4 to 8, not for a
general model. `data/debian_text.json` names the packages, their versions, hashes and licences.
"""

import gzip
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omni.atomic import replace_text, replacing
from omni.corpora import debian_markup as markup
from omni.corpora.debian_packages import Files, Package, fetch_packages, members
from omni.corpora.game_text import GAMES
from omni.data.documents import HELD_OUT, TextFiles
from omni.data.fingerprint import sha256_of
from omni.data.paragraphs import DOCUMENT, group_paragraphs
from omni.data.text import Corpus
from omni.errors import OmniError

PACKAGES = "data/debian_text.json"
"""Which packages, with their licences and hashes."""
DIALOGUE = "data/amazon_queen.jsonl.gz"
"""The manifest whose train lines are read as dialogue."""
RECIPE = 2
"""Raised by whoever changes what the documents are made of: `prepare` then makes them again."""
TYPEWRITER = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "\u00ad": None})
"""Half the sources have typographic quotation marks; a small model learns one kind."""
FILES = ("documents.parquet", "held_out.parquet")


class DebianText(Corpus):
    """The prepared documents in `folder`."""

    def __init__(self, *, folder: str):
        super().__init__(path=[str(Path(folder) / name) for name in FILES])
        self.folder = Path(folder)

    def documents(self, split: str, seed: int = 0) -> TextFiles:
        """The documents of "train" or "val". Raises OmniError when they are not there."""
        if not read_facts(self.folder):
            raise OmniError(f"{self.folder}: the text is not there. Run: python -m omni.prepare dataset=debian_text")
        return super().documents(split, seed)

    def prepare(self, report: Callable[[str], None]) -> None:
        """See `prepare_debian_text`."""
        prepare_debian_text(self.folder, report=report)


def prepare_debian_text(
    folder: Path, *, report: Callable[[str], None], packages: str | None = None, dialogue: str | None = None
) -> dict[str, Any]:
    """Fetch the packages, clean them and write documents.parquet, held_out.parquet and facts.json into `folder`.

    One document in HELD_OUT is held out, chosen by its own hash: the same one whatever else is in the corpus. What is
    there already is not fetched or made again; all needs apt-get and dpkg-deb, nothing needs root.

    Args:
        packages, dialogue: instead of PACKAGES and DIALOGUE.

    Returns the facts: packages as fetched and those missing, and documents and megabytes a source.
    Raises OmniError for what cannot be fetched, or is not what the list says.
    """
    packages, dialogue = packages or PACKAGES, dialogue or DIALOGUE
    listed = {row["name"]: Package(**row) for row in json.loads(shipped(packages))}
    if unknown := listed.keys() - SOURCES.keys():
        raise OmniError(f"{packages}: {', '.join(sorted(unknown))}: there is no cleaner for it, see SOURCES")
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    fetched = fetch_packages(listed.values(), folder / "packages", report)
    if not fetched:
        raise OmniError(f"{packages}: this release has none of its packages; put .deb files into {folder}/packages")
    facts = {
        "recipe": RECIPE,
        "dialogue": hashlib.sha256(shipped(dialogue)).hexdigest(),
        "missing": sorted(listed.keys() - fetched.keys()),
        "packages": {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in fetched.items()},
    }
    known = read_facts(folder)
    if known and all(known.get(key) == value for key, value in facts.items()):
        report(f"{folder} is there")
        return known
    texts: dict[str, str] = {text: "amazon_queen" for text in dialogue_documents(dialogue)}
    for name, path in fetched.items():
        report(f"cleaning {name}")
        for text in clean(name, path):
            texts.setdefault(text, name)  # what two sources share counts once
    (folder / "facts.json").unlink(missing_ok=True)  # whoever stops here leaves no pair of files that do not belong
    facts["sources"] = write(texts, folder)
    replace_text(folder / "facts.json", json.dumps(facts, indent=2) + "\n")
    for source, fact in facts["sources"].items():
        report(f"{source}: {fact['megabytes']:.1f} MB in {fact['documents'] + fact['held_out']} documents")
    return facts


def clean(name: str, path: Path) -> list[str]:
    """The documents of a package. Raises OmniError when it is not what its cleaner was made for."""
    pattern, documents = SOURCES[name]
    try:
        texts = [text.translate(TYPEWRITER) for text in documents(list(members(path, pattern)))]
        if not texts:
            raise LookupError("it holds no document")
    except OmniError:
        raise
    except Exception as error:  # another version may hold anything
        raise OmniError(
            f"{name}: {path} is not what its cleaner was made for ({type(error).__name__}: {error}). Put the listed "
            f"version in its place, or take {name} out of the list."
        ) from error
    return texts


def read_facts(folder: Path) -> dict[str, Any]:
    """What `prepare_debian_text` returned; nothing when the text is not there as a whole."""
    if not all((folder / name).is_file() for name in ("facts.json", *FILES)):
        return {}
    return json.loads((folder / "facts.json").read_text())


def shipped(path: str) -> bytes:
    """A file that comes with the repository."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OmniError(
            f"{path}: cannot be read ({error.strerror}). It comes with the repository: run there."
        ) from error


def pages(files: Files) -> Iterator[str]:
    """Paragraphs that stand on several pages, such as notices, count once."""
    seen: set[str] = set()
    for _, content in sorted(files):
        yield from markup.page_documents(content.decode("utf-8", errors="replace"), seen)


def dictionary(clean: Callable[[Iterable[str]], Iterator[str]]) -> Callable[[Files], Iterator[str]]:
    def documents(files: Files) -> Iterator[str]:
        contents = {name.rsplit(".", 1)[-1]: content for name, content in files}
        return clean(markup.dictd_entries(gzip.decompress(contents["dz"]), contents["index"].decode()))

    return documents


def fortunes(files: Files) -> Iterator[str]:
    for _, content in files:
        yield from markup.fortune_documents(content.decode("utf-8", errors="replace"))


def bible(files: Files) -> Iterator[str]:
    """Its file is a header and pieces of 64 KB, each compressed by the old `compress`, which gzip still reads."""
    content = files[0][1]
    count = int.from_bytes(content[0x58:0x5C], "big")
    starts = [int.from_bytes(content[at : at + 4], "big") for at in range(0x5C, 0x5C + 4 * count, 4)] + [len(content)]
    text = b""
    for start, end in pairwise(starts):
        piece = b"\x1f\x9d\x90" + content[start:end]
        text += subprocess.run(["gzip", "-dc"], input=piece, capture_output=True, check=True).stdout
    return markup.bible_documents(text.decode("latin-1"))


def read_source(folder: Path, source: str, name: str = "documents.parquet") -> list[str]:
    """The documents of one source in a prepared folder."""
    return pq.read_table(folder / name, filters=[("source", "==", source)]).column("text").to_pylist()


def read_dialogue(folder: Path) -> list[str]:
    """The lines of the game's dialogue in a prepared folder, each once, without those in held-out documents."""

    def lines(name: str) -> dict[str, None]:
        documents = "\n".join(read_source(folder, "amazon_queen", name))
        return dict.fromkeys(line.partition(": ")[2] for line in documents.splitlines())

    held_out = lines("held_out.parquet")
    return [line for line in lines("documents.parquet") if line not in held_out]


def spoken_rows(path: str) -> list[dict[str, Any]]:
    """What of the game's dialogue may be read: `train` alone, so that no sentence of a test is met beforehand, and
    without what was paired with the wrong sound."""
    rows = [json.loads(line) for line in gzip.decompress(shipped(path)).splitlines()]
    return [row for row in rows if row["split"] == "train" and row["cer"] <= 0.4]


def dialogue_documents(path: str) -> Iterator[str]:
    """The dialogue with its speakers, scene by scene."""
    scenes: dict[str, list[str]] = {}
    for row in spoken_rows(path):
        speaker = {"and": "Anderson"}.get(row["speaker"], row["speaker"].capitalize())
        scenes.setdefault(row["id"][3:5], []).append(f"{speaker}: {row['text']}")
    for lines in scenes.values():
        yield from group_paragraphs(dict.fromkeys(lines), separator="\n", limit=DOCUMENT // 2)


def write(texts: dict[str, str], folder: Path) -> dict[str, Any]:
    """The two files, in the order of the texts' hashes, which is no order; and the facts of each source."""
    digests = sorted((hashlib.sha256(text.encode()).hexdigest(), text, source) for text, source in texts.items())
    facts: dict[str, Any] = {}
    for name, held_out in (("documents", False), ("held_out", True)):
        rows = [(text, source) for digest, text, source in digests if (int(digest, 16) % HELD_OUT == 0) == held_out]
        table = pa.table({"text": [text for text, _ in rows], "source": [source for _, source in rows]})
        with replacing(folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, row_group_size=1000, compression="zstd")
        for text, source in rows:
            fact = facts.setdefault(source, {"documents": 0, "held_out": 0, "megabytes": 0.0})
            fact[name] += 1
            fact["megabytes"] += len(text.encode()) / 1e6
    return {source: fact | {"megabytes": round(fact["megabytes"], 3)} for source, fact in sorted(facts.items())}


SOURCES: dict[str, tuple[str, Callable[[Files], Iterable[str]]]] = {
    "anarchism": (r"/html/(?!book|index|links|biblio)\w+\.html$", pages),
    "bible-kjv-text": (r"/bible\.data$", bible),
    "debian-handbook": (r"/html/en-US/.*\.html$", pages),
    "developers-reference": (r"/(?!developers-reference)[\w-]+\.html$", pages),
    "dict-foldoc": (r"/foldoc\.(dict\.dz|index)$", dictionary(markup.computing_documents)),
    "dict-gcide": (r"/gcide\.(dict\.dz|index)$", dictionary(markup.gcide_documents)),
    "dict-jargon": (r"/jargon\.(dict\.dz|index)$", dictionary(markup.computing_documents)),
    "dict-wn": (r"/wn\.(dict\.dz|index)$", dictionary(markup.wordnet_documents)),
    # Left out: pictures, code, chat logs, and jokes at the expense of women and peoples.
    "fortunes": (r"/fortunes/(?!ascii-art|perl|knghtbrd|zippy|drugs|ethnic|men-women|translate-me)[a-z-]+$", fortunes),
    "linux-doc-6.1": (r"/html/(?!translations|_|staging)[\w-]+/.*\.html$", pages),
    **GAMES,
}
