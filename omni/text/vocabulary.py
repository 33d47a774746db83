"""What a byte-level BPE tokenizer is made of, and how that stands on disk.

Two files can be read: omni's `tokenizer.json` and nanochat's `tokenizer.pkl`. Imports neither torch nor tiktoken,
so a configuration can be checked against a tokenizer in milliseconds.
"""

import json
import pickle
from pathlib import Path
from typing import NamedTuple

from omni.errors import OmniError

JSON, PICKLE = "tokenizer.json", "tokenizer.pkl"
FORMAT = "omni-bpe-1"
BOS = "<|bos|>"


class TokenizerError(OmniError):
    """A tokenizer that cannot be read, trained or written."""


class Vocabulary(NamedTuple):
    """Bytes of each token -> its id, which is its merge priority; how text is split; special tokens -> ids."""

    ranks: dict[bytes, int]
    pattern: str
    specials: dict[str, int]

    @property
    def size(self) -> int:
        return len(self.ranks) + len(self.specials)

    def check(self) -> None:
        """Raise TokenizerError unless every byte is a token and the ids run from 0, the specials last."""
        ranks, pattern, specials = self
        if not (isinstance(ranks, dict) and isinstance(specials, dict) and isinstance(pattern, str)):
            raise TokenizerError("a vocabulary is token bytes, a pattern and special tokens, and this is not")
        if not all(isinstance(token, bytes) and token for token in ranks):
            raise TokenizerError("a token is not a run of bytes")
        absent = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if absent:
            raise TokenizerError(f"{len(absent)} of the 256 bytes are no tokens, the first is {absent[0]}")
        numbers = [*ranks.values(), *specials.values()]
        if not all(isinstance(number, int) for number in numbers) or not all(isinstance(s, str) for s in specials):
            raise TokenizerError("a token's id is not a number, or a special token's name not a string")
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise TokenizerError("token ids do not run from 0 without a gap (does a token stand twice?)")
        if sorted(specials.values()) != list(range(len(ranks), self.size)):
            raise TokenizerError(f"special tokens must follow the {len(ranks)} others without a gap")
        if BOS not in specials:
            raise TokenizerError(f"there is no {BOS}")

    def to_json(self) -> str:
        """The text of `tokenizer.json`: one token a line in id order, a string or, where it is not UTF-8, bytes."""
        tokens = sorted(self.ranks, key=self.ranks.__getitem__)
        head = {
            "format": FORMAT,
            "pattern": self.pattern,
            "specials": sorted(self.specials, key=self.specials.__getitem__),
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        lines.append('"tokens": [\n' + ",\n".join(map(_spell, tokens)) + "\n]")
        return "{\n" + ",\n".join(lines) + "\n}\n"


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in the file that `path` means (see `find_file`).

    Raises:
        TokenizerError: nothing there, damaged, of another library, or a pickle that holds anything but a tokenizer.
    """
    path = find_file(path)
    try:
        vocabulary = _read_pickle(path) if path.suffix == ".pkl" else _read_json(path)
        vocabulary.check()
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    except OSError as error:
        raise TokenizerError(f"{path}: the tokenizer cannot be read ({error.strerror or error})") from None
    return vocabulary


def find_file(path: Path) -> Path:
    """The tokenizer that a path means: a file, the one in a folder, or the one that goes with a model's weights.

    With a run's `checkpoints/step_*` goes the run's own, with nanochat's base directory and each `model_*.pt` under
    it, `tokenizer/tokenizer.pkl`. Raises TokenizerError when there is none.
    """
    path = path.expanduser()
    if path.suffix in (".json", ".pkl") and path.is_file():
        return path
    above = path.absolute().parents
    if path.suffix == ".pt":
        folders = above[2:3]
    elif path.parent.name == "checkpoints":
        folders = [path, above[1]]
    else:
        folders = [path]
    for folder in folders:
        for file in (folder / JSON, folder / PICKLE, folder / "tokenizer" / PICKLE):
            if file.is_file():
                return file
    if not path.exists():
        raise TokenizerError(f"{path}: does not exist, so there is no tokenizer; give 'bytes', a folder or a file")
    raise TokenizerError(
        f"{path}: no tokenizer goes with it; give 'bytes', a folder with {JSON} or {PICKLE}, or such a file"
    )


def _spell(token: bytes) -> str:
    try:
        return json.dumps(token.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return json.dumps(list(token))


def _read_json(path: Path) -> Vocabulary:
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"damaged, it is no JSON ({error}); train or copy the tokenizer again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TokenizerError(
            f'its "format" is not {FORMAT!r}: it was not written by omni. omni reads its own {JSON} and '
            f"nanochat's {PICKLE}"
        )
    try:
        tokens = [token.encode() if isinstance(token, str) else bytes([*token]) for token in data["tokens"]]
        ranks = {token: rank for rank, token in enumerate(tokens)}
        specials = {name: len(tokens) + i for i, name in enumerate(data["specials"])}
        return Vocabulary(ranks, data["pattern"], specials)
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"damaged ({type(error).__name__}: {error}); train or copy the tokenizer again") from None


class _Encoding:
    """Stands in for `tiktoken.Encoding` while unpickling, and only remembers what it was given.

    The real class would follow a name inside the pickle to a download.
    """

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _OneClass(pickle.Unpickler):
    """Knows one harmless class, so a pickle has nothing it could call."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("tiktoken.core", "Encoding"):
            return _Encoding
        raise TokenizerError(f"refused, nothing was run: the pickle asks for {module}.{name}, which no tokenizer needs")


def _read_pickle(path: Path) -> Vocabulary:
    try:
        with path.open("rb") as file:
            state = getattr(_OneClass(file).load(), "state", None)
        return Vocabulary(state["mergeable_ranks"], state["pat_str"], state["special_tokens"])
    except (TokenizerError, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise TokenizerError(f"not a pickled tiktoken Encoding ({type(error).__name__}: {error})") from None


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs are joined, half of one becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
