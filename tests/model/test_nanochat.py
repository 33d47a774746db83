"""nanochat's folders against a real one, against a round trip, and against files that lie."""

import json
import math
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from omni.errors import OmniError
from omni.model.gpt import GPT
from omni.model.init_from import load_backbone
from omni.model.nanochat import export_nanochat, find_checkpoint
from omni.model.pretrained import load_gpt
from omni.model.sizes import LONGEST, read_sizes
from omni.model.state import BackboneError, fold
from omni.text.bpe import BPETokenizer
from omni.text.chat import render
from omni.text.tokenizer import ByteTokenizer

NANOCHAT = Path(__file__).parents[1] / "golden" / "nanochat_d4"
GOLDEN = json.loads((NANOCHAT / "golden.json").read_text())
ABSENT = object()
TINY = {"sequence_len": 64, "vocab_size": 512, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32}


@pytest.fixture(scope="module")
def loaded() -> tuple[GPT, BPETokenizer]:
    return load_gpt(NANOCHAT)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """The golden file's formula."""
    t, b = torch.arange(GOLDEN["T"]), torch.arange(2)[:, None]
    return (5 * t + 17 * b + t * t % 11) % 512


@pytest.fixture
def base(tmp_path) -> Path:
    """A copy of the real folder, to be damaged."""
    return Path(shutil.copytree(NANOCHAT, tmp_path / "base"))


def rewrite(base: Path, change) -> None:
    """Apply `change` to the state dict of the folder's checkpoint."""
    file = find_checkpoint(base)
    state = torch.load(file, weights_only=True)
    torch.save(change(state) or state, file)


def rewrite_meta(base: Path, **change) -> None:
    file = base / "base_checkpoints" / "d4" / "meta_000010.json"
    meta = json.loads(file.read_text())
    meta["model_config"] = {k: v for k, v in (meta["model_config"] | change).items() if v is not ABSENT}
    file.write_text(json.dumps(meta))


@torch.no_grad()
def test_logits_and_loss_equal_upstream(loaded, rows):
    logits = loaded[0](rows)
    assert logits.sum().item() == pytest.approx(GOLDEN["logits_sum"], rel=1e-3)
    assert logits.abs().mean().item() == pytest.approx(GOLDEN["logits_abs_mean"], rel=1e-6)
    for place, value in GOLDEN["logits"].items():
        assert logits[tuple(map(int, place.split(",")))].item() == pytest.approx(value, abs=1e-5), place
    loss = loaded[0](rows[:, :-1], rows[:, 1:])
    assert loss.item() == pytest.approx(GOLDEN["loss_next_token"], rel=1e-6)


@torch.no_grad()
def test_greedy_tokens_equal_upstream(loaded, rows):
    ids = rows[:1]
    for _ in GOLDEN["greedy_12_after_row0"]:
        ids = torch.cat([ids, loaded[0](ids)[:, -1:].argmax(-1)], dim=1)
    assert ids[0, GOLDEN["T"] :].tolist() == GOLDEN["greedy_12_after_row0"]


def test_the_tokenizer_comes_along(loaded):
    tokenizer = loaded[1]
    assert [tokenizer.encode(text) for text in GOLDEN["texts"]] == GOLDEN["token_ids"]
    assert render(GOLDEN["conversation"], tokenizer)[0] == GOLDEN["conversation_ids"]


def test_sizes_are_the_metas(base):
    meta = base / "base_checkpoints" / "d4" / "meta_000010.json"
    assert read_sizes(meta) == GOLDEN["model_config"]
    rewrite_meta(base, window_pattern=ABSENT)
    assert read_sizes(meta)["window_pattern"] == "L"


def test_the_deepest_model_and_the_last_step_are_taken(tmp_path):
    def touch(*names: str) -> None:
        for name in names:
            file = tmp_path / f"{name}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    (tmp_path / "base_checkpoints").mkdir()
    with pytest.raises(BackboneError, match=r"no such file; \S+ holds no model yet"):
        find_checkpoint(tmp_path)
    touch("chatsft_checkpoints/d4/model_000700", "base_checkpoints/mine/model_1")
    with pytest.raises(
        BackboneError, match=r"give the one that you mean, as .*/chatsft_checkpoints/d4/model_000700\.pt$"
    ):
        find_checkpoint(tmp_path)
    touch(*(f"base_checkpoints/{name}" for name in ("d4/model_000010", "d12/model_000900", "d12/model_001000")))
    touch("base_checkpoints/d12/model_001000_backup")
    assert find_checkpoint(tmp_path).parts[-2:] == ("d12", "model_001000.pt")
    (tmp_path / "base_checkpoints" / "d20").mkdir()
    with pytest.raises(
        BackboneError, match=r"/d20/model_\*\.pt: there is no such file; give the one that you mean, as"
    ):
        find_checkpoint(tmp_path)


def test_a_compiled_bf16_checkpoint_is_the_same_model(base, loaded):
    rewrite(base, lambda state: {f"_orig_mod.{name}": tensor.bfloat16() for name, tensor in state.items()})
    model, _ = load_gpt(base)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, loaded[0].state_dict()[name].bfloat16().float()), name


