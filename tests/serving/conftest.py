"""A small model with ears, seeded, that speaks the starter's tokens, and a server of it on a thread."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import httpx
import openai
import pytest
import soundfile
import torch
import uvicorn
from fastapi import FastAPI

from omni.model.encoder import RandomWhisperEncoder
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.serving.api import create_app
from omni.serving.assistant import Assistant
from omni.serving.limits import Limits
from omni.serving.page import mount_page
from omni.serving.server import Server, open_socket
from omni.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer("data/starter")


@pytest.fixture(scope="session")
def small(tokenizer) -> Omni:
    torch.manual_seed(0)
    backbone = GPT(sequence_len=256, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)
    for name, parameter in backbone.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    projector = StackMLP(in_dim=64, out_dim=64, stack=4)
    return Omni(encoder=RandomWhisperEncoder(), projector=projector, backbone=backbone).eval()


@pytest.fixture(scope="session")
def wav() -> Callable[..., bytes]:
    """`wav(seconds, seed=0, ...)` is a file of noise; further arguments are soundfile's."""

    def noise(seconds: float, seed: int = 0, **given: str) -> bytes:
        samples = torch.rand(int(16_000 * seconds), generator=torch.Generator().manual_seed(seed)) - 0.5
        file = io.BytesIO()
        soundfile.write(file, samples.numpy(), 16_000, **{"format": "WAV"} | given)
        return file.getvalue()

    return noise


@pytest.fixture
def slow_down(small, monkeypatch) -> Callable[[float], None]:
    """`slow_down(seconds)`: each step of the small model takes so long."""

    def slow(seconds: float) -> None:
        blocks = small.backbone.blocks
        monkeypatch.setattr(small.backbone, "blocks", lambda *given: (time.sleep(seconds), blocks(*given))[1])

    return slow


class Served(NamedTuple):
    server: Server
    assistant: Assistant
    url: str

    def client(self, **given) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | given)

    def post(self, path: str, **given) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", timeout=60, **given)


@pytest.fixture(scope="session")
def serving(small, tokenizer) -> Callable[..., AbstractContextManager[Served]]:
    """`with serving(page=False, key=None, **limits)`: the small model behind a socket."""

    @contextmanager
    def serve(*, page: bool = False, key: str | None = None, **limits: float) -> Iterator[Served]:
        assistant = Assistant(small, tokenizer, Limits(**limits))
        app: FastAPI = create_app(assistant, name="omni", key=key)
        if page:
            app = mount_page(app, assistant, about="about", key=key)
        server = Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1), assistant)
        with open_socket("127.0.0.1", 0) as listening:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            try:
                yield Served(server, assistant, f"http://127.0.0.1:{listening.getsockname()[1]}")
            finally:
                server.should_exit = True
                thread.join(20)
            assert not thread.is_alive()

    return serve
