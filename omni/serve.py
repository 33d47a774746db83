"""python -m omni.serve: talk to a model in the browser, and let programs talk to it as they do to OpenAI's.

python -m omni.serve run=data/hearing                    the page at http://127.0.0.1:8000, the API at /v1
python -m omni.serve run=outputs/latest port=8080        a run of one's own
OMNI_API_KEY=... python -m omni.serve run=... host=0.0.0.0     for others too: with a key, on all interfaces
python -m omni.serve run=outputs/latest trust=my_ear     a run with a class of your own, of my_ear.py

POST /v1/chat/completions    text and input_audio (wav, mp3, flac, ogg), streamed or not
POST /v1/audio/transcriptions    GET /v1/models    GET /health

What a client may ask for has limits: max_rows, max_waiting, max_body_mib, max_audio_seconds, max_messages, max_tokens,
max_seconds. Needs pip install 'omni-audio[serve]'.
"""

import logging
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from omegaconf import MISSING

from omni.config.arguments import run
from omni.config.check import ConfigError
from omni.config.schema import Device, Precision
from omni.config.trained import Trained, load_trained
from omni.record.card import card
from omni.serving.limits import Limits


@dataclass
class Serve(Limits):
    """What the command takes, the limits among it."""

    run: str = MISSING
    name: str = "omni"
    host: str = "127.0.0.1"
    port: int = 8000
    page: bool = True
    device: Device = Device.auto
    precision: Precision = Precision.auto
    trust: list[str] = field(default_factory=list)


def main() -> None:
    """The command."""
    run(serve, Serve, doc=__doc__)


def serve(asked: Serve) -> None:
    """Load a model and answer until a signal comes."""
    key = os.environ.get("OMNI_API_KEY")
    if key is not None and not key.strip():
        raise ConfigError("OMNI_API_KEY: it is empty, which would let everybody in; unset it or give a key")
    needed = ("uvicorn", "fastapi", "python_multipart", *(["gradio"] if asked.page else []))
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(f"omni.serve needs {', '.join(missing)}: pip install 'omni-audio[serve]'")
    from omni.serving.server import open_socket, serve_on

    listening = open_socket(asked.host, asked.port)
    trained = load_trained(asked.run, device=asked.device.name, precision=asked.precision.name, trust=asked.trust)
    check_talks(trained)
    from omni.serving.api import create_app
    from omni.serving.assistant import Assistant

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    assistant = Assistant(trained.model, trained.tokenizer, asked)
    app = create_app(assistant, name=asked.name, key=key)
    if asked.page:
        from omni.serving.page import mount_page

        app = mount_page(app, assistant, about=about(trained), key=key)
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    logging.info(trained.arithmetic)
    print(f"{trained.source} at http://{host}:{listening.getsockname()[1]}", flush=True)
    serve_on(listening, app, assistant)


def about(trained: Trained) -> str:
    """What the page says of the model: its card, or that of the folder that it was exported to."""
    if trained.checkpoint is not None:
        return card(trained.checkpoint.parents[1])
    told = Path(trained.source).expanduser() / "README.md"
    return told.read_text() if told.is_file() else f"{trained.source}: nothing beside it says what it was trained on."


def check_talks(trained: Trained) -> None:
    """Raise ConfigError for a model that cannot hold a conversation."""
    if "<|assistant_start|>" not in trained.tokenizer.specials:
        raise ConfigError(
            f"run: {trained.source} cannot hold a conversation, its tokens are single bytes; serve a run of "
            "stage=w2_align or w3_lora, or data/hearing"
        )


if __name__ == "__main__":
    main()
