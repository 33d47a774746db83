"""No request is longer than a server can hold, whatever its header says."""

from fastapi import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni.serving.errors import response


class BodyLimit:
    """Middleware that answers 413 to a request of more than `most` bytes, before it is read where it says so itself.

    What is allowed stays in memory: form data of that size is not spooled to a disk.
    """

    def __init__(self, app: ASGIApp, *, most: int):
        self.app, self.most = app, most
        self.message = f"the request is larger than the {most / 2**20:g} MiB allowed"
        MultiPartParser.spool_max_size = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.most:
            return await response(413, self.message)(scope, receive, send)
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                raise HTTPException(413, self.message)
            return message

        return await self.app(scope, counted, send)
