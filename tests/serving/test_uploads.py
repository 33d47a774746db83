"""Whatever is uploaded is answered, or refused by the name of what is wrong: never with 500."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from omni.serving.api import create_app
from omni.serving.assistant import Assistant
from omni.serving.limits import Limits

CASES = Path(__file__).parents[1] / "audio" / "cases"


@pytest.fixture(scope="module")
def client(small, tokenizer) -> Iterator[TestClient]:
    app = create_app(Assistant(small, tokenizer, Limits(max_tokens=2, max_audio_seconds=5)), name="small")
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_uploads_are_answered_or_refused_with_the_reason(client):
    whole = {path.name: path.read_bytes() for path in CASES.iterdir()}
    assert len(whole) == 6
    loud = io.BytesIO()
    soundfile.write(loud, np.full(16_000, 3e4), 16_000, format="WAV", subtype="FLOAT")
    refused = {name: (content[: len(content) // 2], "truncated") for name, content in whole.items()}
    refused |= {
        "chained.ogg": (whole.pop("chained.ogg"), "the limit is 5 s"),
        "loud.wav": (loud.getvalue(), "on the scale of integers"),
        "page.mp3": (b"<!doctype html>", "is an HTML page"),
        "pointer.flac": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        "list.mp4": (b"#EXTM3U\nhttp://127.0.0.1/", "is not wav"),
    }
    for name, content in whole.items():
        answer = client.post("/v1/audio/transcriptions", files={"file": (name, content)}, data={"model": "small"})
        assert answer.status_code == 200, (name, answer.text)
    for name, (content, reason) in refused.items():
        answer = client.post("/v1/audio/transcriptions", files={"file": (name, content)}, data={"model": "small"})
        assert answer.status_code == 400, name
        assert reason in answer.json()["error"]["message"]
    sound = {"data": base64.b64encode(whole["gsm.wav"]).decode(), "format": "wav"}
    part = {"type": "input_audio", "input_audio": sound}
    body = {"model": "small", "messages": [{"role": "user", "content": [part]}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
