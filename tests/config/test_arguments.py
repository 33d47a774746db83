"""Command lines of `key=value`: every type, every mistake, and texts that look like something else."""

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING

from omni.config.arguments import read_arguments
from omni.config.check import ConfigError
from omni.config.schema import Device


@dataclass
class Asked:
    run: str = MISSING
    prompt: str = ""
    audio: list[str] = field(default_factory=list)
    top_k: int | None = 5
    chat: bool = False
    device: Device = Device.auto
    dataset: dict[str, str] = field(default_factory=dict)


def read(*words: str) -> Asked:
    return read_arguments(Asked, list(words), doc="how to")


def test_every_type_and_its_default():
    assert read("run=a") == Asked(run="a")
    words = ["run=a", "audio=x", "audio=y=z", "top_k=3", "chat=true", "device=cpu"]
    assert read(*words) == Asked(run="a", audio=["x", "y=z"], top_k=3, chat=True, device=Device.cpu)
    assert read("run=a", "top_k=null").top_k is None


def test_all_keys_below_a_dict_are_its():
    asked = read("run=a", "dataset=manifest", "dataset.path=a=b.jsonl", "dataset.x.y=null")
    assert asked.dataset == {"dataset": "manifest", "dataset.path": "a=b.jsonl", "dataset.x.y": "null"}
    assert read("run=a").dataset == {}


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "cost ${x}", "???", "null", "a=b", "[1, 2]", "", "1e3"])
def test_a_prompt_may_hold_anything(text):
    assert read("run=a", f"prompt={text}").prompt == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run: left out"),
        (["run=a", "prompt"], "prompt: write it as key=value"),
        (["run=a", "pronpt=b"], "pronpt: unknown key; did you mean prompt?"),
        (["run=a", "top_k=many"], "top_k: Value 'many'"),
        (["run=a", "device=gpu"], "device: Invalid value 'gpu', expected one of"),
    ],
)
def test_a_mistake_names_the_key(words, said):
    with pytest.raises(ConfigError) as caught:
        read(*words)
    assert str(caught.value).startswith(said)
