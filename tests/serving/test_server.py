"""What a server can be started with, and what not."""

import shutil
import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from omni.config.check import ConfigError
from omni.config.trained import Trained, load_trained
from omni.errors import OmniError
from omni.serve import about, check_talks
from omni.serving.server import open_socket
from omni.text.tokenizer import ByteTokenizer


def test_any_free_port_is_taken_and_answers_at_once():
    with open_socket("127.0.0.1", 0) as listening:
        socket.create_connection(listening.getsockname(), timeout=1).close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(OmniError, match=f"port={port}: choose"):
        open_socket("127.0.0.1", port)


def test_two_do_not_share_a_port():
    with open_socket("127.0.0.1", 0) as listening, pytest.raises(OmniError, match="choose another port"):
        open_socket(*listening.getsockname())


def test_a_model_of_bytes_cannot_talk(small):
    with pytest.raises(ConfigError, match="cannot hold a conversation"):
        check_talks(Trained("outputs/latest", small, ByteTokenizer()))


def test_a_run_that_lacks_its_adapters_says_which(tmp_path):
    run = tmp_path / "run"
    shutil.copytree("data/hearing", run)
    (file,) = run.glob("checkpoints/*/model.safetensors")
    save_file({name: tensor for name, tensor in load_file(file).items() if ".lora_" not in name}, file)
    with pytest.raises(OmniError, match=r"missing: .*lora_A"):
        load_trained(str(run), device="cpu")


def test_the_page_tells_what_lies_beside_the_model(small, tokenizer, tmp_path):
    run = Trained("data/hearing", small, tokenizer, next(Path("data/hearing/checkpoints").iterdir()))
    assert "What it cannot do" in about(run)
    assert "nothing beside it" in about(Trained(str(tmp_path), small, tokenizer))
    (tmp_path / "README.md").write_text("# my card")
    assert about(Trained(str(tmp_path), small, tokenizer)) == "# my card"
