"""Servers on loopback that data sets are fetched from; nothing reaches further."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

COMMIT = "0123456789" * 4


class Mirror(http.server.BaseHTTPRequestHandler):
    """Files by their path, and ranges of them.

    manner: "well"; "broken", the first answer stops halfway; "stuck", each does; "silent"; "rangeless", always the
    whole file; "shifted", ranges are others than asked for; "faulty", HTTP 503 at first; "wrong", other bytes.
    """

    files: dict[str, bytes]
    manner: str
    asked: list[str]
    over: threading.Event
    url: str

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        if self.manner == "silent":
            self.over.wait(60)
            self.close_connection = True
        elif self.manner == "faulty" and len(self.asked) == 1:
            self.send_error(503)
        else:
            self.route(urlsplit(self.path).path)

    do_HEAD = do_GET

    def route(self, path: str) -> None:
        self.send_file(path.lstrip("/"))

    def send_file(self, name: str) -> None:
        data = self.files.get(name)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range") if self.manner != "rangeless" else None
        start = int(re.match(r"bytes=(\d+)", asked)[1]) if asked else 0
        if start and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start -= start and self.manner == "shifted"
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            cut = self.manner == "stuck" or (self.manner == "broken" and not start)
            body = data[start : start + (len(data) - start + 1) // 2] if cut else data[start:]
            self.wfile.write(body[::-1] if self.manner == "wrong" else body)
            self.close_connection = True


class DatasetHub(Mirror):
    """One data set, `files`, by as much of both hubs' protocols as their clients need."""

    repo = "someone/speech"

    def route(self, path: str) -> None:
        hugging, scope = f"datasets/{self.repo}", f"api/v1/datasets/{self.repo}/repo"
        path = path.lstrip("/")
        if path.startswith(f"api/{hugging}/tree/"):
            self.send_json([{"type": "file", "oid": "1" * 40, **self.listed(name)} for name in self.files])
        elif path == f"{scope}/tree":
            tree = [{"Type": "tree", "Path": "data", "Size": 0}]
            for name, data in self.files.items():
                tree.append({"Type": "blob", "Path": name, "Size": len(data), "Sha256": digest(data)})
            self.send_json({"Code": 200, "Success": True, "Data": {"Files": tree}})
        elif path == scope:
            self.send_file(parse_qs(urlsplit(self.path).query)["FilePath"][0])
        else:
            match = re.fullmatch(rf"{hugging}/resolve/[^/]+/(.+)", path)
            self.send_file(match[1] if match else "nothing of the kind")

    def listed(self, name: str) -> dict:
        data = self.files[name]
        return {"path": name, "size": len(data), "lfs": {"oid": digest(data), "size": len(data), "pointerSize": 1}}

    def send_json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def serve(kind: type[Mirror], monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Mirror]]:
    """A handler class of this test's own; what is set on it counts from the next request on."""
    handler = type("This", (kind,), {"files": {}, "manner": "well", "asked": [], "over": threading.Event()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    handler.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Mirror]]:
    """A server of plain files."""
    yield from serve(Mirror, monkeypatch)


@pytest.fixture
def dataset_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[DatasetHub]]:
    """Hugging Face and ModelScope, with someone/speech."""
    for key in ("HF_HUB_OFFLINE", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    for key in ("HF_HOME", "MODELSCOPE_CACHE", "MODELSCOPE_HOME"):
        monkeypatch.setenv(key, str(tmp_path / "caches" / key))
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "0")  # asks the cloud's own address where it is
    for hub in serve(DatasetHub, monkeypatch):
        for key in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(key, hub.url)
        yield hub
