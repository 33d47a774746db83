"""The shipped model behind its server, spoken to as programs speak to OpenAI's; and what a server lives through."""

import base64
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import pytest

REPOSITORY = Path(__file__).parents[2]
CLIPS = REPOSITORY / "data" / "audio_smoke"
QUESTION = "How many beeps are there?"
STORY = [{"role": "user", "content": "Tell me a long story about the sea."}]


class Server(NamedTuple):
    process: subprocess.Popen
    url: str

    def client(self, **given) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | given)

    def taken(self) -> int:
        return httpx.get(f"{self.url}/health").json()["taken"]

    def status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+)", text)[1])


@contextmanager
def serving(folder: Path, *words: str, **environment: str) -> Iterator[Server]:
    line = [sys.executable, "-m", "omni.serve", "run=data/hearing", "port=0", "precision=fp32", *words]
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen(
        line, cwd=REPOSITORY, env=os.environ | environment, stdout=subprocess.PIPE, stderr=log, text=True
    )
    try:
        told = process.stdout.readline()
        assert "http://" in told, (folder / "serve.log").read_text()
        yield Server(process, re.search(r"http://\S+", told)[0])
    finally:
        process.kill()
        process.wait()
        log.close()


def wait_until(holds, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.05)


def heard(clip: str, text: str) -> dict:
    data = base64.b64encode((CLIPS / clip).read_bytes()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return {"role": "user", "content": [sound, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "page=false", "max_rows=4", "max_waiting=4") as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return server.client()


def test_it_says_what_generate_says(client):
    line = [sys.executable, "-m", "omni.generate", "run=data/hearing", "precision=fp32", "chat=true"]
    clip = CLIPS / "high_beeps.wav"
    done = subprocess.run(
        [*line, f"audio={clip}", f"prompt={QUESTION}"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    answer = client.chat.completions.create(model="omni", messages=[heard(clip.name, QUESTION)], temperature=0)
    assert done.stdout.strip() == answer.choices[0].message.content != ""
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens_details.audio_tokens > 30


def test_a_stream_says_the_same_and_tells_its_usage_and_time(client):
    asked = {"model": "omni", "messages": STORY, "max_tokens": 20, "extra_body": {"min_tokens": 20}}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len(texts) > 10  # as it comes
    *_, last, usage = chunks
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    told = {name: value for name, value in last.timing.items() if name.endswith("_ms")}
    total = told.pop("time_to_first_token_ms")
    assert total == pytest.approx(sum(told.values()), abs=0.1)


def test_a_second_turn_knows_the_first(client):
    first = heard("high_beeps.wav", QUESTION)
    answer = client.chat.completions.create(model="omni", messages=[first])
    turns = [first, {"role": "assistant", "content": answer.choices[0].message.content}]
    turns.append({"role": "user", "content": "What is said?"})
    second = client.chat.completions.create(model="omni", messages=turns)
    assert second.usage.prompt_tokens_details.cached_tokens >= answer.usage.prompt_tokens - 1
    assert second.timing["encode_ms"] == 0


def test_a_seed_is_drawn_by_and_a_stop_is_stopped_at(client):
    asked = {"model": "omni", "messages": STORY, "temperature": 1, "max_tokens": 12, "extra_body": {"min_tokens": 12}}
    said = [client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    stop = said[0][4:7]
    stopped = client.chat.completions.create(**asked, seed=1, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (said[0][: said[0].index(stop)], "stop")


def test_models_health_and_transcriptions(client, server):
    assert [model.id for model in client.models.list()] == ["omni"]
    assert client.models.retrieve("omni").owned_by == "omni"
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "model": "omni", "taken": 0, "places": 8}
    with (CLIPS / "high_beeps.wav").open("rb") as file:
        told = client.audio.transcriptions.create(model="omni", file=file)
    assert told.usage.input_token_details.audio_tokens > 30
    with (CLIPS / "high_beeps.wav").open("rb") as file:
        text = client.audio.transcriptions.create(model="omni", file=file, response_format="text")
    assert text.strip() == told.text


@pytest.mark.parametrize(
    ("asked", "error", "code", "told"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "'omni' is"),
        (
            {"messages": [{"role": "user", "content": "word " * 900}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "context",
        ),
        ({"messages": []}, openai.BadRequestError, None, "messages"),
        ({"messages": STORY * 2}, openai.BadRequestError, None, "assistant's turn"),
        ({"temperature": -1}, openai.BadRequestError, None, "temperature"),
        ({"n": 3}, openai.BadRequestError, "unsupported_parameter", "n: "),
    ],
    ids=["model", "context", "no_messages", "turns", "temperature", "n"],
)
def test_errors_are_openai_s(client, asked, error, code, told):
    with pytest.raises(error, match=told) as caught:
        client.chat.completions.create(**{"model": "omni", "messages": STORY} | asked)
    assert caught.value.code == code


def test_more_at_once_than_there_are_places_is_refused_with_a_time(server):
    statuses = []

    def ask() -> None:
        body = {"model": "omni", "messages": STORY, "max_tokens": 300, "min_tokens": 300}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        statuses.append((answer.status_code, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {(200, None), (503, "1")}
    assert statuses.count((200, None)) >= 8
    assert server.taken() == 0


def test_who_hangs_up_leaves_nothing_behind(server):
    threads = server.status("Threads")
    for number in range(30):
        body = {"model": "omni", "messages": STORY, "max_tokens": 400, "min_tokens": 400, "stream": number % 3 > 0}
        ask = httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=httpx.Timeout(5, read=0.05))
        with suppress(httpx.ReadTimeout), ask as answer:
            for _ in zip(answer.iter_lines(), range(number % 5), strict=False):
                pass
    wait_until(lambda: server.taken() == 0)
    assert server.status("Threads") <= threads + 4


def test_five_hundred_malformed_bodies_get_an_error_each_and_nothing_on_disk(server, tmp_path):
    before = set(Path(tempfile_folder()).iterdir())
    draw = random.Random(0)
    counts = dict.fromkeys(("json", "base64", "wav", "mp3", "text", "parts", "form"), 0)
    with httpx.Client(timeout=30) as client:
        for number in range(500):
            kind = list(counts)[number % len(counts)]
            answer = malformed(client, server.url, kind, draw)
            assert 400 <= answer.status_code < 500, (kind, answer.status_code, answer.text)
            assert answer.json()["error"]["message"], kind
            counts[kind] += 1
    assert min(counts.values()) > 70
    assert server.taken() == 0
    assert set(Path(tempfile_folder()).iterdir()) - before == set()
    assert not any((REPOSITORY / name).exists() for name in ("evil", "etc", "passwd"))


def tempfile_folder() -> str:
    import tempfile

    return tempfile.gettempdir()


def malformed(client: httpx.Client, url: str, kind: str, draw: random.Random) -> httpx.Response:
    """One request that is wrong in one way, never twice the same."""
    chat, wav = f"{url}/v1/chat/completions", (CLIPS / "low_tone.wav").read_bytes()
    headers = {"content-type": "application/json"}
    if kind == "json":
        body = bytearray(json.dumps({"model": "omni", "messages": STORY}).encode())
        wrong = draw.choice(
            [
                bytes(body[: draw.randrange(1, len(body) - 1)]),
                b"[" * draw.choice([10, 100_000]),
                b'{"model": "omni", "messages": ' + b'[{"role":' * draw.randrange(1, 5000),
                draw.randbytes(draw.randrange(1, 500)),
                b'{"model": "omni", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
                b'{"model": "omni", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1e400}',
                json.dumps(draw.choice([None, 1, "x", [], {}, [[]], {"model": None}])).encode(),
            ]
        )
        return client.post(chat, content=wrong, headers=headers)
    if kind == "parts":
        part = draw.choice([{}, {"type": "x"}, {"type": "input_audio"}, {"type": "text"}, None, 3, "x", [[]]])
        return client.post(
            chat, json={"model": "omni", "messages": [{"role": "user", "content": [part, draw.random()]}]}
        )
    if kind == "form":
        files = draw.choice([{}, {"other": b"x"}, {"file": ("../../evil", draw.randbytes(50))}])
        return client.post(f"{url}/v1/audio/transcriptions", files=files, data={"model": "omni"} if files else {})
    sound = {
        "base64": lambda: None,
        "wav": lambda: wav[: draw.randrange(1, 44)] if draw.random() < 0.5 else lying(wav, draw),
        "mp3": lambda: b"\xff\xfb\x90\x64" + draw.randbytes(draw.randrange(10, 5000)),
        "text": lambda: draw.choice([b"", b"../../etc/passwd", b"RIFF", b"OggS" + bytes(300), b"fLaC" + bytes(90)]),
    }[kind]()
    data = (
        "".join(draw.choices("?*%\n=", k=draw.randrange(1, 40))) if sound is None else base64.b64encode(sound).decode()
    )
    if kind == "text" and not sound:
        data = "/etc/passwd\0"
    part = {"type": "input_audio", "input_audio": {"data": data, "format": draw.choice(["wav", "mp3", "flac"])}}
    content = [part, {"type": "text", "text": "?"}]
    return client.post(chat, json={"model": "omni", "messages": [{"role": "user", "content": content}]})


def lying(wav: bytes, draw: random.Random) -> bytes:
    """A wav whose header claims gigabytes, no samples a second, or more channels than it has bytes."""
    place, form, values = draw.choice(
        [(40, "<I", [0x7FFF_0000, 0x7000_0000]), (24, "<I", [0, 2**31]), (22, "<H", [0, 65535]), (34, "<H", [0, 999])]
    )
    return wav[:place] + struct.pack(form, draw.choice(values)) + wav[place + struct.calcsize(form) :]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port), timeout=10) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n\r\n")
        assert b" 413 " in line.recv(1000)
    chunks = (b"x" * 2**20 for _ in range(18))
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", content=chunks, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert "16 MiB" in answer.json()["error"]["message"]


def test_a_page_of_another_site_cannot_speak_to_it(server):
    body = json.dumps({"model": "omni", "messages": STORY})
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_body_of_a_million_faults_is_refused_at_once(server):
    for wrong in ("[" + "1," * 1_000_000 + "1]", "[" + "{}," * 500_000 + "{}]"):
        body = '{"model": "omni", "messages": ' + wrong + "}"
        began = time.monotonic()
        answer = httpx.post(
            f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400
        assert time.monotonic() - began < 3
    parts = [{"type": "text", "text": ""}] * 300_000
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json={"model": "omni", "messages": [{"role": "user", "content": parts}]}
    )
    assert (answer.status_code, answer.json()["error"]["param"][:18]) == (400, "messages.0.content")


def test_a_wish_that_a_transcription_does_not_fulfil_is_refused(client):
    for wish in ({"stream": True}, {"timestamp_granularities": ["word"]}):
        with (
            (CLIPS / "high_beeps.wav").open("rb") as file,
            pytest.raises(openai.BadRequestError, match=next(iter(wish))),
        ):
            client.audio.transcriptions.create(model="omni", file=file, **wish)
    with (CLIPS / "high_beeps.wav").open("rb") as file:
        assert client.audio.transcriptions.create(model="omni", file=file, language="en", temperature=0).text


def test_what_is_not_there_is_said_as_openai_says_it(server):
    for method, path in (("GET", "chat/completions"), ("POST", "embeddings"), ("DELETE", "models")):
        answer = httpx.request(method, f"{server.url}/v1/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_a_term_lets_what_runs_end_and_takes_nothing_new(tmp_path):
    with serving(tmp_path, "page=false") as server:
        stream = server.client().chat.completions.create(
            model="omni", messages=STORY, stream=True, max_tokens=400, extra_body={"min_tokens": 400}
        )
        next(iter(stream))
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        finish = [chunk.choices[0].finish_reason for chunk in stream][-1]
        assert finish in ("stop", "length")
        with pytest.raises(openai.APIConnectionError):
            server.client().models.list()
        server.process.wait(timeout=10)
        assert time.monotonic() - began < 10


def test_a_key_is_asked_for_and_the_page_too(tmp_path):
    with serving(tmp_path, OMNI_API_KEY="sesame") as server:
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        assert server.client(api_key="sesame").models.list().data[0].id == "omni"
        assert server.taken() == 0  # /health needs none
        assert httpx.get(f"{server.url}/config").status_code == 401
        assert httpx.get(f"{server.url}/v1/embeddings").json()["error"]["code"] == "invalid_api_key"
        said = httpx.post(f"{server.url}/login", data={"username": "omni", "password": "sesame"})
        assert said.json() == {"success": True}
    assert "sesame" not in (tmp_path / "serve.log").read_text()


def test_no_conversation_is_in_the_log(tmp_path):
    with serving(tmp_path, "page=false") as server:
        server.client().chat.completions.create(model="omni", messages=STORY, max_tokens=5)
        wait_until(lambda: "tokens written" in (tmp_path / "serve.log").read_text())
    assert "sea" not in (tmp_path / "serve.log").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=tests/golden"], "no weights there"),
        (["run=data/hearing", "max_rows=0"], "max_rows=0 must be above 0"),
        (["run=data/hearing", "host=no.such.host.invalid"], "cannot be listened on"),
        (["run=data/hearing", "port=99999"], "to 65535"),
    ],
)
def test_what_cannot_be_served_is_said(words, told):
    assert told in refused(*words)


def test_an_empty_key_is_refused(monkeypatch):
    monkeypatch.setenv("OMNI_API_KEY", " ")
    assert "OMNI_API_KEY: it is empty" in refused("run=data/hearing")


def test_a_port_in_use_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "choose another port" in refused("run=data/hearing", f"port={taken.getsockname()[1]}")


def refused(*words: str) -> str:
    line = [sys.executable, "-m", "omni.serve", *words]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr
