"""The golden model: its weights are a formula, and the numbers it has to give were computed by upstream nanochat."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from omni.model.gpt import GPT

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "nanochat_l5.json").read_text())
ROLE = {"q": "attn.c_q", "k": "attn.c_k", "v": "attn.c_v", "o": "attn.c_proj"}
ROLE |= {"fc": "mlp.c_fc", "proj": "mlp.c_proj", "ve_gate": "attn.ve_gate"}
TOP = {"wte": "transformer.wte.weight", "lm_head": "lm_head.weight", "smear_gate": "smear_gate.weight"}


def upstream_name(role: str) -> str:
    """The state-dict name of a role of the golden file, such as h0.q or ve2."""
    if role in TOP:
        return TOP[role]
    if role.startswith("ve"):
        return f"value_embeds.{role[2:]}.weight"
    if role.startswith("h"):
        layer, part = role[1:].split(".")
        return f"transformer.h.{layer}.{ROLE[part]}.weight"
    return role


@torch.no_grad()
def fill_by_formula(model: GPT) -> None:
    parameters = dict(model.named_parameters())
    for k, (role, shape, amplitude) in enumerate(GOLDEN["roles"]):
        i = np.arange(math.prod(shape), dtype=np.float64)
        values = amplitude * np.sin(0.37 * i + 0.011 * i * (k + 1) / (k + 2) + 1.3 * k + 0.5)
        parameters[upstream_name(role)].copy_(torch.from_numpy(values.astype(np.float32)).view(shape))
    model.smear_lambda.fill_(0.3)
    model.backout_lambda.fill_(0.2)
    model.resid_lambdas.copy_(1.15 - 0.10 * torch.arange(5) / 4)
    model.x0_lambdas.copy_(0.20 - 0.15 * torch.arange(5) / 4)


@pytest.fixture(scope="session")
def golden_model() -> GPT:
    model = GPT(**GOLDEN["config"])
    fill_by_formula(model)
    return model


@pytest.fixture(scope="session")
def golden_norms() -> dict[str, float]:
    """Of the gradient of each parameter."""
    return {upstream_name(role): norm for role, norm in GOLDEN["grad_norms"].items()}
