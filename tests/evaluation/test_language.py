import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from omni.evaluation.language import LanguageReport, bits_per_byte
from omni.model.gpt import GPT
from omni.text.tokenizer import ByteTokenizer


class Uniform(torch.nn.Module):
    """Every token is as likely as any other of four."""

    def forward(self, idx, targets, reduction):
        return torch.full((targets.numel(),), math.log(4))


def test_bits_per_byte_count_bytes_not_tokens_and_leave_specials_out():
    targets = torch.tensor([[0, 1, 2], [3, -1, 0]])
    bytes_V = torch.tensor([1, 3, 0, 4])  # token 2 is a special
    # Four graded tokens of 2 bits each over 1 + 3 + 4 + 1 bytes.
    found = bits_per_byte(Uniform(), [(targets, targets)], bytes_V)
    assert found == pytest.approx(4 * 2 / 9)


class Ops(TorchDispatchMode):
    """Counts what would wait for a device, and what a device without fp64 could not do."""

    def __init__(self):
        super().__init__()
        self.waits, self.doubles = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        self.waits += func is torch.ops.aten._local_scalar_dense.default
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.doubles.append(result.shape)
        return result


def test_sums_stay_on_the_device_until_all_are_there():
    targets = torch.tensor([[0, 1, 2], [3, -1, 0]])
    with Ops() as ops:
        bits_per_byte(Uniform(), [(targets, targets)] * 5, torch.tensor([1, 3, 0, 4]))
    assert ops.waits == 0
    assert ops.doubles == [(5, 2), (2,)]  # what was brought over, and its sum


def test_no_batches_have_no_bits_per_byte():
    assert math.isnan(bits_per_byte(Uniform(), [], torch.tensor([1])))


def test_text_of_specials_alone_has_no_bits_per_byte():
    assert math.isnan(bits_per_byte(Uniform(), [(torch.tensor([[2]]),) * 2], torch.tensor([1, 1, 0, 1])))


def test_a_fresh_model_needs_the_log_of_its_vocabulary_and_a_report_leaves_randomness_alone():
    torch.manual_seed(0)
    model, tokenizer = (
        GPT(sequence_len=64, vocab_size=257, n_layer=2, n_head=1, n_kv_head=1, n_embd=32),
        ByteTokenizer(),
    )
    ids = torch.randint(0, 256, (2, 32))
    state = torch.get_rng_state()
    scores, samples = LanguageReport(model, [(ids, ids)], tokenizer=tokenizer, prompts=["ab", "c"])()
    assert torch.equal(state, torch.get_rng_state())
    assert scores == {"bpb": pytest.approx(math.log2(257), abs=0.01)}
    assert [sample.split("|")[0] for sample in samples] == ["ab", "c"]
