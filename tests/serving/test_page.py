"""What the page makes of a conversation, and what it gives away."""

import asyncio
import json
from collections.abc import Iterator

import gradio as gr
import pytest
from fastapi.testclient import TestClient

from omni.errors import OmniError
from omni.model.omni import Omni
from omni.serving.api import create_app
from omni.serving.assistant import Assistant
from omni.serving.limits import Limits
from omni.serving.page import ASK, DEFAULT_QUESTION, REFUSED, conversation, mount_page, reply_to


def file(path: object) -> dict:
    return {"type": "file", "file": {"path": str(path), "meta": {"_type": "gradio.FileData"}}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def test_files_and_words_of_the_user_are_one_turn(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    history = [
        {"role": "user", "content": [file(tmp_path / "a")]},
        {"role": "user", "content": [text("What is it?")]},
        {"role": "assistant", "content": [text("a dog")]},
    ]
    turns, sounds = conversation({"text": "And this?", "files": [str(tmp_path / "b")]}, history)
    assert sounds == [("a", b"one"), ("b", b"two")]
    assert turns == [
        {"role": "user", "content": [{"type": "audio"}, text("What is it?")]},
        {"role": "assistant", "content": [text("a dog")]},
        {"role": "user", "content": [{"type": "audio"}, text("And this?")]},
    ]


def test_a_sound_without_a_question_is_asked_about_and_an_empty_answer_is_not(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    history = [{"role": "user", "content": [text("Hm")]}, {"role": "assistant", "content": [text("")]}]
    turns, _ = conversation({"text": "", "files": [str(tmp_path / "a")]}, history)
    assert turns[1] == {"role": "assistant", "content": []}
    assert turns[2]["content"] == [{"type": "audio"}, text(DEFAULT_QUESTION)]


def test_a_sound_that_is_gone_is_said(tmp_path):
    with pytest.raises(OmniError, match="gone: is not kept any more"):
        conversation({"text": "?", "files": [str(tmp_path / "gone")]}, [])


def test_what_was_refused_is_not_read_again(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    history = [
        {"role": "user", "content": [text("Hello")]},
        {"role": "assistant", "content": [text("hi")], "metadata": None},
        {"role": "user", "content": [file(tmp_path / "gone")]},
        {"role": "user", "content": [text("What is it?")]},
        {"role": "assistant", "content": [text("gone: is no sound")], "metadata": {"id": REFUSED}},
    ]
    turns, sounds = conversation({"text": "And this?", "files": [str(tmp_path / "a")]}, history)
    assert sounds == [("a", b"one")]
    assert [turn["content"][-1]["text"] for turn in turns] == ["Hello", "hi", "And this?"]


def replies(small, tokenizer, *turns: tuple[str, list[str]]) -> list:
    """What the page shows at last to each of the user's turns, (text, files), one after another."""

    async def talk() -> list:
        assistant, history, shown = Assistant(small, tokenizer, Limits()), [], []
        assistant.start()
        try:
            for words, files in turns:
                async for said, _ in reply_to(assistant)({"text": words, "files": files}, history, 0, 1, 5, 0):
                    last = said
                mine = [*map(file, files), text(words)]
                told = last if isinstance(last, gr.ChatMessage) else gr.ChatMessage(last)
                history += [{"role": "user", "content": mine}]
                history += [{"role": "assistant", "content": [text(told.content)], "metadata": told.metadata}]
                shown.append(last)
            assert assistant.taken == 0
        finally:
            await assistant.stop()
        return shown

    return asyncio.run(talk())


def test_an_error_is_an_answer_and_the_next_question_works(small, tokenizer, wav, tmp_path):
    (tmp_path / "notes.wav").write_text("these are my notes")
    (tmp_path / "a.wav").write_bytes(wav(1))
    bad, good = ("What?", [str(tmp_path / "notes.wav")]), ("What?", [str(tmp_path / "a.wav")])
    refused, answer, second = replies(small, tokenizer, bad, good, ("And?", []))
    assert refused.content.startswith("notes.wav: is not wav")
    assert refused.metadata == {"id": REFUSED}
    assert answer == replies(small, tokenizer, good)[0] != ""
    assert isinstance(second, str)


def test_a_failure_of_the_server_is_an_answer_too(small, tokenizer, wav, tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(wav(1))
    monkeypatch.setattr(small.backbone, "blocks", lambda *given: 1 / 0)
    (failed,) = replies(small, tokenizer, ("What?", [str(tmp_path / "a.wav")]))
    assert "its log says why" in failed.content


def test_without_a_sound_the_page_asks_for_one(small, tokenizer, wav, tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(1))
    asked, answer = replies(small, tokenizer, ("How are you?", []), ("And now?", [str(tmp_path / "a.wav")]))
    assert asked.content == ASK
    assert isinstance(answer, str)
    deaf = Omni(encoder=None, projector=None, backbone=small.backbone).eval()
    assert isinstance(replies(deaf, tokenizer, ("How are you?", []))[0], str)


@pytest.fixture(scope="module")
def client(small, tokenizer) -> Iterator[TestClient]:
    assistant = Assistant(small, tokenizer, Limits())
    with TestClient(mount_page(create_app(assistant, name="omni"), assistant, about="about")) as client:
        yield client


def called(client: TestClient, name: str, *data: object) -> dict:
    """What one of the page's own functions answers."""
    (number,) = [each["id"] for each in client.get("/config").json()["dependencies"] if each["api_name"] == name]
    asked = {"fn_index": number, "data": data, "session_hash": f"s{number}{len(str(data))}", "trigger_id": 2}
    assert client.post("/gradio_api/queue/join", json=asked).status_code == 200
    told = client.get("/gradio_api/queue/data", params={"session_hash": asked["session_hash"]}).text
    return json.loads(next(line for line in told.splitlines() if "process_completed" in line).removeprefix("data: "))


def test_no_file_of_the_server_can_be_had_by_naming_it(client, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    turn = {"metadata": None, "options": None}
    own = client.post("/gradio_api/upload", files={"files": ("a.wav", b"mine")}).json()[0]

    def popped(path: object) -> dict:
        history = [{"role": "user", "content": [file(path)]}, {"role": "assistant", "content": [text("x")]}]
        history.append({"role": "user", "content": [text("x")]})
        return called(client, "_pop_last_user_message_1", [each | turn for each in history])

    assert popped(own)["success"]
    refused = popped(secret)
    assert not refused["success"]
    assert "gradio" not in json.dumps(refused.get("output", {}).get("data", ""))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/health", "/gradio_api/queue/join", "/"])
def test_no_page_of_another_site_may_speak_to_it(client, path):
    origin = {"origin": "https://evil.example"}
    asked = client.options(path, headers=origin | {"access-control-request-method": "POST", "host": "192.168.0.9:8000"})
    assert asked.status_code == 400
    given = client.get(path, headers=origin | {"host": "192.168.0.9:8000"})
    for answer in (asked, given, client.options(path, headers=origin)):
        assert not {"access-control-allow-origin", "access-control-allow-credentials"} & answer.headers.keys()
    if path.startswith("/v1"):
        assert client.options(path).json()["error"]["code"] == "unknown_url"


def test_the_page_itself_still_speaks_to_its_server(client):
    own = client.get("/config", headers={"origin": "http://testserver"})
    assert own.status_code == 200
