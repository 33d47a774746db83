"""A stream read in pieces equals the stream read at once, however it is cut and whoever shares the batch.

A stream is written as a string: t is a text token, a is an audio row.
"""

import json
import random
from itertools import accumulate, combinations
from pathlib import Path

import pytest
import torch

from omni.errors import OmniError
from omni.model.gpt import GPT
from omni.model.kv_cache import SPARE

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "nanochat_l5.json").read_text())
WIDTH = 64


@pytest.fixture(autouse=True)
def inference():
    """Without gradients, and with NaN in all memory that nobody has written."""
    torch.use_deterministic_algorithms(True)
    with torch.inference_mode():
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def model() -> GPT:
    """A small model whose every path carries signal, with windows of 128 and 400."""
    torch.manual_seed(0)
    model = GPT(sequence_len=400, vocab_size=257, n_layer=4, n_head=2, n_kv_head=1, n_embd=WIDTH, window_pattern="SSL")
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(model.smear_lambda, 0.8)
    torch.nn.init.uniform_(model.smear_gate.weight, -1, 1)
    return model.eval()


class Row:
    """A stream of random text and audio that is read piece by piece."""

    def __init__(self, kinds: str):
        self.kinds, self.done, self.logits = kinds, 0, []
        self.ids, self.audio = torch.randint(0, 257, (kinds.count("t"),)), torch.randn(kinds.count("a"), WIDTH)

    def ahead(self, tokens: int) -> int:
        """Positions up to the next token but so many, or of the audio before the next one when none are asked for."""
        left = [i for i, kind in enumerate(self.kinds[self.done :] + "t") if kind == "t"]
        return left[tokens - 1] + 1 if tokens else left[0]

    def piece(self, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The next ids, audio rows, and where those stand in the piece."""
        seen, new = self.kinds[: self.done], self.kinds[self.done : self.done + length]
        texts, audios = seen.count("t"), seen.count("a")
        self.done += len(new)
        places = torch.tensor([i for i, kind in enumerate(new) if kind == "a"], dtype=torch.long)
        return self.ids[texts : texts + new.count("t")], self.audio[audios : audios + new.count("a")], places

    def at_once(self, model: GPT) -> torch.Tensor:
        ids, audio, places = Row.piece(self.rewound(), len(self.kinds))
        return model(ids[None], audio_features=audio[None], audio_positions=places[None])[0]

    def rewound(self) -> "Row":
        row = Row(self.kinds)
        row.ids, row.audio = self.ids, self.audio
        return row


def feed(model: GPT, cache, rows: list[Row], lengths: list[int]) -> None:
    """Read a piece of each row, with as many tokens in each, as one batch whose padding is loud rubbish."""
    ids, audio, places = zip(*(row.piece(n) for row, n in zip(rows, lengths, strict=True)), strict=True)
    soft, given = max(map(len, audio)), {}
    if soft + len(ids[0]) == 0:
        return
    if len(set(map(len, audio))) > 1:
        given["audio_lengths"] = torch.tensor([len(a) for a in audio])
    if soft:
        given["audio_features"] = torch.stack([torch.cat([a, torch.full((soft - len(a), WIDTH), 9.0)]) for a in audio])
        given["audio_positions"] = torch.stack([torch.cat([p, p.new_full((soft - len(p),), -7)]) for p in places])
    logits = model(torch.stack(ids), kv_cache=cache, **given)
    for row, row_logits in zip(rows, logits, strict=True):
        row.logits.append(row_logits)


def check(model: GPT, row: Row) -> None:
    torch.testing.assert_close(
        torch.cat(row.logits), row.at_once(model)[: sum(map(len, row.logits))], atol=1e-4, rtol=0
    )


def splits(length: int) -> list[list[int]]:
    """Every way to cut so many positions into pieces."""
    cuts = [cut for n in range(length) for cut in combinations(range(1, length), n)]
    return [[b - a for a, b in zip((0, *cut), (*cut, length), strict=True)] for cut in cuts]


@pytest.mark.parametrize("kinds", ["ttttttt", "aaatttt", "ttaattt", "ataatat"])
def test_every_split_of_a_short_stream(model, kinds):
    for split in splits(len(kinds)):
        row, cache = Row(kinds), model.new_cache()
        for length in split:
            feed(model, cache, [row], [length])
        check(model, row)
        assert cache.lengths == [len(kinds)]


@pytest.mark.parametrize("first", [1, 100, 128, 129, 130, 299])
@pytest.mark.parametrize("chunk", [1, 64, 129, 300])
def test_streams_longer_than_the_window(model, first, chunk):
    row, cache = Row("t" * 40 + "a" * 150 + "t" * 110), model.new_cache()
    feed(model, cache, [row], [first])
    for _ in range(min(20, -(-(300 - first) // chunk))):
        feed(model, cache, [row], [chunk])
    check(model, row)


@pytest.mark.parametrize("seed", range(12))
def test_ragged_batches_in_random_pieces(model, seed):
    torch.manual_seed(seed)
    random.seed(seed)
    rows = [
        Row("".join(random.choices("ta", weights=[1, audio], k=random.randint(5, 330))))
        for audio in random.choices([0, 0.3, 3], k=random.randint(1, 4))
    ]
    cache = model.new_cache(rows=len(rows))
    for _ in range(30):
        left = min(row.kinds[row.done :].count("t") for row in rows)
        tokens = min(left, random.choice([0, 1, 1, 1, 2, 9, 140]))
        feed(model, cache, rows, [row.ahead(tokens) for row in rows])
    for row in rows:
        check(model, row)
    assert cache.lengths == [row.done for row in rows]


def test_one_more_token_for_rows_of_different_lengths(model):
    rows = [Row("a" * n + "ttt") for n in (0, 117, 128, 257)]
    cache = model.new_cache(rows=4)
    feed(model, cache, rows, [1, 118, 129, 258])
    feed(model, cache, rows, [1, 1, 1, 1])
    feed(model, cache, rows, [1, 1, 1, 1])
    for row in rows:
        check(model, row)


def test_rows_come_and_go(model):
    """Rows join, split up and leave while others go on."""
    cache = model.new_cache(rows=0)
    rows = []

    def join(row: Row, read: int, copies: int = 1) -> None:
        alone = model.new_cache(columns=read)
        feed(model, alone, [row], [read])
        cache.join(alone, copies)
        rows.extend(row if i == 0 else copy_of(row) for i in range(copies))

    def copy_of(row: Row) -> Row:
        other = row.rewound()
        other.done, other.logits = row.done, list(row.logits)
        return other

    def go(steps: int) -> None:
        for _ in range(steps):
            feed(model, cache, rows, [1] * len(rows))

    def leave(place: int) -> None:
        check(model, rows[place])
        cache.drop(place)
        rows[place] = rows[-1]
        rows.pop()

    join(Row("t" * 60), 20)
    go(3)
    join(Row("a" * 150 + "t" * 60), 155)  # longer than what runs
    go(3)
    join(Row("tta" + "t" * 60), 3, copies=3)  # ends in audio
    go(3)
    leave(1)
    leave(len(rows) - 1)
    go(3)
    leave(0)
    go(2)
    join(Row("t" * 60), 30)
    go(3)
    assert cache.lengths == [row.done for row in rows]
    while rows:
        leave(0)
    assert len(cache) == 0
    assert cache.kv.numel() == 0  # nothing is held for nobody
    join(Row("ttt"), 1)
    go(1)
    check(model, rows[0])


def test_storage_follows_what_is_held(model):
    cache = model.new_cache(columns=50)
    row = Row("t" * 400)
    feed(model, cache, [row], [50])
    assert cache.kv.size(4) == 50
    feed(model, cache, [row], [1])
    assert cache.kv.size(4) == 51 + SPARE
    for _ in range(SPARE):
        feed(model, cache, [row], [1])
    assert cache.kv.size(4) == 51 + SPARE
    short = model.new_cache()
    feed(model, short, [Row("tt")], [2])
    cache.join(short)
    cache.drop(0)  # the long row leaves, and takes its columns along when room is needed
    feed(model, cache, [Row("t" * 300)], [300])
    assert cache.kv.size(4) == 2 + 300 + SPARE


def test_windows_read_no_more_than_they_see(model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "omni.model.kv_cache.attend", lambda q, k, v, window, foreign: seen.append((k.size(2), foreign)) or q
    )
    cache = model.new_cache(rows=2)
    feed(model, cache, [Row("a" * 20 + "t" * 180), Row("t" * 180)], [200, 180])
    seen.clear()
    feed(model, cache, [Row("t"), Row("t")], [1, 1])
    assert [keys for keys, _ in seen] == [129, 129, 201, 201]  # windows S S L and the last
    assert [foreign is None for _, foreign in seen] == [True, True, False, False]  # masks where a row is shorter


def test_a_cache_counts_its_positions_against_the_reach(model):
    cache = model.new_cache()
    feed(model, cache, [Row("t" * 3999)], [3999])
    feed(model, cache, [Row("t")], [1])
    before = cache.previous_BC.clone()
    with pytest.raises(OmniError, match="4001 positions"):
        feed(model, cache, [Row("t")], [1])
    assert torch.equal(cache.previous_BC, before)
    assert cache.lengths == [4000]


def test_a_step_that_failed_can_be_taken_again(model, monkeypatch):
    row, cache = Row("t" * 9 + "aa" + "t" * 9), model.new_cache()
    feed(model, cache, [row], [4])

    def full(*_):
        raise torch.OutOfMemoryError

    for length in (1, 10):
        again, before = row.rewound(), cache.previous_BC.clone()
        again.done = row.done
        with monkeypatch.context() as patch:
            patch.setattr(model.transformer.h[2], "forward", full)
            with pytest.raises(torch.OutOfMemoryError):
                feed(model, cache, [again], [length])
        assert cache.lengths == [row.done]
        assert torch.equal(cache.previous_BC, before)
        feed(model, cache, [row], [length])
    check(model, row)


def test_gradients_are_refused(model):
    with torch.inference_mode(False), pytest.raises(RuntimeError, match="inference_mode"):
        model(torch.zeros(1, 1, dtype=torch.long), kv_cache=model.new_cache())


@pytest.mark.parametrize("pieces", [[300], [299, 1], [1, 299], [100, 100, 100], [257, 43]])
def test_greedy_tokens_equal_upstream(golden_model, pieces):
    model, t = golden_model, torch.arange(300)
    ids = ((7 * t + t * t % 13) % 257)[None]
    cache = model.new_cache()
    for end, length in zip(accumulate(pieces), pieces, strict=True):
        logits = model(ids[:, end - length : end], kv_cache=cache)[:, -1]
    tokens = []
    for _ in range(8):
        tokens.append(logits.argmax().item())
        logits = model(torch.tensor([tokens[-1:]]), kv_cache=cache)[:, -1]
    assert tokens == GOLDEN["cached_greedy_8"]
    assert logits.sum().item() == pytest.approx(GOLDEN["cached_last_logits_sum"], abs=1e-4)
