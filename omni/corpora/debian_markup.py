"""Pages, dictionaries, verses and quips as documents of plain English: markup goes, what does not read as prose too."""

import base64
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

from omni.data.paragraphs import DOCUMENT, group_paragraphs

COMMON = frozenset(
    re.findall(
        r"\w+",
        "a all also an and any are as at be because been but by can do for from had has have he her his how i if in "
        "into is it its made may more most my no not of on one only or other our out so some such than that the their "
        "them then there these they this to up use used was we were what when where which who will with would you your",
    )
)


def reads_as_prose(text: str) -> bool:
    """Whether `text` looks like English sentences, not like code, tables, lists of names or another language."""
    words = re.findall(r"[A-Za-z]+(?:['’][a-z]+)?", text)
    if len(words) < 5 or not re.search(r"[.!?][\"'”’)\]]*$", text):
        return False
    letters = sum(map(len, words)) + text.count(" ")
    symbols = len(re.findall(r"\w_\w|\(\)|/\w+/|[<>=|]", text))
    # Running English is about 45 % such words; dictionaries and captions are nearer to 25 %.
    common = sum(word.lower() in COMMON for word in words)
    return (
        letters > 0.88 * len(text)
        and common > 0.2 * len(words)
        and symbols * 25 <= len(words)
        and not re.search(r"\S{40}", text)
    )


def join_lines(text: str) -> str:
    """One line, single spaces, none before a comma or full stop."""
    return re.sub(r" +([,.;:])(?=\s|$)", r"\1", " ".join(text.split()))


class Page(HTMLParser):
    """The headings and paragraphs of an HTML page, in order: `blocks` is a list of (tag, text).

    Only what stands in a paragraph or heading counts, which leaves out menus, and nothing inside IGNORED does.
    """

    HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
    IGNORED = frozenset(("pre", "table", "script", "style", "nav", "footer", "form", "svg", "dt"))

    def __init__(self, html: str):
        super().__init__()
        self.blocks: list[tuple[str, str]] = []
        self.open: list[tuple[str, str]] = []  # enclosing elements, each a "block", "ignored" or "neutral"
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        classes = (dict(attributes).get("class") or "").split()
        if tag in self.IGNORED or (tag == "dl" and "c" in classes):  # Sphinx's signatures of C functions
            self.open.append((tag, "ignored"))
        elif tag == "p" or tag in self.HEADINGS or (tag == "div" and "para" in classes):
            self.end_block()
            self.open.append((tag, "block"))
        elif tag in ("div", "dl"):
            self.open.append((tag, "neutral"))
        elif tag == "br":
            self.text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if any(tag == name for name, _ in self.open):
            self.end_block()
            while self.open.pop()[0] != tag:  # a paragraph that was never closed
                pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][1] == "block" and all(kind != "ignored" for _, kind in self.open):
            self.text.append(data)

    def end_block(self) -> None:
        text = join_lines("".join(self.text)).replace("¶", "").strip()
        if text:
            self.blocks.append((self.open[-1][0], text))
        self.text = []


def page_documents(html: str, seen: set[str]) -> Iterator[str]:
    """The prose of a page, cut at headings once there is enough of it; paragraphs in `seen` are left out."""
    sections: list[list[str]] = [[]]
    heading = ""
    for tag, text in Page(html).blocks:
        if tag in Page.HEADINGS:
            heading = re.sub(r"^([A-Z]?\.?[\d.]+|[A-Z]\.)\s+", "", text)
            if sum(map(len, sections[-1])) > DOCUMENT / 2:
                sections.append([])
            continue
        text = re.sub(r"\[(\w)\]", r"\1", text)  # a quotation that was fitted in: [w]ithout
        # References to a book's page, such as [Op. Cit., p. 12], break the sentence they stand in.
        text = re.sub(r"\s*\[[^\[\]]*\b(?:pp?\.|Op\. Cit|Ibid|vol\.)[^\[\]]*\]", "", text)
        if reads_as_prose(text) and text not in seen:
            seen.add(text)
            sections[-1].append(f"{heading}\n\n{text}" if heading else text)
            heading = ""
    for section in sections:
        yield from (document for document in group_paragraphs(section) if len(document) > 200)


def dictd_entries(content: bytes, index: str) -> Iterator[str]:
    """The entries of a dictionary in dictd's form: text, and an index of word, offset and length in base 64."""
    places = {tuple(map(_number, line.split("\t")[1:3])) for line in index.splitlines() if not line.startswith("00-")}
    for offset, length in sorted(places):
        yield content[offset : offset + length].decode("utf-8", errors="replace")


