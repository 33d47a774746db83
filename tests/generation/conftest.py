"""A small model that says something."""

import pytest
import torch

from omni.model.gpt import GPT


@pytest.fixture(scope="module")
def model() -> GPT:
    """Windows of 128, and a vocabulary without ends: no row stops by chance."""
    torch.manual_seed(0)
    model = GPT(sequence_len=400, vocab_size=250, n_layer=3, n_head=2, n_kv_head=1, n_embd=64)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(model.smear_lambda, 0.8)
    return model.eval()
