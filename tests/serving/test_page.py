"""What the page makes of a conversation, and what it gives away."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from omni.errors import OmniError
from omni.serving.assistant import Assistant
from omni.serving.limits import Limits
from omni.serving.page import DEFAULT_QUESTION, conversation, mount_page


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
    assert sounds == [b"one", b"two"]
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
    with pytest.raises(OmniError, match="not kept any more"):
        conversation({"text": "?", "files": [str(tmp_path / "gone")]}, [])


@pytest.fixture(scope="module")
def client(small, tokenizer) -> Iterator[TestClient]:
    assistant = Assistant(small, tokenizer, Limits())
    with TestClient(mount_page(FastAPI(), assistant, about="about")) as client:
        yield client
    asyncio.run(assistant_stopped(assistant))


async def assistant_stopped(assistant: Assistant) -> None:
    assistant.start()
    await assistant.stop()


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
