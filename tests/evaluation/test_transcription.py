"""Greedy transcripts, and error rates worked out by hand."""

import math

import jiwer
import pytest
import torch

from omni.evaluation.transcription import ErrorRates, error_rates, transcribe
from omni.model.gpt import GPT
from omni.text.tokenizer import ByteTokenizer

BOS, LETTERS = ByteTokenizer.bos, list(b"abcdefgh")


@pytest.fixture(scope="module")
def model() -> GPT:
    """Speaks in eight letters, and now and then ends."""
    torch.manual_seed(0)
    model = GPT(sequence_len=256, vocab_size=257, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, window_pattern="SL")
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        model.lm_head.weight.zero_()[[*LETTERS, BOS]] = torch.randn(len(LETTERS) + 1, 32)
    return model.eval()


@torch.no_grad()
def greedy(model: GPT, soft: torch.Tensor, most: int) -> list[int]:
    """Each token from scratch, one clip at a time."""
    ids = [BOS]
    while len(ids) <= most:
        token = int(model(torch.tensor([ids]), audio_features=soft[None])[0, -1].argmax())
        if token == BOS:
            break
        ids.append(token)
    return ids[1:]


def test_transcripts_are_the_likeliest_tokens_clip_by_clip(model):
    # More clips than run together in an engine, and one longer than a window.
    soft = [torch.randn(length, 32) for length in [3, 150, 1, *range(2, 20)]]
    expected = [greedy(model, row, 12) for row in soft]
    lengths = {len(tokens) for tokens in expected}
    assert min(lengths) < 6  # some end by themselves
    assert max(lengths) == 12  # some are cut
    tokenizer = ByteTokenizer()
    heard = transcribe(model, tokenizer, soft, seconds=[0.48] * len(soft))  # 12 characters
    assert heard == [tokenizer.decode(tokens) for tokens in expected]


def test_nobody_says_more_than_there_is_time_for(model):
    soft = [torch.randn(4, 32) for _ in range(12)]
    lasting = [0.04, 0.2, 1.0, 4.0] * 3
    most = [1, 5, 25, 100]
    tokenizer = ByteTokenizer()
    heard = transcribe(model, tokenizer, soft, seconds=lasting)
    assert heard == [tokenizer.decode(greedy(model, row, most[i % 4])) for i, row in enumerate(soft)]
    assert sum(len(text) == most[i % 4] for i, text in enumerate(heard)) >= 4  # the others ended by themselves


def rates(wer: float, cer: float) -> ErrorRates:
    return ErrorRates(pytest.approx(wer), pytest.approx(cer))


def test_error_rates_count_all_texts_together():
    said = ["the cat sat", "on a mat", "yes"]
    heard = ["the cap sat", "on mat", "oh yes"]
    # cat -> cap; "a" and its space; "oh" and its space. An average of the texts' own rates would be 5/9 and more.
    assert error_rates(said, heard) == rates(3 / 7, (1 + 2 + 3) / (11 + 8 + 3))


def test_texts_are_not_compared_across_each_other():
    assert error_rates(["a b", "c"], ["a", "b c"]).wer == pytest.approx(2 / 3)


def test_case_contractions_sounds_and_spaces_do_not_count():
    assert error_rates(["It's  HERE [laughter]\n"], [" it is here"]) == rates(0, 0)


def test_punctuation_does_not_count():
    assert error_rates(["Hello, - you."], ["hello you!"]) == rates(0, 0)


def test_a_guess_of_nothing_misses_everything():
    assert error_rates(["one two", "six"], ["", ""]) == rates(1, 1)


def test_what_is_made_up_can_outweigh_what_was_said():
    assert error_rates(["ab"], ["ab cd ef"]) == rates(2, 3)


@pytest.mark.parametrize("wordless", ["", " ", "...", "-", "[laughter]", "<unk> !"])
def test_a_text_without_a_word_is_left_out(wordless):
    assert error_rates([wordless, "one two"], ["never said", "one too"]) == rates(1 / 2, 1 / 7)
    nothing = error_rates([wordless], ["never said"])
    assert math.isnan(nothing.wer)  # and not perfect
    assert math.isnan(nothing.cer)


def test_words_are_compared_as_jiwer_itself_would():
    said, heard = ["I'm sure they'll come", "No"], ["I am sure they will <noise> come", "know no"]
    standard = jiwer.transformations.wer_standardize
    expected = jiwer.wer(said, heard, reference_transform=standard, hypothesis_transform=standard)
    assert error_rates(said, heard).wer == pytest.approx(expected)
    assert expected == pytest.approx(1 / 7)  # "know"


def test_a_guess_is_missing():
    with pytest.raises(ValueError, match="zip"):
        error_rates(["one", "two"], ["one"])
