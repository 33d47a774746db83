"""Prompts in, tokens out: text and audio, one row or many, each at its own pace.

Shape letters: B rows, C width, V vocabulary.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from omni.errors import OmniError
from omni.generation.memory import PromptMemory
from omni.generation.prompt import Prompt, Segment
from omni.generation.sampling import Settings, sample
from omni.generation.streaming import TextStream, ToolCalls
from omni.model.gpt import GPT
from omni.model.kv_cache import KVCache
from omni.text.tokenizer import Tokenizer

PLAIN = Settings()


class ContextError(OmniError):
    """A prompt that is longer than what the model can look back on."""


class Row:
    """An answer in the making.

    Attributes:
        tokens: what came so far, without the token that ended it.
        text: the same as text, whole characters only, without the text that ended it.
        recalled: positions of its prompt that were known from another one.
        finish: why it is over: "stop" for a token or a text that ends it, "length" for `max_tokens`, `max_characters`
            or a full context; None while it goes on.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Settings, *, seed: int, room: int):
        self.tokens: list[int] = []
        self.text, self.recalled = "", 0
        self.finish: str | None = None
        self.settings, self.room = settings, min(settings.max_tokens, room)
        self.generator = torch.Generator().manual_seed(seed)
        self.stream, self.tools, self.forced = TextStream(tokenizer), ToolCalls(tokenizer), deque()

    def advance(self, logits_V: Tensor, ends: set[int]) -> int | None:
        """Draw the next token, unless a tool has it ready; None when it ends the row."""
        ends = ends.union(self.settings.stop)
        if len(self.tokens) < self.settings.min_tokens:
            logits_V = logits_V.index_fill(0, torch.tensor([*ends]), -torch.inf)
        token = self.forced.popleft() if self.forced else sample(logits_V, self.settings, self.generator)
        if token in ends:
            self.close("stop")
            return None
        self.tokens.append(token)
        self.text += self.stream.read(token)
        self.forced += self.tools.read(token)
        if self.cut_off():
            self.finish = "stop"
        elif len(self.tokens) == self.room or self.long_enough():
            self.close("length")
        return token

    @property
    def settled(self) -> str:
        """The text that will stay: without an end that may become one of the texts that end it."""
        ends = () if self.finish else self.settings.until
        starts = ((end, n) for end in ends for n in range(min(len(end), len(self.text) + 1)))
        held = max((n for end, n in starts if self.text.endswith(end[:n])), default=0)
        return self.text[: len(self.text) - held]

    def cut_off(self) -> bool:
        """Take off a text that ends the answer, and what follows it."""
        places = [self.text.find(end) for end in self.settings.until if end in self.text]
        self.text = self.text[: min(places)] if places else self.text
        return bool(places)

    def long_enough(self) -> bool:
        most = self.settings.max_characters
        return most is not None and len(self.text) >= most

    def close(self, finish: str) -> None:
        self.finish = finish
        self.text += self.stream.close()


class Request:
    """A prompt on its way into a cache, and the rows that will continue it."""

    def __init__(self, prompt: Prompt, rows: list[Row]):
        self.prompt, self.rows = prompt, rows
        self.cache: KVCache | None = None

    def open(self, model: GPT, memory: PromptMemory) -> None:
        """Begin to read, behind what is known already. Not before: a thousand prompts that wait need no room."""
        self.cache = memory.recall(self.prompt) or model.new_cache(columns=self.prompt.length)
        for row in self.rows:
            row.recalled = self.cache.lengths[0]

    def read(self, model: GPT, positions: int) -> Tensor | None:
        """Read so many positions more; the model's last state (1, C) when that was the end of the prompt."""
        start = self.cache.lengths[0]
        ids_1L, audio = self.prompt.piece(start, start + positions)
        states_1LC = model.states(ids_1L, **audio, kv_cache=self.cache)
        return states_1LC[:, -1] if self.cache.lengths[0] == self.prompt.length else None


