"""climbmix, against a small server on loopback that speaks the hub's protocol; nothing reaches further."""

import hashlib
import http.server
import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omni import download
from omni.corpora import climbmix as module
from omni.corpora.climbmix import ClimbMix, names, prepare_climbmix
from omni.errors import OmniError

ROUTE = "/datasets/karpathy/climbmix-400b-shuffle/resolve/main/"


def shard(texts: list[str], **keys: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, **keys)
    return file.getvalue()


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client needs to fetch a file: its size, hash and commit, and ranges of its bytes."""

    files: dict[str, bytes]
    manner: str  # "well", "broken" (half at first), "silent", "wrong" (another hash), "unhashed" (an ETag of its own)
    asked: list[str]
    over: threading.Event

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        name = self.path.split("?")[0].removeprefix(ROUTE)
        self.asked.append(f"{self.command} {name} {start}")
        if self.manner == "silent":
            self.over.wait(60)
            self.close_connection = True
            return
        data = self.files.get(name)
        self.send_response(404 if data is None else 206 if start else 200)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        data = data or b""
        digest = hashlib.sha256(data if self.manner != "wrong" else b"another").hexdigest()
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", '"no-hash"' if self.manner == "unhashed" else f'"{digest}"')
        self.send_header("X-Repo-Commit", "0123456789" * 4)
        self.end_headers()
        if self.command == "GET":
            end = len(data) // 2 if self.manner == "broken" and not start else len(data)
            self.wfile.write(data[start:end])
            self.close_connection = True

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    files = {name: shard([f"{name} {i} " + "x" * 200 for i in range(40)]) for name in names(3)}
    handler = type("ThisHub", (Hub,), {"files": files, "manner": "well", "asked": [], "over": threading.Event()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    for key in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    handler.over.set()
    server.shutdown()
    server.server_close()


def ignore(_: str) -> None: ...


def test_shards_are_fetched_once_and_read(hub, tmp_path):
    folder = tmp_path / "corpus"
    said = []
    sizes = prepare_climbmix(folder, shards=2, report=said.append)
    assert sizes == {name: len(hub.files[name]) for name in names(2)}
    assert [path.name for path in sorted(folder.iterdir())] == [".lock", *sorted(names(2))]
    assert said[-1] == "shard_06542.parquet is there (3 of 3)"
    asked = len(hub.asked)
    assert prepare_climbmix(folder, shards=2, report=ignore) == sizes
    assert len(hub.asked) == asked
    train, val = map(ClimbMix(folder=str(folder), shards=2).documents, ("train", "val"))
    assert len(train) == 80
    assert {text.split()[0] for text in val.read(range(40))} == {"shard_06542.parquet"}
    with pytest.raises(OmniError, match=r"1 of 4 files.*shard_00002.*python -m omni.prepare dataset=climbmix"):
        ClimbMix(folder=str(folder), shards=3).documents("train")


def test_a_number_of_shards_that_cannot_be():
    for shards in (0, 7000):
        with pytest.raises(OmniError, match="shards"):
            names(shards)


def test_a_file_the_hub_does_not_have(hub, tmp_path):
    del hub.files["shard_00001.parquet"]
    with pytest.raises(OmniError, match=r"shard_00001.parquet of karpathy/.*404.*HF_ENDPOINT"):
        prepare_climbmix(tmp_path, shards=2, report=ignore)
    assert not (tmp_path / "shard_00001.parquet").exists()


def test_a_broken_transfer_goes_on_from_where_it_broke_off(hub, tmp_path):
    hub.files["shard_00000.parquet"] = shard([random.Random(1).randbytes(1_500_000).hex()], compression="none")
    hub.manner = "broken"
    module.fetch("shard_00000.parquet", tmp_path)
    assert (tmp_path / "shard_00000.parquet").read_bytes() == hub.files["shard_00000.parquet"]
    starts = [int(asked.split()[-1]) for asked in hub.asked if asked.startswith("GET")]
    assert starts[0] == 0 < starts[-1]


def test_another_try_is_made(hub, tmp_path, monkeypatch):
    tries = []

    def flaky(*given):
        tries.append(given)
        given[3].mkdir(exist_ok=True)
        (given[3] / f"part{len(tries)}").touch()
        assert len(list(given[3].glob("part*"))) == len(tries)  # what came before is still there
        if len(tries) < 3:
            raise download.NotHereError("the line is down")
        download.download(*given)

    monkeypatch.setattr(module, "download", flaky)
    module.fetch("shard_00001.parquet", tmp_path)
    assert (tmp_path / "shard_00001.parquet").read_bytes() == hub.files["shard_00001.parquet"]


def test_another_hash_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    hub.manner = "wrong"
    with pytest.raises(OmniError, match="its sha256 is"):
        module.fetch("shard_00000.parquet", tmp_path)
    assert not list(tmp_path.glob("*shard*"))
    hub.manner = "well"
    module.fetch("shard_00000.parquet", tmp_path)


def test_what_is_no_parquet_file_is_refused_where_the_hub_gives_no_hash(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    hub.manner, whole = "unhashed", hub.files["shard_00000.parquet"]
    hub.files["shard_00000.parquet"] = whole[:-9]
    with pytest.raises(OmniError, match="it is no whole parquet file"):
        module.fetch("shard_00000.parquet", tmp_path)
    hub.files["shard_00000.parquet"] = whole
    module.fetch("shard_00000.parquet", tmp_path)
    assert (tmp_path / "shard_00000.parquet").read_bytes() == whole


def test_a_file_that_was_cut_off_is_fetched_again(hub, tmp_path):
    prepare_climbmix(tmp_path, shards=1, report=ignore)
    (tmp_path / "shard_00000.parquet").write_bytes(hub.files["shard_00000.parquet"][:-9])
    hub.asked.clear()
    prepare_climbmix(tmp_path, shards=1, report=ignore)
    assert (tmp_path / "shard_00000.parquet").read_bytes() == hub.files["shard_00000.parquet"]
    assert not any("shard_06542" in asked for asked in hub.asked)


def test_two_that_prepare_at_once_fetch_each_file_once(hub, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(module, "download", lambda *given: (fetched.extend(given[2]), download.download(*given)))
    threads = [
        threading.Thread(target=prepare_climbmix, args=(tmp_path,), kwargs={"shards": 1, "report": ignore})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == names(1)
    assert {path.name for path in tmp_path.glob("shard*")} == set(names(1))


def test_no_answer(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    monkeypatch.setattr(download, "PATIENCE", 1.5)
    hub.manner = "silent"
    with pytest.raises(OmniError, match=r"no answer for 1\.5 s"):
        module.fetch("shard_00000.parquet", tmp_path)
