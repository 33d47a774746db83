"""What the training loop eats: an endless row of batches that can be put back to where it was.

A feed has `__next__`, which returns the next batch, `skip`, which passes it over (another process takes it),
`state_dict` and `load_state_dict`, and `skipped`: what could not be read so far, and why.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from omni.data.batch import Batch, collate, draw, draw_alike
from omni.data.cached import CachedClips
from omni.data.features import EncodedClips
from omni.data.fingerprint import refuse_other_data
from omni.errors import OmniError


class Feed(Protocol):
    """See the module."""

    @property
    def skipped(self) -> Mapping[str, str]: ...

    def __next__(self) -> Batch: ...

    def skip(self) -> None: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Numbered:
    """A feed whose batch number n is a function of n and the data alone, so that the number is its state.

    fingerprint: of the data, which a checkpoint has to have been trained on.
    """

    number = 0
    fingerprint = ""
    skipped: Mapping[str, str] = {}

    def skip(self) -> None:
        self.number += 1

    def state_dict(self) -> dict:
        return {"number": self.number, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict) -> None:
        refuse_other_data(state.get("fingerprint", self.fingerprint), self.fingerprint)
        self.number = state["number"]


class ReadAhead:
    """Batches by their number, each of them read while the one before is used.

    The number that follows is guessed from the last two, since a process among several takes every so manieth; a wrong
    guess costs a reading, nothing else. An error comes up when its batch is asked for.
    """

    def __init__(self, read: Callable[[int], Batch]):
        self.read = read
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self.last: int | None = None
        self.coming: dict[int, Future[Batch]] = {}

    def __call__(self, number: int) -> Batch:
        coming = self.coming.pop(number, None)
        batch = self.read(number) if coming is None else coming.result()
        following = number + (1 if self.last is None else max(1, number - self.last))
        self.last, self.coming = number, {following: self.thread.submit(self.read, following)}
        return batch


class ClipFeed(Numbered):
    """Encoded clips in shuffled epochs; batch number n is a function of n and the seed alone.

    Args:
        examples: the encoded clips.
        check_fits: raises when a clip is too long for the model (`Omni.check_fits`).
        bos: the token that ends a text.
        batch_size: clips a batch.
        seed: of the order.
        ahead: read each batch while the one before is used: for clips that lie on disk.
    """

    def __init__(
        self,
        examples: EncodedClips | CachedClips,
        *,
        check_fits: Callable[..., None],
        bos: int,
        batch_size: int,
        seed: int,
        ahead: bool = False,
    ):
        self.examples, self.check_fits = examples, check_fits
        self.take = ReadAhead(self.batch) if ahead else self.batch
        self.fingerprint = getattr(examples, "fingerprint", "")
        self.bos, self.batch_size, self.seed = bos, batch_size, seed
        self.left_out: set[str] | None = None  # by the run that is gone on with

    @property
    def skipped(self) -> Mapping[str, str]:
        return getattr(self.examples, "skipped", {})

    def indices(self, number: int) -> list[int]:
        """The clips of batch `number`: of like length, where lengths are known."""
        if (lengths := getattr(self.examples, "lengths", None)) is not None:
            return draw_alike(number, size=self.batch_size, lengths=lengths, seed=self.seed)
        return draw(number, size=self.batch_size, clips=len(self.examples), seed=self.seed)

    def encode_ahead(self, batches: int) -> Iterator[str]:
        """Encode what the next `batches` need, as far as memory or disk goes, so that a bad clip is met early; yields
        each one's id."""
        for clip in self.examples.encode_ahead(lambda: self.needed(batches), known=self.left_out or ()):
            self.check_fits(clip.id, frames=clip.frames, tokens=clip.tokens)
            yield clip.id
        if self.left_out is not None and (changed := self.left_out ^ {*self.skipped}):
            raise OmniError(
                f"dataset: {', '.join(sorted(changed)[:5])}: could be read when this run began and cannot now, or the "
                "other way round, so it would go on with other batches. Bring the clips back as they were, or start a "
                "new run from the checkpoint's weights."
            )

    def state_dict(self) -> dict:
        return super().state_dict() | {"left_out": sorted(self.skipped)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.left_out = {*state.get("left_out", ())}

    def needed(self, batches: int) -> list[int]:
        """The clips that the next `batches` are made of; all where that follows from lengths that are not known yet."""
        if getattr(self.examples, "lengths", ()) is None:
            return [*range(len(self.examples))]
        numbers = range(self.number, self.number + batches)
        return sorted({index for number in numbers for index in self.indices(number)})

    def __next__(self) -> Batch:
        batch = self.take(self.number)
        self.number += 1
        return batch

    def batch(self, number: int) -> Batch:
        """Raises OmniError when a clip of it does not fit the model, or is not there any more."""
        examples = [self.examples[i] for i in self.indices(number)]
        for example in examples:
            self.check_fits(example.id, frames=example.states_KTD.size(1), tokens=len(example.ids_L))
        return collate(examples, bos=self.bos)


class Turns:
    """A feed of several feeds, each taken as often as its share asks for, the one that lags most first.

    What it gives is of the kind of the feed it comes from.
    """

    def __init__(self, feeds: dict[str, Feed], shares: dict[str, float]):
        self.feeds, self.shares = feeds, shares
        self.taken = dict.fromkeys(feeds, 0)

    @property
    def skipped(self) -> Mapping[str, str]:
        return {name: reason for feed in self.feeds.values() for name, reason in feed.skipped.items()}

    def choose(self) -> str:
        number = sum(self.taken.values()) + 1
        name = max(self.feeds, key=lambda name: self.shares[name] * number - self.taken[name])
        self.taken[name] += 1
        return name

    def __next__(self) -> Batch:
        kind = self.choose()
        return replace(next(self.feeds[kind]), kind=kind)

    def skip(self) -> None:
        self.feeds[self.choose()].skip()

    def state_dict(self) -> dict:
        return {"taken": dict(self.taken), "feeds": {name: feed.state_dict() for name, feed in self.feeds.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.taken = dict(state["taken"])
        for name, feed in self.feeds.items():
            feed.load_state_dict(state["feeds"][name])
