"""The GPT against reference numbers of upstream nanochat, and against itself where audio joins."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from omni.errors import OmniError
from omni.model.attention import QK_SCALE, QUERY_BLOCK, attend
from omni.model.gpt import GPT, window_sizes
from omni.model.mlp import ReLUSquared
from omni.model.precision import Linear
from omni.model.stream import Stream, weave

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "nanochat_l5.json").read_text())


@pytest.fixture(scope="module")
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    t, b = torch.arange(301), torch.arange(2)[:, None]
    ids = (7 * t + 31 * b + (t * t % 13)) % 257
    return ids[:, :-1], ids[:, 1:].contiguous()


def live_model(**sizes) -> GPT:
    """A small model whose every path carries signal: nothing left at its zero start."""
    torch.manual_seed(0)
    model = GPT(
        **{"sequence_len": 256, "vocab_size": 257, "n_layer": 4, "n_head": 2, "n_kv_head": 2, "n_embd": 64} | sizes
    )
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(model.smear_lambda, 0.3)
    torch.nn.init.uniform_(model.smear_gate.weight, -1, 1)
    return model.eval()


def test_logits_equal_upstream(golden_model, rows):
    logits = golden_model(rows[0])
    assert list(logits.shape) == GOLDEN["logits_shape"]
    assert logits.sum().item() == pytest.approx(GOLDEN["logits_sum"], rel=1e-4)
    assert logits.abs().mean().item() == pytest.approx(GOLDEN["logits_abs_mean"], rel=1e-5)
    for place, value in GOLDEN["logits_samples"].items():
        assert logits[tuple(map(int, place.split(",")))].item() == pytest.approx(value, rel=1e-4), place


def test_losses_equal_upstream(golden_model, rows):
    x, y = rows
    masked = y.clone()
    masked[:, :10] = -1
    assert golden_model(x, y).item() == pytest.approx(GOLDEN["loss"], rel=1e-5)
    assert golden_model(x, masked).item() == pytest.approx(GOLDEN["loss_y2"], rel=1e-5)
    assert golden_model(x, masked, reduction="sum").item() == pytest.approx(GOLDEN["loss_sum_y2"], rel=1e-5)
    assert list(golden_model(x, y, reduction="none").shape) == GOLDEN["loss_none_shape"]


def test_gradient_norms_equal_upstream(golden_model, golden_norms, rows):
    golden_model.zero_grad()
    golden_model(*rows).backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in golden_model.named_parameters()}
    assert norms == pytest.approx(golden_norms, rel=1e-4)


def test_an_unknown_reduction_is_refused(golden_model, rows):
    with pytest.raises(ValueError, match="reduction: 'average' is none of mean, sum, none"):
        golden_model(*rows, reduction="average")


def test_initialisation_follows_upstream():
    torch.manual_seed(0)
    model = GPT(**GOLDEN["config"])
    state = model.state_dict()
    assert state.keys() == GOLDEN["init_stats"].keys()
    for name, (_, deviation, low, high) in GOLDEN["init_stats"].items():
        values = state[name]
        if "lambda" in name:
            drawn = GOLDEN["init_stats"][name]
            assert [values.max().item(), values.min().item()] == pytest.approx([drawn[3], drawn[2]]), name
        elif values.numel() > 1000:
            assert values.std().item() == pytest.approx(deviation, rel=0.04, abs=1e-6), name
        if "wte" not in name and "lm_head" not in name:  # the normal ones have no bounds to compare
            assert values.min().item() == pytest.approx(low, rel=0.4, abs=2e-3), name
            assert values.max().item() == pytest.approx(high, rel=0.4, abs=2e-3), name
    ids = torch.arange(64)[None]
    assert model(ids, ids).item() == pytest.approx(math.log(257), abs=1e-2)


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(6, 384, 73.5), (12, 768, 286), (20, 1280, 897), (26, 1664, 1682)]
)
def test_parameter_counts_of_the_published_sizes(depth, width, millions):
    with torch.device("meta"):
        model = GPT(n_layer=depth, n_embd=width, n_head=width // 128, n_kv_head=width // 128)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_windows():
    assert window_sizes("SL", 5, 1024) == GOLDEN["windows"]
    assert window_sizes("SSSL", 6, 2048) == [512, 512, 512, 2048, 512, 2048]
    assert window_sizes("S", 2, 2000) == [512, 2000]  # the last layer sees everything


@pytest.mark.parametrize(
    ("past", "length", "window"),
    [
        *((0, 50, 16), (0, 17, 16), (0, 18, 16), (0, 300, 16), (0, 33, 7), (0, QUERY_BLOCK + 9, 8)),
        *((0, 1, 5), (5, 1, 5), (3, 1, 5), (5, 4, 5), (3, 9, 5), (16, 300, 16)),
    ],
)
@pytest.mark.parametrize("foreign", [None, [0, 3]])
def test_windowed_attention_equals_the_full_square_with_a_mask(past, length, window, foreign):
    torch.manual_seed(1)
    keys = past + length
    q, k, v = torch.randn(2, 4, length, 8), torch.randn(2, 2, keys, 8), torch.randn(2, 2, keys, 8)
    distance = torch.arange(past, keys)[:, None] - torch.arange(keys)
    mask = ((distance >= 0) & (distance <= window)).expand(2, 1, length, keys).clone()
    if foreign is not None:
        foreign = torch.tensor(foreign).clamp(max=past)
        mask &= (torch.arange(keys) >= foreign[:, None])[:, None, None]
    weights = torch.einsum("bhte,bhke->bhtk", q, k.repeat_interleave(2, dim=1)) * QK_SCALE**2 / math.sqrt(8)
    expected = weights.masked_fill(~mask, -math.inf).softmax(-1) @ v.repeat_interleave(2, dim=1)
    torch.testing.assert_close(attend(q, k, v, window, foreign), expected)


def test_audio_at_its_places_compiles_without_a_break():
    text = Stream(torch.randn(2, 5, 4), torch.randint(1, 9, (2, 5)))
    heard = torch.randn(2, 3, 4), torch.tensor([3, 2]), torch.tensor([[1, 2, 3], [0, 1, 2]])
    compiled = torch.compile(weave, backend="eager", fullgraph=True)
    for ours, theirs in zip(compiled(text, *heard), weave(text, *heard), strict=True):
        assert torch.equal(ours, theirs)


def test_attention_compiles_to_a_graph_for_all_lengths_within_the_window_and_one_behind_it():
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(attend, backend=count, fullgraph=True)
    for length in (9, 14, 31, 40, 70, 90):
        q, k, v = torch.randn(3, 1, 2, length, 4).unbind()
        torch.testing.assert_close(compiled(q, k, v, 32), attend(q, k, v, 32))
    assert len(graphs) <= 3


def test_relu_squared_has_the_gradient_of_its_formula():
    x = torch.randn(4, 5, requires_grad=True)
    weight = torch.randn(4, 5)
    (ReLUSquared.apply(x) * weight).sum().backward()
    assert torch.equal(ReLUSquared.apply(x), F.relu(x).square())
    torch.testing.assert_close(x.grad, 2 * F.relu(x) * weight)


def test_without_audio_the_logits_are_the_text_models_to_the_bit(rows):
    model, ids = live_model(), rows[0][:, :40]
    empty = torch.zeros(2, 0, 64)
    assert torch.equal(model(ids), model(ids, audio_features=empty, audio_lengths=torch.tensor([0, 0])))


@pytest.mark.parametrize("audio_values", ["zero", "token0"])
def test_a_ragged_batch_equals_its_rows_one_by_one(audio_values):
    model = live_model(audio_values=audio_values, window_pattern="S", sequence_len=128)
    audio, soft, letters = torch.randn(3, 150, 64), [150, 0, 37], [20, 31, 5]
    ids = torch.randint(0, 257, (3, 31))
    targets = torch.randint(0, 257, (3, 31))
    together = model(ids, audio_features=audio, audio_lengths=torch.tensor(soft))
    for row, (s, n) in enumerate(zip(soft, letters, strict=True)):
        targets[row, n:] = -1
        alone = model(ids[row : row + 1, :n], audio_features=audio[row : row + 1, :s])
        torch.testing.assert_close(together[row : row + 1, :n], alone, atol=1e-5, rtol=1e-5)
    graded = model(ids, targets, audio_features=audio, audio_lengths=torch.tensor(soft), reduction="sum")
    one_by_one = sum(
        model(ids[r : r + 1, :n], targets[r : r + 1, :n], audio_features=audio[r : r + 1, :s], reduction="sum")
        for r, (s, n) in enumerate(zip(soft, letters, strict=True))
    )
    torch.testing.assert_close(graded, one_by_one, rtol=1e-5, atol=1e-5)


def test_text_hears_the_audio_in_front_of_it_whatever_its_loudness():
    model, ids = live_model(), torch.randint(0, 257, (1, 10))
    audio = torch.randn(1, 12, 64)
    heard = model(ids, audio_features=audio)
    assert not torch.allclose(heard, model(ids), atol=1e-3)
    assert not torch.allclose(heard, model(ids, audio_features=audio.flip(1)), atol=1e-3)
    torch.testing.assert_close(heard, model(ids, audio_features=7 * audio), atol=1e-4, rtol=1e-4)


def test_smear_knows_text_alone():
    model, ids = live_model(), torch.randint(0, 257, (1, 6))
    audio = torch.randn(1, 4, 64)
    text = model.smear(model.embed(ids))
    stream = weave(Stream(text, ids), audio, None, torch.tensor([[0, 3, 4, 9]]))
    assert torch.equal(stream.x_BTC[:, [1, 2, 5, 6, 7, 8]], text)  # smeared by the text before, over the audio
    assert torch.equal(stream.x_BTC[:, [0, 3, 4, 9]], audio)
    a, b, c, d, e, f = ids[0].tolist()
    assert stream.ids_BT.tolist() == [[0, a, b, 0, 0, c, d, e, f, 0]]
    first = model.smear(model.embed(ids[:, :1]))
    torch.testing.assert_close(first.square().mean(-1), torch.ones(1, 1))  # the first token takes in nothing


def test_audio_positions_count_from_the_front():
    model, ids, audio = live_model(), torch.randint(0, 257, (2, 9)), torch.randn(2, 5, 64)
    in_front = torch.arange(5).expand(2, 5)
    lengths = torch.tensor([5, 3])
    assert torch.equal(
        model(ids, audio_features=audio, audio_lengths=lengths),
        model(ids, audio_features=audio, audio_lengths=lengths, audio_positions=in_front),
    )


def test_audio_in_the_middle_is_heard_by_what_follows_alone():
    model, ids, audio = live_model(), torch.randint(0, 257, (1, 12)), torch.randn(1, 3, 64)
    heard = model(ids, audio_features=audio, audio_positions=torch.tensor([[4, 5, 9]]))
    silent = model(ids)
    torch.testing.assert_close(heard[:, :4], silent[:, :4])
    assert (heard - silent)[:, 4:].abs().amax(-1).min() > 1e-3
    other = audio.clone()
    other[:, 2] *= -1
    changed = model(ids, audio_features=other, audio_positions=torch.tensor([[4, 5, 9]])) - heard
    assert changed[:, :7].abs().max() < 1e-6 < 1e-3 < changed[:, 7:].abs().max()


def test_a_ragged_batch_with_audio_anywhere_equals_its_rows_one_by_one():
    model = live_model(window_pattern="S", sequence_len=128)
    ids, targets = torch.randint(0, 257, (2, 160)), torch.randint(0, 257, (2, 160))
    audio, lengths, letters = torch.randn(2, 40, 64), [40, 12], [160, 100]
    places = torch.stack([torch.randperm(200)[:40].sort().values, torch.arange(12).mul(9).repeat(4)[:40]])
    targets[1, 100:] = -1
    together = model(
        ids, targets, audio_features=audio, audio_lengths=torch.tensor(lengths), audio_positions=places, reduction="sum"
    )
    one_by_one = 0
    for row, (s, n) in enumerate(zip(lengths, letters, strict=True)):
        of_row = slice(row, row + 1)
        where = {"audio_features": audio[of_row, :s], "audio_positions": places[of_row, :s]}
        one_by_one += model(ids[of_row, :n], targets[of_row, :n], **where, reduction="sum")
    torch.testing.assert_close(together, one_by_one)


def test_audio_learns_from_the_text_behind_it():
    model, ids, audio = live_model(), torch.randint(0, 257, (1, 8)), torch.randn(1, 4, 64, requires_grad=True)
    places = torch.tensor([[0, 1, 6, 11]])
    model(ids, ids, audio_features=audio, audio_positions=places).backward()
    felt = audio.grad.abs().sum(-1)[0]
    assert (felt[:3] > 0).all()
    assert felt[3] == 0  # nothing stands behind it


@pytest.mark.parametrize("places", [[0, 2, 2], [0, 2, 1], [-1, 0, 1], [0, 1, 8]])
def test_audio_positions_that_do_not_fit_are_refused(places):
    with pytest.raises(OmniError, match="audio_positions"):
        live_model()(
            torch.zeros(1, 5, dtype=torch.long),
            audio_features=torch.randn(1, 3, 64),
            audio_positions=torch.tensor([places]),
        )


def test_value_embeddings_at_audio_rows():
    """By default audio takes part in no look-up; "token0" is as if token 0 stood there."""
    ids, audio = torch.randint(1, 257, (1, 6)), torch.randn(1, 4, 64)
    for audio_values, changes in (("zero", False), ("token0", True)):
        model = live_model(audio_values=audio_values)
        before = model(ids, audio_features=audio)
        for table in model.value_embeds.values():
            torch.nn.init.normal_(table.weight[0])
        assert torch.allclose(model(ids, audio_features=audio), before, atol=1e-5) is not changes


def test_the_lambdas_fall_over_the_layers():
    model = GPT(**GOLDEN["config"])
    assert model.resid_lambdas.tolist() == pytest.approx([1.15, 1.125, 1.1, 1.075, 1.05])
    assert model.x0_lambdas.tolist() == pytest.approx([0.2, 0.1625, 0.125, 0.0875, 0.05])


def test_in_bf16_every_embedding_in_use_moves_at_an_ordinary_rate():
    torch.manual_seed(0)
    model = live_model(dtype=torch.bfloat16)
    ids = torch.randint(0, 257, (4, 64))
    before = model.transformer.wte.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        model(ids, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
    used = ids.unique()
    assert ((model.transformer.wte.weight - before)[used] != 0).float().mean().item() > 0.999


def test_a_batch_with_nothing_to_grade_has_no_nan():
    model, ids = live_model(), torch.randint(0, 257, (2, 8))
    loss = model(ids, torch.full((2, 8), -1))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_sizes_build_the_same_function_again():
    sizes = {"n_kv_head": 1, "window_pattern": "S", "sequence_len": 300, "audio_values": "token0"}
    model = live_model(**sizes)
    again = GPT(**model.sizes)
    again.load_state_dict(model.state_dict())
    ids, audio = torch.randint(0, 257, (1, 250)), torch.randn(1, 40, 64)
    assert torch.equal(again(ids, audio_features=audio), model(ids, audio_features=audio))


@pytest.mark.parametrize(("weights", "x"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_multiplies_in_the_inputs_dtype_whatever_its_own(weights, x, bias):
    layer, x_NI = Linear(32, 48, bias=bias).to(weights), torch.randn(5, 32, dtype=x, requires_grad=True)
    y_NO = layer(x_NI)
    assert y_NO.dtype == x
    own = None if layer.bias is None else layer.bias.to(x)
    torch.testing.assert_close(y_NO, F.linear(x_NI, layer.weight.to(x), own))
    y_NO.sum().backward()
    assert (x_NI.grad.dtype, layer.weight.grad.dtype) == (x, weights)


def test_bf16_arithmetic_stays_near_fp32():
    sizes = {"n_embd": 128, "n_head": 1, "n_kv_head": 1}
    exact, rounded = live_model(**sizes), live_model(dtype=torch.bfloat16, **sizes)
    rounded.load_state_dict(exact.state_dict())
    ids = torch.randint(0, 257, (2, 32))
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.float32}
    assert rounded.embed(ids).dtype == torch.bfloat16
    assert rounded(ids).dtype == torch.float32
    assert rounded(ids, ids).item() == pytest.approx(exact(ids, ids).item(), rel=2e-2)


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"n_embd": 64, "n_head": 3}, "n_head"),
        ({"n_head": 4, "n_kv_head": 3, "n_embd": 64}, "n_kv_head"),
        ({"n_embd": 16, "n_head": 2}, "smear reads 24 channels"),
        ({"window_pattern": "SX"}, "window_pattern"),
        ({"window_pattern": ""}, "window_pattern"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, key):
    with pytest.raises(OmniError, match=key):
        GPT(**{"n_layer": 1, "vocab_size": 64, "sequence_len": 16, "n_embd": 64, "n_head": 2, "n_kv_head": 2} | sizes)


def test_more_positions_than_the_rotary_cache_holds_are_refused():
    model = live_model(sequence_len=8)
    assert model(torch.zeros(1, 80, dtype=torch.long)).shape == (1, 80, 257)
    with pytest.raises(OmniError, match="81 positions"):
        model(torch.zeros(1, 81, dtype=torch.long))
