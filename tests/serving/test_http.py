"""A server spoken to over HTTP, as programs speak to OpenAI's; and what it lives through."""

import base64
import json
import random
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import pytest

from omni.config.trained import Trained
from omni.serving import server as serving_module

STORY = [{"role": "user", "content": "Tell me a long story about the sea."}]
CHAT, TRANSCRIBE = "/v1/chat/completions", "/v1/audio/transcriptions"
JSON = {"content-type": "application/json"}


def heard(sound: bytes, text: str) -> dict:
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound).decode(), "format": "wav"}}
    return {"role": "user", "content": [part, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def server(serving) -> Iterator:
    with serving(max_rows=4, max_waiting=4) as server:
        yield server


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return server.client()


def refusal(answer: httpx.Response, status: int = 400) -> str:
    """The message of an error, which is an object as OpenAI has it."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error["message"]


def test_it_says_what_the_model_says(client, small, tokenizer, wav, tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(2))
    alone = Trained("small", small, tokenizer).ask("What is it?", str(tmp_path / "a.wav"), max_tokens=20)
    answer = client.chat.completions.create(model="omni", messages=[heard(wav(2), "What is it?")], max_tokens=20)
    assert answer.choices[0].message.content == alone != ""
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens_details.audio_tokens == 25


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


def test_a_second_turn_knows_the_first(client, wav):
    first = heard(wav(1, seed=7), "What is it?")
    answer = client.chat.completions.create(model="omni", messages=[first], max_tokens=5)
    turns = [first, {"role": "assistant", "content": answer.choices[0].message.content}]
    turns.append({"role": "user", "content": "What is said?"})
    second = client.chat.completions.create(model="omni", messages=turns, max_tokens=5)
    assert second.usage.prompt_tokens_details.cached_tokens >= answer.usage.prompt_tokens - 1
    assert second.timing["encode_ms"] == 0


def test_a_seed_is_drawn_by_and_a_stop_is_stopped_at(client):
    asked = {"model": "omni", "messages": STORY, "temperature": 1, "max_tokens": 12, "extra_body": {"min_tokens": 12}}
    said = [client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    stop = said[0][4:7]
    stopped = client.chat.completions.create(**asked, seed=1, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (said[0][: said[0].index(stop)], "stop")


def test_models_health_and_transcriptions(client, server, wav):
    assert [model.id for model in client.models.list()] == ["omni"]
    assert client.models.retrieve("omni").owned_by == "omni"
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "model": "omni", "taken": 0, "places": 8}
    told = client.audio.transcriptions.create(model="omni", file=("a.wav", wav(1)))
    assert told.usage.input_token_details.audio_tokens == 13
    text = client.audio.transcriptions.create(model="omni", file=("a.wav", wav(1)), response_format="text")
    assert text == told.text + "\n"


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


def test_more_at_once_than_there_are_places_is_refused_with_a_time(server, slow_down):
    slow_down(0.02)
    body = {"model": "omni", "messages": STORY, "max_tokens": 30, "min_tokens": 30}
    with ThreadPoolExecutor(14) as pool:
        answers = [*pool.map(lambda _: server.post(CHAT, json=body), range(14))]
    statuses = [(answer.status_code, answer.headers.get("retry-after")) for answer in answers]
    assert set(statuses) == {(200, None), (503, "1")}
    assert statuses.count((200, None)) >= 8
    assert server.assistant.taken == 0


def test_who_hangs_up_leaves_nothing_behind(server, slow_down):
    slow_down(0.01)
    for number in range(16):
        body = {"model": "omni", "messages": STORY, "max_tokens": 400, "min_tokens": 400, "stream": number % 3 > 0}
        ask = httpx.stream("POST", f"{server.url}{CHAT}", json=body, timeout=httpx.Timeout(5, read=0.05))
        with suppress(httpx.ReadTimeout), ask as answer:
            for _ in zip(answer.iter_lines(), range(number % 5), strict=False):
                pass
    end, batcher = time.monotonic() + 2, server.assistant.batcher  # an answer alone would take longer
    while server.assistant.taken or batcher.answers or batcher.engine.running:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_hundreds_of_malformed_bodies_get_an_error_each_and_nothing_on_disk(server, wav):
    before = set(Path(tempfile.gettempdir()).iterdir())
    draw, sound = random.Random(0), wav(1)
    counts = dict.fromkeys(("json", "base64", "wav", "mp3", "text", "parts", "form"), 0)
    with httpx.Client(timeout=30, base_url=server.url) as client:
        for number in range(350):
            kind = list(counts)[number % len(counts)]
            answer = malformed(client, kind, sound, draw)
            assert 400 <= answer.status_code < 500, (kind, answer.status_code, answer.text)
            assert answer.json()["error"]["message"], kind
            counts[kind] += 1
    assert min(counts.values()) == 50
    assert server.assistant.taken == 0
    assert set(Path(tempfile.gettempdir()).iterdir()) - before == set()
    assert not any(Path(name).exists() for name in ("evil", "etc", "passwd"))


def malformed(client: httpx.Client, kind: str, wav: bytes, draw: random.Random) -> httpx.Response:
    """One request that is wrong in one way, never twice the same."""
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
        return client.post(CHAT, content=wrong, headers=JSON)
    if kind == "parts":
        part = draw.choice([{}, {"type": "x"}, {"type": "input_audio"}, {"type": "text"}, None, 3, "x", [[]]])
        content = [part, draw.random()]
        return client.post(CHAT, json={"model": "omni", "messages": [{"role": "user", "content": content}]})
    if kind == "form":
        files = draw.choice([{}, {"other": b"x"}, {"file": ("../../evil", draw.randbytes(50))}])
        return client.post(TRANSCRIBE, files=files, data={"model": "omni"} if files else {})
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
    return client.post(CHAT, json={"model": "omni", "messages": [{"role": "user", "content": content}]})


def lying(wav: bytes, draw: random.Random) -> bytes:
    """A wav whose header claims gigabytes, no samples a second, or more channels than it has bytes."""
    place, form, values = draw.choice(
        [(40, "<I", [0x7FFF_0000, 0x7000_0000]), (24, "<I", [0, 2**31]), (22, "<H", [0, 65535]), (34, "<H", [0, 999])]
    )
    return wav[:place] + struct.pack(form, draw.choice(values)) + wav[place + struct.calcsize(form) :]


@pytest.mark.parametrize(
    "codec",
    [
        ("WAV", "GSM610"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "G721_32"),
        ("OGG", "OPUS"),
        ("AIFF", "PCM_16"),
        ("CAF", "ALAC_16"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("share", [1, 0.4])
def test_a_file_of_any_codec_whole_or_cut_off_is_heard_or_refused_by_its_name(server, wav, codec, share):
    sound = wav(0.5, format=codec[0], subtype=codec[1])
    sound = sound[: int(share * len(sound))]
    answer = server.post(TRANSCRIBE, files={"file": ("mine.snd", sound)}, data={"model": "omni"})
    assert answer.status_code == 200 or refusal(answer).startswith("mine.snd: ")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port), timeout=10) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967296\r\n\r\n")
        assert b" 413 " in line.recv(1000)
    chunks = (b"x" * 2**20 for _ in range(18))
    assert "16 MiB" in refusal(server.post(CHAT, content=chunks, headers=JSON), 413)


def test_a_body_of_a_million_faults_is_refused(server):
    for wrong in ("[" + "1," * 1_000_000 + "1]", "[" + "{}," * 500_000 + "{}]"):
        body = '{"model": "omni", "messages": ' + wrong + "}"
        assert len(refusal(server.post(CHAT, content=body, headers=JSON))) < 200
    parts = [{"type": "text", "text": ""}] * 300_000
    answer = server.post(CHAT, json={"model": "omni", "messages": [{"role": "user", "content": parts}]})
    assert answer.json()["error"]["param"][:18] == "messages.0.content"


def test_a_body_that_is_no_json_is_told_so(server):
    told = refusal(server.post(CHAT, content=b'{"model": "omni", "messages": [}', headers=JSON))
    assert "no JSON" in told
    assert "character 31" in told
    assert "no JSON" in refusal(server.post(CHAT, content=b'{"model": "\xff"}', headers=JSON))
    assert "application/json" in refusal(server.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}))
    assert "JSON object" in refusal(server.post(CHAT, content=b"", headers=JSON))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "messages.0.content: is null"),
        (3, "messages.0.content: Input should be a valid string or a valid list"),
        ([{"type": "input_audio", "input_audio": {"data": None}}], "messages.0.content.0.input_audio.data: is null"),
        ([{"type": "input_audio", "input_audio": {"data": ""}}], "messages.0.content.0: is empty"),
    ],
    ids=["null", "number", "null_data", "empty_data"],
)
def test_content_that_is_none_is_told_where_it_stands(server, content, told):
    body = {"model": "omni", "messages": [{"role": "user", "content": content}]}
    assert refusal(server.post(CHAT, json=body)).startswith(told)


def test_what_a_form_does_not_ask_for_is_let_through_and_what_it_asks_for_is_not(server, wav):
    def asked(**form: str | list[str]) -> httpx.Response:
        return server.post(TRANSCRIBE, files={"file": ("a.wav", wav(0.5))}, data={"model": "omni", **form})

    for value in ("False", "false", "0", ""):
        assert asked(stream=value).status_code == 200
    assert asked(language="en", temperature="0", chunking_strategy="auto", user="me").status_code == 200
    assert asked(**{"timestamp_granularities[]": "segment"}).status_code == 200
    assert refusal(asked(stream="True")).startswith("stream: ")
    granular = asked(**{"timestamp_granularities[]": ["word", "segment"]})
    assert refusal(granular).startswith("timestamp_granularities[]: ")


def test_an_upload_that_is_none_is_told_so(server):
    assert "-F file=@a.wav" in refusal(server.post(TRANSCRIBE, data={"model": "omni", "file": "a.wav"}))
    assert refusal(server.post(TRANSCRIBE, data={"model": "omni"})) == "file: is missing"
    empty = server.post(TRANSCRIBE, data={"model": "omni"}, files={"file": ("a.wav", b"")})
    assert refusal(empty).startswith("a.wav: is empty")


def test_what_is_not_there_is_said_as_openai_says_it(server):
    for method, path in (
        ("GET", "chat/completions"),
        ("POST", "embeddings"),
        ("DELETE", "models"),
        ("OPTIONS", "models"),
    ):
        answer = httpx.request(method, f"{server.url}/v1/{path}")
        assert "POST /v1/chat/completions" in refusal(answer, 404)
        assert answer.json()["error"]["code"] == "unknown_url"
    assert "POST /v1/chat/completions" in refusal(server.post("/v1/v1/chat/completions"), 404)


def test_a_client_that_leaves_v1_out_is_told(server):
    with pytest.raises(openai.NotFoundError, match=rf"{CHAT}.*base_url={server.url}/v1") as caught:
        server.client(base_url=server.url).chat.completions.create(model="omni", messages=STORY)
    assert caught.value.code == "unknown_url"
    assert "/v1/models/omni" in refusal(httpx.get(f"{server.url}/models/omni"), 404)
    assert TRANSCRIBE in refusal(server.post("/audio/transcriptions"), 404)


def test_a_term_lets_what_runs_end_and_takes_nothing_new(serving, slow_down, monkeypatch):
    monkeypatch.setattr(serving_module, "GRACE", 0.5)
    slow_down(0.02)
    with serving() as server:
        stream = server.client().chat.completions.create(
            model="omni", messages=STORY, stream=True, max_tokens=400, extra_body={"min_tokens": 400}
        )
        next(iter(stream))
        server.server.handle_exit(signal.SIGTERM, None)
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert 10 < len(chunks) < 100
        with pytest.raises(openai.APIConnectionError):
            server.client().models.list()


def test_a_key_is_asked_for_and_the_page_too(serving):
    with serving(page=True, key="sesame") as server:
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        assert server.client(api_key="sesame").models.list().data[0].id == "omni"
        assert httpx.get(f"{server.url}/health").status_code == 200  # which needs none
        assert httpx.get(f"{server.url}/config").status_code == 401
        assert httpx.get(f"{server.url}/v1/embeddings").json()["error"]["code"] == "invalid_api_key"
        said = server.post("/login", data={"username": "omni", "password": "sesame"})
        assert said.json() == {"success": True}
