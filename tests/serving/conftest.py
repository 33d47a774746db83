"""A small model with ears, seeded, that speaks the starter's tokens."""

import pytest
import torch

from omni.model.encoder import RandomWhisperEncoder
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer("data/starter")


@pytest.fixture(scope="session")
def small(tokenizer) -> Omni:
    torch.manual_seed(0)
    backbone = GPT(sequence_len=256, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)
    for name, parameter in backbone.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    projector = StackMLP(in_dim=64, out_dim=64, stack=4)
    return Omni(encoder=RandomWhisperEncoder(), projector=projector, backbone=backbone).eval()