@torch.no_grad()
def test_an_old_checkpoint_behaves_as_before_the_inventions(base, loaded, rows):
    later = ("resid_lambdas", "x0_lambdas", "smear_gate.weight", "smear_lambda", "backout_lambda")
    rewrite(base, lambda state: {name: tensor for name, tensor in state.items() if name not in later})
    rewrite_meta(base, window_pattern=ABSENT)
    old, _ = load_gpt(base)
    expected = GPT(**GOLDEN["model_config"] | {"window_pattern": "L"})
    expected.load_state_dict(loaded[0].state_dict())
    expected.resid_lambdas.fill_(1)
    for parameter in (expected.x0_lambdas, expected.smear_lambda, expected.backout_lambda):
        parameter.fill_(0)
    assert torch.equal(old(rows), expected(rows))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_every_wrong_tensor_is_named(base):
    def spoil(state):
        del state["lm_head.weight"], state["transformer.h.0.attn.c_q.weight"], state["transformer.h.1.attn.c_q.weight"]
        state["bigram.weight"] = torch.zeros(2)
        state["value_embeds.1.weight"] = state["value_embeds.1.weight"][:448]
        state["resid_lambdas"] = state["resid_lambdas"].long()
        state["x0_lambdas"] = state["x0_lambdas"].to_sparse()
        state["backout_lambda"] = state["backout_lambda"].to("meta")
        state["transformer.h.2.mlp.c_fc.weight"][0, 3] = math.nan
        state["transformer.h.3.mlp.c_fc.weight"] = torch.full((256, 64), 1e300, dtype=torch.float64)
        state["transformer.h.0.mlp.c_fc.weight"] = torch.zeros(256, 64, dtype=torch.float8_e4m3fn)
        del state["smear_lambda"]

    rewrite(base, spoil)
    with pytest.raises(BackboneError) as caught:
        load_gpt(base)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: lm_head.weight, smear_lambda, transformer.h.{0-1}.attn.c_q.weight",
        "  extra: bigram.weight",
        "  backout_lambda, x0_lambdas: a sparse tensor, or one without numbers",
        "  resid_lambdas: numbers of type torch.int64",
        "  transformer.h.0.mlp.c_fc.weight: numbers of type torch.float8_e4m3fn",
        "  transformer.h.{2-3}.mlp.c_fc.weight: NaN or infinity among the numbers",
        "  value_embeds.1.weight: shape (448, 64) there, (512, 64) here",
    ]
    assert str(find_checkpoint(base)) in str(caught.value)


def test_layers_are_named_together():
    names = [f"transformer.h.{i}.mlp.c_fc.weight" for i in (10, 0, 1, 2, 4)]
    assert fold([*names, "ve.3.weight", "lm_head.weight"]) == [
        "lm_head.weight",
        "transformer.h.{0-2,4,10}.mlp.c_fc.weight",
        "ve.3.weight",
    ]


def test_another_models_tokenizer_is_refused(base):
    other = BPETokenizer.train(["some other text"], 270)
    (base / "tokenizer" / "tokenizer.pkl").write_bytes(pickle.dumps(other.encoding))
    with pytest.raises(BackboneError, match=r"tokenizer\.pkl: 270 tokens, but .*model_000010\.pt was trained with 512"):
        load_gpt(base)


LIES = [
    ({"n_layer": ABSENT}, "n_layer missing or not a positive number"),
    ({"n_embd": "64"}, "n_embd missing or not a positive number"),
    ({"n_head": 0, "n_kv_head": True}, "n_head, n_kv_head missing or not a positive number"),
    ({"n_experts": 8}, "n_experts unknown, so this is another kind of GPT"),
    *(({"window_pattern": pattern}, "must be made of S and L") for pattern in ("", None, "X", "SXL", 7, ["S"])),
    *(({"n_layer": layers}, f"n_layer {layers} there, 4 in the tensors") for layers in (5, 10**12, 10**20)),
    ({"vocab_size": 10**12}, "rows 1000000000000 there, 512 in the tensors"),
    ({"n_head": 3}, "n_head 3 there, 2 in the tensors"),
    *(({"sequence_len": length}, "sequence_len") for length in (None, 1.5, LONGEST + 1, 10**20)),
]


@pytest.mark.parametrize(("change", "message"), LIES)
def test_a_meta_file_that_lies_is_named_before_anything_is_built(base, change, message):
    rewrite_meta(base, **change)
    with pytest.raises(BackboneError, match=rf"meta_000010\.json: .*{message}"):
        load_gpt(base)
    model = GPT(**GOLDEN["model_config"])
    with pytest.raises(BackboneError, match=rf"meta_000010\.json: .*{message}"):
        load_backbone(model, base, ByteTokenizer())


