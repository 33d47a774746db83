"""The whole command: what it prints, logs and refuses."""

import os
import signal
import socket
import threading
import time

import httpx
import openai
import pytest

from omni.config.arguments import run
from omni.serve import Serve, serve


def refused(capsys, *words: str) -> str:
    """What the command says when it cannot be done."""
    with pytest.raises(SystemExit) as caught:
        run(serve, Serve, doc="", words=[*words])
    assert caught.value.code == 1
    return capsys.readouterr().err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_it_serves_until_it_is_stopped_and_logs_no_words(capsys, caplog, monkeypatch):
    """In the main thread, as signals ask for; a client on another one ends it by Ctrl-C."""
    caplog.set_level("INFO")
    monkeypatch.setenv("OMNI_API_KEY", "sesame")
    url, said = f"http://127.0.0.1:{(port := free_port())}", []

    def talk() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            return  # it never came up, and has said why
        try:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0)
            told = [{"role": "user", "content": "Tell me about the sea."}]
            said.append(client.chat.completions.create(model="my_base", messages=told, max_tokens=5).usage)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    client = threading.Thread(target=talk)
    client.start()
    with pytest.raises(SystemExit) as caught:
        run(serve, Serve, doc="", words=["run=data/starter", "name=my_base", f"port={port}", "page=false"])
    client.join()
    assert caught.value.code == 130
    assert said[0].completion_tokens == 5
    assert capsys.readouterr().out == f"data/starter at {url}\n"
    assert "5 tokens written" in caplog.text
    assert "sea" not in caplog.text.replace("research", "")
    assert "sesame" not in caplog.text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=tests/golden"], "no weights there"),
        (["run=data/hearing", "max_rows=0"], "max_rows=0 must be above 0"),
        (["run=data/hearing", "host=no.such.host.invalid"], "cannot be listened on"),
        (["run=data/hearing", "port=99999"], "to 65535"),
    ],
)
def test_what_cannot_be_served_is_said(capsys, words, told):
    assert told in refused(capsys, "port=0", *words)


def test_an_empty_key_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("OMNI_API_KEY", " ")
    assert "OMNI_API_KEY: it is empty" in refused(capsys, "run=data/hearing")


def test_a_port_in_use_is_said(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = refused(capsys, "run=data/hearing", f"port={taken.getsockname()[1]}")
    assert "choose another port" in told
