"""A speech server, played on loopback; nothing reaches further."""

import http.server
import io
import json
import threading
import time

import numpy as np
import pytest
import soundfile

from omni.speech import server as module
from omni.speech.engine import EngineError
from omni.speech.server import SpeechServer


class Voice(http.server.BaseHTTPRequestHandler):
    """One second of a tone for any text. manners: one for each request, the last for all that follow.

    "well"; "dies", breaks off in the middle; "closes", without an answer; "busy", HTTP 503; "refuses", HTTP 400;
    "silent", a wav of silence; "text", no wav; "short", a wav shorter than its header says; "stuck", says nothing;
    "streams", in chunks and with a header that leaves the length open.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        manner = self.manners[min(len(self.asked), len(self.manners) - 1)]
        self.asked.append((self.path, body))
        if manner == "stuck":
            self.over.wait(60)
        self.close_connection = True
        if manner in ("stuck", "closes"):
            return
        status, content = {
            "busy": (503, b"loading"),
            "refuses": (400, b'{"error": "no such voice"}'),
            "silent": (200, wav(np.zeros(16_000))),
            "text": (200, b"<html>hello</html>"),
            "short": (200, wav(tone())[:-20_000]),
        }.get(manner, (200, wav(tone())))
        self.send_response(status)
        if manner == "streams":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            content = content[:4] + b"\xff" * 4 + content[8:40] + b"\xff" * 4 + content[44:]
            for part in (content[:1_000], content[1_000:], b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if manner == "dies" else content)


def tone(rate=24_000):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)


def wav(samples, rate=24_000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture
def voice(monkeypatch):
    handler = type("This", (Voice,), {"manners": ["well"], "asked": [], "over": threading.Event()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE", 0.01)
    yield handler
    handler.over.set()
    server.shutdown()
    server.server_close()


def engine(voice, **options):
    return SpeechServer(voice.url, model="cosyvoice", voices=["sun", "moon"], **options)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_it_asks_as_openai_is_asked(voice, ending):
    speaker = SpeechServer(voice.url + ending, model="cosyvoice", voices=["sun", "moon"])
    assert (speaker.name, speaker.voices, speaker.knobs) == ("cosyvoice", ("moon", "sun"), {"speed"})
    waveform = speaker.say("Hello.", "sun", speed=1.2, pitch=1.4)
    body = {"model": "cosyvoice", "input": "Hello.", "voice": "sun", "speed": 1.2, "response_format": "wav"}
    assert voice.asked == [("/v1/audio/speech", body)]
    assert len(waveform) == 16_000
    assert waveform.abs().max() == pytest.approx(0.5, abs=0.01)


def test_a_streamed_answer_is_read(voice):
    voice.manners = ["streams"]
    assert len(engine(voice).say("Hello.", "sun")) == 16_000


@pytest.mark.parametrize("manner", ["dies", "closes", "busy", "text", "short"])
def test_a_broken_answer_is_asked_for_again(voice, manner):
    voice.manners = [manner, "well"]
    assert len(engine(voice).say("Hello.", "sun")) == 16_000
    assert len(voice.asked) == 2


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("dies", "IncompleteRead"),
        ("closes", "closed"),
        ("busy", "HTTP 503: loading"),
        ("text", "not a sound"),
        ("short", "truncated"),
    ],
)
def test_one_that_stays_broken_is_named(voice, manner, reason):
    voice.manners = ["well", manner]
    speaker = engine(voice)
    speaker.say("Hello.", "sun")
    with pytest.raises(EngineError, match=rf"{voice.url}/v1/audio/speech gave no whole answer in 3 tries \(.*{reason}"):
        speaker.say("Goodbye.", "sun")
    assert len(voice.asked) == 4


def test_one_that_says_nothing_is_given_up(voice):
    voice.manners = ["stuck"]
    started = time.monotonic()
    with pytest.raises(EngineError, match=rf"{voice.url}.*3 tries \(.*timed out"):
        engine(voice, seconds=0.1).say("Hello.", "sun")
    assert time.monotonic() - started < 5


def test_one_that_is_gone_is_named(voice):
    with pytest.raises(EngineError, match=r"http://127.0.0.1:9/v1/audio/speech .*refused"):
        SpeechServer("http://127.0.0.1:9", model="cosyvoice", voices=["sun"]).say("Hello.", "sun")


def test_a_refusal_is_told_at_once(voice):
    voice.manners = ["refuses"]
    with pytest.raises(EngineError, match=rf"{voice.url}.* refused 'Hello.' as 'sun' \(HTTP 400: .*no such voice"):
        engine(voice).say("Hello.", "sun")
    assert len(voice.asked) == 1


def test_silence_is_refused(voice):
    voice.manners = ["silent"]
    with pytest.raises(EngineError, match=rf"{voice.url}.*gave no sound for 'Hello.'"):
        engine(voice).say("Hello.", "sun")


def test_an_unknown_voice_and_an_address_that_is_none_are_refused(voice):
    with pytest.raises(EngineError, match="'mars' is not among its voices: moon, sun"):
        engine(voice).say("Hello.", "mars")
    assert not voice.asked
    with pytest.raises(EngineError, match="'localhost:8000' is no address"):
        SpeechServer("localhost:8000", model="cosyvoice", voices=["sun"])
