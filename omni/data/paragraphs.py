"""Documents of a good length out of paragraphs."""

import re
from collections.abc import Iterable, Iterator

DOCUMENT = 2000
"""Characters of a document made of paragraphs: about 500 tokens, so that few are longer than a row."""


def group_paragraphs(pieces: Iterable[str], *, separator: str = "\n\n", limit: int = DOCUMENT) -> Iterator[str]:
    """Documents of successive pieces, each closed before it would pass `limit` characters, separators not counted.

    A piece that is longer is cut, between lines or sentences where it can be.
    """
    document = ""
    for piece in pieces:
        if len(document) + len(piece) > limit:
            if document:
                yield document
            *whole, document = group_lines(piece, limit) if len(piece) > limit else [piece]
            yield from whole
        else:
            document += separator * bool(document) + piece
    if document:
        yield document


def group_lines(piece: str, limit: int) -> list[str]:
    sentences = re.findall(r".*?(?:\n|[.!?][\"')]*\s|$)", piece, flags=re.DOTALL)
    documents = [""]
    for sentence in sentences:
        if documents[-1] and len(documents[-1]) + len(sentence) > limit:
            documents.append("")
        documents[-1] += sentence
    return [document.strip() for document in documents]
