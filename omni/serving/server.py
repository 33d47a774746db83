"""The process: a socket, uvicorn, and an end that lets running answers end."""

import socket
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from omni.errors import OmniError

if TYPE_CHECKING:  # a port that is taken is said before torch is imported
    from omni.serving.assistant import Assistant

GRACE = 6
"""Seconds that running answers have when the server is told to stop; orchestrators kill after 10."""


class Server(uvicorn.Server):
    """Tells the assistant as soon as a signal comes, before uvicorn waits for the connections."""

    def __init__(self, config: uvicorn.Config, assistant: "Assistant"):
        super().__init__(config)
        self.assistant = assistant

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if loop := self.assistant.batcher.loop:  # a signal comes in the middle of anything
            loop.call_soon_threadsafe(self.assistant.drain, GRACE)
        super().handle_exit(sig, frame)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that nobody else has. Raises OmniError for one that is taken, or for no such host."""
    if not 0 <= port < 2**16:
        raise OmniError(f"port={port}: choose one from 0, which is any that is free, to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
        return opened
    except (OSError, OverflowError) as error:
        raise OmniError(f"host={host} port={port}: cannot be listened on ({error}); choose another port") from error


def serve_on(listening: socket.socket, app: FastAPI, assistant: "Assistant") -> None:
    """Until a signal comes; the signal then does what it does to any process."""
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=GRACE + 1, server_header=False)
    Server(config, assistant).run(sockets=[listening])
