"""One model for many who ask: a place for each, ears, and the batch in which all are answered."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

from omni.evaluation.transcription import greedy
from omni.generation.engine import ContextError, Engine
from omni.generation.prompt import Segment, segments
from omni.generation.sampling import Settings
from omni.model.omni import Omni
from omni.serving.batcher import Answer, Batcher
from omni.serving.ears import Ears, File, Heard
from omni.serving.laps import Laps
from omni.serving.limits import BusyError, Limits
from omni.text.chat import render_prompt
from omni.text.tokenizer import Tokenizer

log = logging.getLogger("omni.serve")

LONGEST_TOKEN = 32
"""Characters. Text that would not fit the context were all its tokens so long is not even cut into tokens."""
GOING = "the server is going down"
SLACK = 5.0
"""Seconds that the engine may be late with what it has to say before nobody waits for it any more."""
REMEMBERED = 4
"""Contexts of prompts that are kept for those that begin alike."""


class Assistant:
    """Answers from `start` to `stop`, on one event loop.

    Args:
        model: in eval mode, with or without ears.
    """

    def __init__(self, model: Omni, tokenizer: Tokenizer, limits: Limits):
        self.tokenizer, self.limits, self.context = tokenizer, limits, model.backbone.sequence_len
        remembered = REMEMBERED * self.context
        self.batcher = Batcher(Engine(model.backbone, tokenizer, max_rows=limits.max_rows, remembered=remembered))
        self.ears = Ears(model, max_seconds=limits.max_audio_seconds)
        self.hearing = ThreadPoolExecutor(1, thread_name_prefix="ears")
        self.hears = model.encoder is not None
        self.places, self.taken = limits.max_rows + limits.max_waiting, 0
        self.leaving = False
        self.listening: set[asyncio.Task] = set()

    def start(self) -> None:
        self.batcher.start()

    async def stop(self) -> None:
        await self.batcher.stop()
        self.hearing.shutdown(wait=False, cancel_futures=True)

    def drain(self, seconds: float) -> None:
        """Take no new requests, and be done with the others in that time."""
        self.leaving = True
        self.batcher.end_by(perf_counter() + seconds)
        for task in self.listening:  # who is not heard yet has nothing to end
            task.cancel(GOING)

    async def chat(self, messages: Sequence[dict], sounds: Sequence[File], settings: Settings) -> Answer:
        """The answer to a conversation (see `omni.text.chat`), once it has a first token. Has to be closed.

        Args:
            sounds: in the order in which the conversation has audio.

        Raises:
            BusyError: no place is free, or none became free in time.
            ContextError: it is too long for the model.
            OmniError: a conversation or a sound that cannot be.
        """
        if sum(map(characters, messages)) > LONGEST_TOKEN * self.context:
            raise ContextError(f"messages: more text than fits the model's context of {self.context} tokens")

        def prompt(heard: list[Heard]) -> tuple[list[Segment], Settings]:
            ids = render_prompt({"messages": list(messages)}, self.tokenizer)
            return segments(ids, [each.soft_SC for each in heard]), settings

        return await self._ask(sounds, prompt)

    async def transcribe(self, sound: File) -> Answer:
        """What is said in a sound file; as `chat`."""

        def prompt(heard: list[Heard]) -> tuple[list[Segment], Settings]:
            return [heard[0].soft_SC, [self.tokenizer.bos]], greedy(heard[0].seconds)

        return await self._ask([sound], prompt)

    def close(self, answer: Answer) -> None:
        """Give its place to somebody else, whether it is over or not."""
        self.taken -= 1
        self.batcher.remove(answer)
        log.info("%s", answer.summary())

    async def _ask(
        self, sounds: Sequence[File], prompt: Callable[[list[Heard]], tuple[list[Segment], Settings]]
    ) -> Answer:
        self._take_place()
        laps, until, answer = Laps(), perf_counter() + self.limits.max_seconds, None
        try:
            heard = await self._listen(sounds, laps)
            answer = Answer(*await asyncio.to_thread(prompt, heard), laps=laps, until=until)
            self.batcher.add(answer)
            async with asyncio.timeout(until + SLACK - perf_counter()):
                await answer.next()
        except BaseException as error:
            self.taken -= 1
            if answer is not None:
                self.batcher.remove(answer)
            if isinstance(error, TimeoutError):
                raise BusyError("it was not begun in the time that a request may take", retry_after=10) from None
            raise
        return answer

    def _take_place(self) -> None:
        if self.leaving:
            raise BusyError(GOING, retry_after=10)
        if self.taken >= self.places:
            raise BusyError(f"all {self.places} places are taken; try again in a second", retry_after=1)
        self.taken += 1

    async def _listen(self, sounds: Sequence[File], laps: Laps) -> list[Heard]:
        """Hear one after the other, on a thread of their own: while somebody is heard, others are answered."""
        heard: list[Heard] = []
        task = asyncio.current_task()
        self.listening.add(task)
        try:
            async with asyncio.timeout(self.limits.max_seconds):
                for sound in sounds:
                    job = partial(self.ears.hear, sound, laps)
                    heard.append(await asyncio.get_running_loop().run_in_executor(self.hearing, job))
                    if sum(len(each.soft_SC) for each in heard) > self.context:
                        raise ContextError(f"{sound.name}: with it the sounds are longer than the model's context")
        except asyncio.CancelledError as error:
            if error.args == (GOING,):
                raise BusyError(GOING, retry_after=10) from None
            raise
        finally:
            self.listening.discard(task)
        return heard


def characters(message: dict) -> int:
    """Of text in a message."""
    content = message["content"]
    return len(content) if isinstance(content, str) else sum(len(part.get("text", "")) for part in content)