@pytest.mark.parametrize("content", [None, "", "[1]", '{"step": 10}', "[" * 100_000])
def test_a_damaged_meta_file_is_named(base, content):
    file = base / "base_checkpoints" / "d4" / "meta_000010.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(BackboneError, match=r"meta_000010\.json: the model's sizes cannot be read"):
        load_gpt(base)


class Calls:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("nested", [False, True])
def test_a_hostile_checkpoint_runs_nothing(base, tmp_path, nested):
    hostile = Calls(f"touch {tmp_path / 'was_here'}")
    torch.save({"lm_head.weight": hostile} if nested else hostile, find_checkpoint(base))
    with pytest.raises(BackboneError, match=r"model_000010\.pt: the checkpoint cannot be read, nothing in it was run"):
        load_gpt(base)
    assert not (tmp_path / "was_here").exists()


def test_a_hostile_tokenizer_runs_nothing(base, tmp_path):
    (base / "tokenizer" / "tokenizer.pkl").write_bytes(pickle.dumps(Calls(f"touch {tmp_path / 'was_here'}")))
    with pytest.raises(OmniError, match=r"tokenizer\.pkl: refused, nothing was run"):
        load_gpt(base)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", "half", {"model": {}}, [torch.zeros(1)]])
def test_a_damaged_checkpoint_is_refused(base, content):
    file = find_checkpoint(base)
    if content == "half":
        content = file.read_bytes()[:500_000]
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(BackboneError, match=r"model_000010\.pt: (the checkpoint cannot be read|not a bare state dict)"):
        load_gpt(base)


def test_a_missing_tokenizer_is_named(base):
    shutil.rmtree(base / "tokenizer")
    with pytest.raises(OmniError, match="base: no tokenizer goes with it; give"):
        load_gpt(base)


def test_a_round_trip_changes_nothing(loaded, tmp_path):
    model, tokenizer = loaded
    file = export_nanochat(model, tokenizer, tmp_path, step=10)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "base_checkpoints/d4/meta_000010.json",
        "base_checkpoints/d4/model_000010.pt",
        "tokenizer/token_bytes.pt",
        "tokenizer/tokenizer.pkl",
    ]
    original = torch.load(find_checkpoint(NANOCHAT), weights_only=True)
    written = torch.load(file, weights_only=True)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    assert (tmp_path / "tokenizer/tokenizer.pkl").read_bytes() == (NANOCHAT / "tokenizer/tokenizer.pkl").read_bytes()
    meta = json.loads(file.with_name("meta_000010.json").read_text())
    assert meta["model_config"] == GOLDEN["model_config"]
    counts = torch.load(tmp_path / "tokenizer" / "token_bytes.pt", weights_only=True)
    assert counts.dtype == torch.int32
    assert counts.tolist() == tokenizer.token_bytes()
    again, tokenizer_again = load_gpt(tmp_path)
    assert tokenizer_again.fingerprint == tokenizer.fingerprint
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes", [{}, {"window_pattern": "SL", "n_layer": 4}, {"window_pattern": "L", "n_kv_head": 4, "sequence_len": 512}]
)
def test_any_model_comes_back_with_its_sizes(loaded, tmp_path, sizes):
    sizes = TINY | {"window_pattern": "SSSL"} | sizes
    model = GPT(**sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    file = export_nanochat(model, loaded[1], tmp_path)
    written = json.loads(file.with_name("meta_000000.json").read_text())["model_config"]
    assert {k: v for k, v in written.items() if k != "window_pattern"} == {
        k: v for k, v in sizes.items() if k != "window_pattern"
    }
    again, _ = load_gpt(file)
    ids = torch.arange(300)[None] % 512
    assert torch.equal(again(ids), model(ids))


def test_an_export_overwrites_nothing(base, loaded):
    with pytest.raises(BackboneError, match=r"model_000010\.pt: already there; choose another folder"):
        export_nanochat(*loaded, base, step=10)
    other = BPETokenizer.train(["some other text " * 9], 270)
    with pytest.raises(BackboneError, match="another tokenizer, which the models there need"):
        export_nanochat(GPT(**TINY | {"vocab_size": 270}), other, base)
    export_nanochat(GPT(**TINY), loaded[1], base)
    assert find_checkpoint(base).parts[-2:] == ("d4", "model_000010.pt")
    assert (base / "base_checkpoints" / "d3" / "model_000000.pt").is_file()


def test_nanochat_has_no_byte_tokenizer(loaded, tmp_path):
    for tokenizer, size in ((ByteTokenizer(), 257), (loaded[1], 300)):
        with pytest.raises(BackboneError, match=f"vocabulary of {size}; nanochat needs it with a BPE tokenizer"):
            export_nanochat(GPT(**TINY | {"vocab_size": size}), tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_no_checkpoint(loaded, tmp_path, monkeypatch):
    def no_space(state, path):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    export_nanochat(*loaded, tmp_path)
    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(BackboneError, match=r"the model cannot be exported .*No space left"):
        export_nanochat(*loaded, tmp_path, step=1)
    assert find_checkpoint(tmp_path).name == "model_000000.pt"
    assert not list(tmp_path.rglob("*.tmp"))