class Engine:
    """Continues prompts with a model, many at a time.

    A step reads a chunk of the oldest waiting prompt and adds a token to every running row, so a long prompt does not
    hold the others up. Rows join when their prompt is read and leave when they finish. What a row says does not
    depend on its company: it draws from a generator of its own. One thread drives an engine.

    Args:
        chunk: positions of a prompt that are read in one step.
        max_rows: rows that run together; further prompts wait. (One prompt may ask for more samples; it runs alone.)
        remembered: positions of prompts that are kept, for those that begin alike (see `PromptMemory`).
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, *, chunk: int = 512, max_rows: int = 16, remembered: int = 0):
        self.model, self.tokenizer, self.chunk, self.max_rows = model, tokenizer, chunk, max_rows
        self.ends = {tokenizer.bos, tokenizer.specials.get("<|assistant_end|>", tokenizer.bos)}
        self.cache, self.memory = model.new_cache(rows=0), PromptMemory(model, remembered)
        self.running: list[Row] = []
        self.waiting: deque[Request] = deque()

    def add(self, segments: Sequence[Segment], settings: Settings = PLAIN, samples: int = 1) -> list[Row]:
        """Queue a prompt; the rows returned fill up as `step` is called.

        Raises:
            OmniError: a prompt that cannot be read (see `Prompt`), or no samples.
            ContextError: it is longer than the model's context.
        """
        if samples < 1:
            raise OmniError(f"samples={samples} must be 1 or more")
        device = self.model.lm_head.weight.device
        prompt = Prompt(segments, width=self.model.n_embd, vocab_size=self.model.vocab_size, device=device)
        # The last token of an answer is not read again, so it may stand just behind the context.
        room = self.model.sequence_len + 1 - prompt.length
        if room < 1:
            raise ContextError(
                f"prompt: {prompt.length} positions do not fit the model's context of {self.model.sequence_len}; "
                "shorten the text or the audio"
            )
        rows = [Row(self.tokenizer, settings, seed=settings.seed + i, room=room) for i in range(samples)]
        self.waiting.append(Request(prompt, rows))
        return rows

    @property
    def reading(self) -> Request | None:
        """The prompt that the next step reads in: the oldest that waits, if there is room for its rows."""
        if not self.waiting or (self.running and len(self.running) + len(self.waiting[0].rows) > self.max_rows):
            return None
        return self.waiting[0]

    @torch.inference_mode()
    def step(self) -> dict[Row, int | None]:
        """Each row that moved and its new token, None for a row that ended without one."""
        logits = [*self._decode(), *self._prefill()]
        moved = {row: row.advance(logits_V, self.ends) for row, logits_V in zip(self.running, logits, strict=True)}
        for row in moved:
            if row.finish:
                self._leave(row)
        return moved

    def reset(self) -> None:
        """Forget all rows and prompts, whatever state a failure left them in."""
        self.cache, self.memory = self.model.new_cache(rows=0), PromptMemory(self.model, self.memory.positions)
        self.running.clear()
        self.waiting.clear()

    @torch.inference_mode()
    def remove(self, row: Row) -> None:
        """Forget a row that nobody waits for any more; one that is over already is left alone."""
        if row in self.running:
            self._leave(row)
        for request in [request for request in self.waiting if row in request.rows]:
            request.rows.remove(row)
            if not request.rows:
                self.waiting.remove(request)

    def generate(
        self, segments: Sequence[Segment], settings: Settings = PLAIN, samples: int = 1
    ) -> Iterator[tuple[Row, int | None]]:
        """Continue one prompt and yield each row's tokens as they come; other rows go on meanwhile."""
        rows = self.add(segments, settings, samples)
        try:
            while not all(row.finish for row in rows):
                moved = self.step()
                yield from ((row, moved[row]) for row in rows if row in moved)
        finally:
            for row in rows:
                self.remove(row)

    def complete(
        self, prompts: Sequence[Sequence[Segment]], settings: Settings | Sequence[Settings] = PLAIN
    ) -> list[Row]:
        """Continue many prompts to their end, with the same settings or each with its own; a row for each, in order."""
        if isinstance(settings, Settings):
            settings = [settings] * len(prompts)
        rows = [row for segments, its in zip(prompts, settings, strict=True) for row in self.add(segments, its)]
        while not all(row.finish for row in rows):
            self.step()
        return rows

    def _decode(self) -> Sequence[Tensor]:
        """Feed each running row its last token; the logits (V,) that follow, on the CPU."""
        if not self.running:
            return ()
        last_B1 = torch.tensor([row.tokens[-1:] for row in self.running], device=self.cache.kv.device)
        return self.model(last_B1, kv_cache=self.cache)[:, -1].cpu().unbind()

    def _prefill(self) -> Sequence[Tensor]:
        """Read on in the oldest prompt. When that was its end its rows run, and these are their logits (V,)."""
        request = self.reading
        if request is None:
            return ()
        if request.cache is None:
            request.open(self.model, self.memory)
        state_1C = request.read(self.model, self.chunk)
        if state_1C is None:
            return ()
        self.waiting.popleft()
        self.cache.join(request.cache, copies=len(request.rows))
        self.running += request.rows
        self.memory.keep(request.prompt, request.cache)
        return self.model.logits(state_1C).cpu().expand(len(request.rows), -1).unbind()

    def _leave(self, row: Row) -> None:
        place = self.running.index(row)
        self.cache.drop(place)
        self.running[place] = self.running[-1]
        self.running.pop()
