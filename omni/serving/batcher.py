"""Many answers at once: the engine on a thread of its own, and what it says on the event loop.

A request joins the batch while others are in the middle of theirs (continuous batching; Orca, Yu et al. 2022), and its
place is free as soon as its client has left.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from queue import SimpleQueue
from time import perf_counter
from typing import NamedTuple

from torch import Tensor

from omni.errors import OmniError
from omni.generation.engine import Engine, Row
from omni.generation.prompt import Segment
from omni.generation.sampling import Settings
from omni.serving.laps import Laps
from omni.serving.limits import BusyError

log = logging.getLogger("omni.serve")


class News(NamedTuple):
    """An answer at one moment: its text that stays, its tokens, and why it is over, if it is."""

    text: str
    tokens: int
    finish: str | None


class Answer:
    """What one request gets. Made, read and closed on the event loop; the engine's thread reports to it.

    Args:
        segments: the prompt.
        laps: where the time goes until its first token.
        until: by `perf_counter`, when it is over whatever it says.

    Attributes:
        latest: the newest of its news.
        row: the engine's own view of it; None until the prompt is queued.
        began: whether it has a first token; the engine's thread's own.
    """

    def __init__(self, segments: Sequence[Segment], settings: Settings, *, laps: Laps, until: float):
        self.segments, self.settings, self.laps, self.until = segments, settings, laps, until
        self.news: asyncio.Queue[News | Exception] = asyncio.Queue()
        self.latest = News("", 0, None)
        self.row: Row | None = None
        self.began = False
        self.first = self.last = 0.0

    async def next(self) -> News:
        """What is new, as soon as something is. Raises what went wrong with it."""
        news = await self.news.get()
        if isinstance(news, Exception):
            raise news
        self.last = perf_counter()
        if not self.first:
            self.first = self.last
            self.laps.lap("first_token", self.first)
        self.latest = news
        return news

    async def texts(self) -> AsyncIterator[str]:
        """Its text in pieces, from what it already has on."""
        shown, news = "", self.latest
        while True:
            if len(shown) < len(news.text):
                yield news.text[len(shown) :]
                shown = news.text
            if news.finish:
                return
            news = await self.next()

    @property
    def positions(self) -> int:
        """Of its prompt, text and sound."""
        return sum(map(len, self.segments))

    @property
    def heard(self) -> int:
        """Positions of sound in its prompt."""
        return sum(len(each) for each in self.segments if isinstance(each, Tensor))

    def summary(self) -> str:
        """For the log: how long and how fast, never what."""
        times = ", ".join(f"{part} {value:.1f}" for part, value in self.laps.milliseconds().items())
        return (
            f"{self.positions} positions read ({self.heard} of sound, {self.row.recalled} known), "
            f"{self.latest.tokens} tokens written ({self.latest.finish or 'left'}), "
            f"{self.tokens_per_second:.0f} a second; {times}"
        )

    @property
    def tokens_per_second(self) -> float:
        """Of those behind the first one; 0 where there are none."""
        return (self.latest.tokens - 1) / (self.last - self.first) if self.last > self.first else 0.0


class Batcher:
    """Drives an engine on a thread, from `start` to `stop`."""

    def __init__(self, engine: Engine):
        self.engine, self.jobs = engine, SimpleQueue()
        self.answers: dict[Row, Answer] = {}
        self.until = float("inf")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    async def stop(self) -> None:
        """End what runs, and the thread."""
        self.jobs.put(None)
        await asyncio.to_thread(self.thread.join)

    def end_by(self, until: float) -> None:
        """By `perf_counter`, when all answers are over."""
        self.until = min(self.until, until)

    def add(self, answer: Answer) -> None:
        self.jobs.put((self._add, answer))

    def remove(self, answer: Answer) -> None:
        """Whatever it still has to say; one that is over is left alone."""
        self.jobs.put((self._remove, answer))

    # From here on in the engine's thread.

    def _work(self) -> None:
        while True:
            while not (self.engine.running or self.engine.waiting) or not self.jobs.empty():
                job = self.jobs.get()
                if job is None:
                    self._drop_all(BusyError("the server is going down", retry_after=10))
                    return
                self._safely(*job)
            self._safely(self._step)

    def _safely(self, job: Callable, *given: Answer) -> None:
        """Whatever goes wrong: who waits hears of it, and the server lives."""
        try:
            job(*given)
        except Exception as error:
            log.exception("the engine failed")
            self._drop_all(error, *given)

    def _step(self) -> None:
        reading, began = self.engine.reading, perf_counter()
        if reading is not None and reading.cache is None:
            self.answers[reading.rows[0]].laps.lap("queue", began)
        moved = [self.answers[row] for row in self.engine.step()]
        now, news = perf_counter(), {}
        for answer in moved:
            if not answer.began:
                answer.began = True
                answer.laps.lap("prefill", now)
            news[answer] = News(answer.row.settled, len(answer.row.tokens), answer.row.finish)
        for answer in [answer for answer in self.answers.values() if now > min(answer.until, self.until)]:
            news[answer] = self._cut_short(answer)
        for answer, latest in news.items():
            if isinstance(latest, Exception) or latest.finish:
                self._remove(answer)
        self._tell(news.items())

    def _cut_short(self, answer: Answer) -> News | Exception:
        if not answer.row.tokens:
            return BusyError("no place became free in the time that a request may take; try again", retry_after=10)
        if not answer.row.finish:
            answer.row.close("length")
        return News(answer.row.text, len(answer.row.tokens), answer.row.finish)

    def _add(self, answer: Answer) -> None:
        try:
            (answer.row,) = self.engine.add(answer.segments, answer.settings)
            self.answers[answer.row] = answer
        except OmniError as error:
            self._tell([(answer, error)])

    def _remove(self, answer: Answer) -> None:
        if self.answers.pop(answer.row, None):
            self.engine.remove(answer.row)

    def _drop_all(self, error: Exception, *others: Answer) -> None:
        left = {*self.answers.values(), *others}
        self.answers.clear()
        self.engine.reset()
        self._tell([(answer, error) for answer in left])

    def _tell(self, news: Iterable[tuple[Answer, News | Exception]]) -> None:
        def put(news: list) -> None:
            for answer, latest in news:
                answer.news.put_nowait(latest)

        try:
            self.loop.call_soon_threadsafe(put, list(news))
        except RuntimeError:
            log.info("an answer came when nobody was there any more")
