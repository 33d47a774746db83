"""A server under load, from its clients' side: time to the first token, tokens a second, alone and in company."""

import asyncio
import base64
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np
import soundfile

from omni.audio import SAMPLE_RATE
from omni.errors import OmniError

TOKENS = 128
"""Of each answer to text."""
SECONDS = 5
"""Of each sound."""


NUMBERS = count()
"""Of requests, so that none comes twice."""


@dataclass
class Load:
    """What came back in so many seconds.

    Attributes:
        first: seconds from sending to the first text of each answer.
        parts: of those, the server's own account in milliseconds.
        tokens: written in all.
        seconds: from the first request to the last answer.
        statuses: of HTTP, and "left" for a client that hung up.
    """

    first: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    statuses: Counter = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    def quantile(self, share: float) -> float:
        """Of the time to the first token, in milliseconds."""
        return float(1000 * np.quantile(self.first, share)) if self.first else float("nan")


def text_request(number: int) -> dict:
    """One that nobody asked before, with an answer of exactly `TOKENS`."""
    messages = [{"role": "user", "content": f"Tell me the story number {number} about the sea."}]
    return {"messages": messages, "max_tokens": TOKENS, "min_tokens": TOKENS}


def sound_request(number: int) -> dict:
    """A sound that nobody heard before, so that none is known."""
    draw = np.random.default_rng(number)
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    samples = 0.3 * np.sin(2 * np.pi * draw.uniform(100, 800) * time) + 0.02 * draw.standard_normal(len(time))
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV")
    data = base64.b64encode(file.getvalue()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return {"messages": [{"role": "user", "content": [sound, {"type": "text", "text": "How high is the voice?"}]}]}


async def ask(client: httpx.AsyncClient, request: dict, load: Load, *, leave_after: int | None = None) -> None:
    """One request, streamed, and counted in `load`; the client hangs up after so many events, if that is said."""
    body = {"model": "omni", "stream": True, "stream_options": {"include_usage": True}} | request
    began, first, events = perf_counter(), None, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            load.statuses[answer.status_code] += 1
            await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
            return
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            events += 1
            if leave_after is not None and events > leave_after:
                load.statuses["left"] += 1
                return
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise OmniError(f"the server: {event['error']['message']}")
            if first is None and any(choice["delta"].get("content") for choice in event["choices"]):
                first = perf_counter() - began
            if "timing" in event:
                load.parts.append(event["timing"])
            load.tokens += event.get("usage", {}).get("completion_tokens", 0)
    load.statuses[200] += 1
    if first is not None:
        load.first.append(first)


async def keep_asking(url: str, request: Callable[[int], dict], *, clients: int, seconds: float) -> Load:
    """So many clients at once, each with its next request as soon as it has an answer, for so long."""
    load = Load()

    async def one(client: httpx.AsyncClient) -> None:
        while perf_counter() < end:
            await ask(client, request(next(NUMBERS)), load)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        began = perf_counter()
        end = began + seconds
        await asyncio.gather(*(one(client) for _ in range(clients)))
        load.seconds = perf_counter() - began
    return load


async def come_and_go(url: str, *, requests: int, clients: int, seed: int = 0) -> Load:
    """Short requests, a third of which hang up somewhere in the middle."""
    load, draw, numbers = Load(), random.Random(seed), iter(range(requests))

    async def one(client: httpx.AsyncClient) -> None:
        for number in numbers:
            short = text_request(number) | {"max_tokens": 16, "min_tokens": 16}
            leaves = draw.randrange(12) if number % 3 == 0 else None
            await ask(client, short, load, leave_after=leaves)

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        began = perf_counter()
        await asyncio.gather(*(one(client) for _ in range(clients)))
        load.seconds = perf_counter() - began
    return load


class Server:
    """`omni.serve` in a process of its own, on any free port; a context manager. Raises OmniError when it does not
    start."""

    def __init__(self, *words: str):
        line = [sys.executable, "-m", "omni.serve", "port=0", "page=false", *words]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self) -> "Server":
        told = re.search(r"http://\S+", self.process.stdout.readline())
        if told is None:
            raise OmniError(f"the server did not start: python -m omni.serve {' '.join(self.process.args[4:])}")
        self.url = told[0]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def memory(self) -> float:
        """What it holds, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def threads(self) -> int:
        return int(re.search(r"Threads:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])

    def taken(self) -> int:
        """Places that somebody has."""
        return httpx.get(f"{self.url}/health").json()["taken"]


def bench_serving(server: Server, *, clients: int, seconds: float, requests: int) -> Iterator[tuple[str, Load, float]]:
    """What was asked, what came of it, and the server's memory in MiB behind it.

    Sounds and text are asked for by one client and then by many; at the end come short requests, a third of which hang
    up.
    """
    jobs = {
        "warm": lambda: keep_asking(server.url, sound_request, clients=2, seconds=3),
        "sound, 1 client": lambda: keep_asking(server.url, sound_request, clients=1, seconds=seconds / 4),
        f"sound, {clients} clients": lambda: keep_asking(server.url, sound_request, clients=clients, seconds=seconds),
        "text, 1 client": lambda: keep_asking(server.url, text_request, clients=1, seconds=seconds / 4),
        f"text, {clients} clients": lambda: keep_asking(server.url, text_request, clients=clients, seconds=seconds),
        f"{requests} that come and go": lambda: come_and_go(server.url, requests=requests, clients=clients),
    }
    for name, job in jobs.items():
        try:
            load = asyncio.run(job())
        except httpx.TransportError as error:
            raise OmniError(f"{name}: the server does not answer ({error!r})") from error
        yield name, load, server.memory()
