"""No request is longer than a server can hold, whatever its header says."""

import asyncio

from fastapi import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni.serving.errors import response

PATIENCE = 30
"""Seconds between two pieces of a request."""
AT_ONCE = 8
"""Requests of the largest size that may be held together."""


class BodyLimit:
    """Middleware that answers 413 to a request of more than `most` bytes, before it is read where it says so itself,
    408 to one that stops coming, and 503 when all that are there together are too much.

    What is allowed stays in memory: form data of that size is not spooled to a disk.
    """

    def __init__(self, app: ASGIApp, *, most: int):
        self.app, self.most, self.held = app, most, 0
        self.message = f"the request is larger than the {most / 2**20:g} MiB allowed"
        MultiPartParser.spool_max_size = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.most:
            return await response(413, self.message)(scope, receive, send)
        came, whole = 0, False

        async def counted() -> Message:
            nonlocal came, whole
            if whole:  # what comes now is that the client has left, in its own time
                return await receive()
            try:
                async with asyncio.timeout(PATIENCE):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"nothing more of the request came for {PATIENCE} seconds") from None
            size, whole = len(message.get("body", b"")), not message.get("more_body", False)
            came += size
            self.held += size
            if came > self.most:
                raise HTTPException(413, self.message)
            if self.held > AT_ONCE * self.most:
                raise HTTPException(503, "too much is being sent at once; try again", {"Retry-After": "1"})
            return message

        try:
            return await self.app(scope, counted, send)
        finally:
            self.held -= came