def _number(digits: str) -> int:
    padded = digits.rjust(-(-len(digits) // 4) * 4, "A")
    return int.from_bytes(base64.b64decode(padded), "big")


PARTS = {"n": "noun", "v": "verb", "adj": "adjective", "adv": "adverb"}


def wordnet_documents(entries: Iterable[str]) -> Iterator[str]:
    """WordNet, a line a sense, a sense under the first of the words that share it."""
    seen: set[str] = set()

    def lines() -> Iterator[str]:
        for entry in entries:
            word, _, rest = entry.partition("\n")
            part = ""
            for sense in re.split(r"\n(?= {4,}(?:(?:n|v|adj|adv) )?\d+: )", "\n" + rest)[1:]:
                kind, meaning = re.match(r"\s*(n|v|adj|adv)?\s*\d+: (.*)", join_lines(sense)).groups()
                part = PARTS.get(kind, part)
                meaning, _, links = meaning.partition(" [")
                synonyms = [
                    w
                    for w in re.findall(r"{([^}]*)}", links.partition("[")[0].replace("- ", "-"))
                    if w.lower() != word.lower()
                ]
                if meaning not in seen:
                    seen.add(meaning)
                    also = f" Also: {', '.join(synonyms)}." if synonyms and links.startswith("syn:") else ""
                    yield f"{word} ({part}): {meaning.rstrip('.')}.{also}"

    return group_paragraphs(lines(), separator="\n", limit=DOCUMENT // 2)


LABELS = "n prop a adj v t i adv prep conj interj pron p pr pres imp vb pl sing superl compar fem masc"
GRAMMAR = rf"(?:(?:{LABELS.replace(' ', '|')})\.|&|or|,|;|\s)*"


def gcide_documents(entries: Iterable[str]) -> Iterator[str]:
    """Webster's of 1913, without pronunciations, derivations, sources, and what nobody says any more."""

    def texts() -> Iterator[str]:
        for entry in entries:
            # Its other half is WordNet's, which has a package of its own.
            if "[WordNet" in entry or "\\" not in entry or re.search(r"\[Obs\.?[^\]]*\]", entry[:400]):
                continue
            text = gcide_text(entry)
            if len(text) > 80 and all(map(reads_as_prose, text.split("\n")[:1])):
                yield text

    return group_paragraphs(texts(), limit=DOCUMENT // 2)


def gcide_text(entry: str) -> str:
    """`Swan \\Swan\\ (sw[o^]n), n. [AS.] (Zool.) 1. Any one of ...` as `Swan: Any one of ...`, a line a sense."""
    entry = re.sub(r"\]\s*[A-Z][\w -]*\s*$", "]", entry)  # the next entry's word, misplaced
    entry = re.sub(r"\[(?![A-Z])([^\[\]A-Za-z]*)([A-Za-z]{1,2})([^\[\]A-Za-z]*)\]", r"\2", entry)  # [=e], [ae]: letters
    while (stripped := re.sub(r"\s*\[[^\[\]]*\]", "", entry)) != entry:
        entry = stripped
    word, _, rest = entry.partition("\\")
    rest = re.sub(r"\\[^\\]*\\", "", "\\" + rest)
    rest = re.sub(r"^\s*\([^()]*[\"*`'][^()]*\)[,.]?", "", rest)
    rest = re.sub(rf"^{GRAMMAR}(?:(?:[\w'-]+\s*(?:\([^()]*\))?,?\s+)+?(?=(?:n|a|v|adv)\.){GRAMMAR})?", "", rest)
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", rest):
        paragraph = join_lines(paragraph.replace("{", "").replace("}", ""))
        paragraph = re.sub(r"\s*--\s?[A-Z][^-]{0,60}$", "", paragraph)  # who said it
        paragraph = re.sub(r"\s*--\s?[A-Z][\w.' ]{1,20}(?:\.|\))(?=\s|$)", "", paragraph)
        paragraph = re.sub(r"^(?:\d+\.\s|\([a-z]\)\s|\([A-Z][\w.,& ]*\)\s)*", "", paragraph)  # 1. (a) (Bot.)
        paragraph = re.sub(r"\s\([a-z]\)(?:\s\([A-Z][\w.& ]*\))?(?=\s)", "", paragraph).replace("Syn: ", "Synonyms: ")
        if re.search(r"[a-z]{3}", paragraph):
            paragraphs.append(paragraph)
    return f"{word.strip()}: " + "\n".join(paragraphs) if paragraphs else ""


def computing_documents(entries: Iterable[str]) -> Iterator[str]:
    """The computing dictionaries, FOLDOC and the Jargon File: a word, then paragraphs."""

    def texts() -> Iterator[str]:
        for entry in entries:
            word, _, rest = entry.partition("\n")
            paragraphs = []
            for paragraph in re.split(r"\n\s*\n", rest):
                paragraph = join_lines(re.sub(r"[{}]", "", paragraph))
                paragraph = re.sub(r"^((?:\d+\. )?)<[^>]*>\s*", r"\1", paragraph)
                paragraph = re.sub(r"^(?:/[^/]+/,?\s*)*(?:(?:n|v|vt|vi|adj|adv)\.,?\s*)*", "", paragraph)
                if reads_as_prose(paragraph):
                    paragraphs.append(paragraph)
            if paragraphs:
                yield f"{word.strip()}: " + "\n".join(paragraphs)

    return group_paragraphs(texts(), limit=DOCUMENT // 2)


def fortune_documents(text: str) -> Iterator[str]:
    """Quips and poems, each a document; lines that were broken to fit a screen are joined."""
    for fortune in re.split(r"\n%\n", text):
        fortune = re.sub(r".\x08", "", fortune)  # letters typed over each other
        fortune = re.sub(r"\s*\n\s*--\s*", "\n-- ", fortune.replace("`", "'").expandtabs(4).strip())
        fortune = re.sub(r"(?<=[^\n]{55})\n(?=[^\s-])", " ", fortune)
        fortune = "\n".join(join_lines(line) for line in fortune.split("\n"))
        if 60 < len(fortune) < DOCUMENT and reads_as_prose(join_lines(fortune.split("\n-- ")[0])):
            yield fortune


def bible_documents(text: str) -> Iterator[str]:
    """Chapters, without the verse numbers (`Ge1:1 In the beginning ...`)."""
    chapters: dict[str, list[str]] = {}
    for chapter, verse in re.findall(r"^(\w+?\d+):\d+ (.*)$", text, flags=re.MULTILINE):
        chapters.setdefault(chapter, []).append(verse)
    for verses in chapters.values():
        yield from group_paragraphs(verses, separator=" ")
