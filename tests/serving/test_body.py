"""Requests that are too large, too slow or too many at once."""

import asyncio

import pytest
from fastapi import FastAPI, Request

from omni.serving import body, errors
from omni.serving.body import BodyLimit

MOST = 1000


def limited() -> BodyLimit:
    app = FastAPI()
    errors.install(app)

    @app.post("/")
    async def size(request: Request) -> int:
        return len(await request.body())

    return BodyLimit(app, most=MOST)


async def post(app: BodyLimit, *pieces: bytes | float, headers: tuple = ()) -> tuple[int, dict]:
    """The status and headers of what comes back for a body in pieces; a number is seconds in which none comes."""
    left, sent = list(pieces), []

    async def receive() -> dict:
        while left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": list(headers)}
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("pieces", "headers", "status"),
    [
        ([b"x" * MOST], (), 200),
        ([b"x" * MOST, b"x"], (), 413),
        ([b""], ((b"content-length", b"1001"),), 413),
        ([b"x", 0.01, b"x"], (), 200),
        ([b"x", 0.5, b"x"], (), 408),
    ],
    ids=["just", "in_pieces", "declared", "slow", "too_slow"],
)
def test_what_is_too_large_or_too_slow_is_refused(monkeypatch, pieces, headers, status):
    monkeypatch.setattr(body, "PATIENCE", 0.1)
    app = limited()
    assert asyncio.run(post(app, *pieces, headers=headers))[0] == status
    assert app.held == 0


def test_all_together_are_no_more_than_a_few_of_the_largest(monkeypatch):
    monkeypatch.setattr(body, "AT_ONCE", 2)
    app = limited()

    async def three() -> list[tuple[int, dict]]:
        return await asyncio.gather(*(post(app, b"x" * 900, 0.05, b"x") for _ in range(3)))

    found = asyncio.run(three())
    assert sorted(status for status, _ in found) == [200, 200, 503]
    assert [headers[b"retry-after"] for status, headers in found if status == 503] == [b"1"]
    assert app.held == 0
