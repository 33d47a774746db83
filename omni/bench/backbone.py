"""The backbone's speed: forward and backward, optimizer step, first token, decoding."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from omni.model.gpt import GPT
from omni.model.kv_cache import KVCache
from omni.training.optimizer import muon_adamw
from omni.training.rates import matmul_rate, memory_rate, shortest
from omni.training.scaling import Sizes, flops_per_token

DECODED = 32
"""Tokens that are decoded in one go."""


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    what: of which arithmetic and length. seconds: the shortest. rate: in `unit`. share: of what the machine can do at
    best: its matmul rate for arithmetic, its memory rate for decoding one row.
    """

    what: str
    dtype: str
    length: int | None
    seconds: float
    rate: float
    unit: str
    share: float


def bench_backbone(
    sizes: Sizes, *, batch: int, lengths: list[int], dtype: torch.dtype, device: torch.device, compile: bool
) -> Iterator[Measure]:
    """Measure one model in one arithmetic.

    Args:
        batch: rows of a forward pass.
        lengths: tokens a row; the prompt's length for first token and decoding.
    """
    name = str(dtype).removeprefix("torch.")
    best, memory = matmul_rate(device, dtype), memory_rate(device)
    yield Measure("matmul", name, None, 0.0, best / 1e9, "GFLOP/s", 1.0)
    yield Measure("memory", name, None, 0.0, memory / 1e9, "GB/s", 1.0)
    model = live(sizes, dtype).to(device)
    forward = torch.compile(model, dynamic=False) if compile else model
    for length in lengths:
        ids_BT = torch.randint(model.vocab_size, (batch, length + 1), device=device)
        seconds = shortest(lambda ids_BT=ids_BT: train_pass(forward, ids_BT), device)
        rate = batch * length * flops_per_token(sizes, length) / seconds
        yield Measure("forward + backward", name, length, seconds, rate / 1e9, "GFLOP/s", rate / best)
    optimizer = muon_adamw(model, lr=1.0, batch_tokens=2**19)
    seconds = shortest(optimizer.step, device)
    rate = polar_flops(model) / seconds
    yield Measure("optimizer step", name, None, seconds, rate / 1e9, "GFLOP/s", rate / best)
    model.zero_grad()
    model.to(dtype)  # as a trained model is used: without fp32 masters
    weights = sum(p.nbytes for p in model.transformer.h.parameters()) + model.lm_head.weight.nbytes
    for length in lengths:
        yield from generation(model, sizes, length, device, name, best, memory / weights)


def generation(
    model: GPT, sizes: Sizes, length: int, device: torch.device, name: str, best: float, fastest: float
) -> Iterator[Measure]:
    """First token and decoding of one row. `fastest` is how often a second memory can give all weights."""
    prompt = torch.randint(model.vocab_size, (1, length), device=device)

    @torch.inference_mode()
    def first_token() -> tuple[Tensor, KVCache]:
        cache = model.new_cache(columns=length + DECODED)
        return model.logits(model.states(prompt, kv_cache=cache)[:, -1:]).argmax(-1), cache

    @torch.inference_mode()
    def decode(given: tuple[Tensor, KVCache]) -> None:
        token, cache = given
        for _ in range(DECODED):
            token = model(token, kv_cache=cache).argmax(-1)

    seconds = shortest(first_token, device)
    rate = length * flops_per_token(sizes, length) / 3 / seconds  # forward is a third of forward and backward
    yield Measure("first token", name, length, seconds, rate / 1e9, "GFLOP/s", rate / best)
    seconds = shortest(decode, device, setup=first_token) / DECODED
    yield Measure("decode", name, length, seconds, 1 / seconds, "tokens/s", 1 / seconds / fastest)


def train_pass(model: nn.Module, ids_BT: Tensor) -> None:
    """One forward and backward pass."""
    model(ids_BT[:, :-1], ids_BT[:, 1:].contiguous()).backward()


def polar_flops(model: GPT) -> float:
    """FLOPs of Muon's five iterations as its paper writes them: X X^T, its square, and their sum times X."""
    flops = 0
    for matrix in model.transformer.h.parameters():
        small, large = sorted(matrix.shape)
        flops += 5 * (2 * 2 * small**2 * large + 2 * small**3)
    return flops


def live(sizes: Sizes, dtype: torch.dtype) -> GPT:
    """A model whose every path carries numbers: some weights start at zero, and zero is quick to multiply."""
    torch.manual_seed(0)
    model = GPT(**asdict(sizes), dtype=dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.02)
    return model
