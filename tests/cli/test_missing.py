"""What is missing is said before torch is imported, which takes seconds, and with the way to get it."""

import subprocess
import sys
from pathlib import Path

import pytest

from omni.config.check import ConfigError
from omni.config.trained import load_trained
from omni.errors import OmniError
from omni.evaluate import check_data
from omni.generate import Generate, generate

HEARING = Path("data/hearing").absolute()

COMMANDS = f"""
import sys
sys.modules["torch"] = None  # whoever imports it fails
from omni import evaluate, generate, serve
from omni.errors import OmniError

def told(job, asked):
    try:
        job(asked)
    except OmniError as error:
        print(str(error).splitlines()[0])

told(generate.generate, generate.Generate(run="nowhere"))
told(generate.generate, generate.Generate(run={str(HEARING)!r}))
told(serve.serve, serve.Serve(run={str(HEARING)!r}, port=0))
told(evaluate.evaluate, evaluate.Evaluate(run={str(HEARING)!r}))
"""


def test_the_commands_say_it_without_torch(tmp_path):
    done = subprocess.run([sys.executable, "-c", COMMANDS], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    nowhere, generated, served, evaluated = done.stdout.splitlines()
    assert nowhere.startswith("nowhere: no weights there, it does not exist")
    assert generated == served
    assert generated.startswith("backbone.init_from: ")
    assert "data/starter" in generated
    assert "python -m omni.prepare dataset=audio_instructions" in evaluated


def test_a_run_without_its_language_model_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"without its language model, which is data/starter"):
        load_trained(str(HEARING), device="cpu")


def test_one_part_of_the_data_may_be_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="dataset=amazon_queen"):
        check_data(str(HEARING))
    (tmp_path / "data" / "amazon_queen").mkdir(parents=True)
    check_data(str(HEARING))


def test_a_sound_that_is_missing_is_said_before_the_model_is_loaded():
    with pytest.raises(OmniError, match=r"audio: gone\.wav does not exist"):
        generate(Generate(run="nowhere", audio=["gone.wav"]))
