"""The five rules by which a score means that a model hears; each test fails when its rule is broken.

1. Labels are measured, not taken from the knob. 2. Nothing but what is asked about tells the answer. 3. Nothing of the
test is trained on. 4. Guessing is worth a quarter. 5. Tuning has its own questions, and looks at the test are counted.
"""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch

import omni
from omni.audio.counts import count_sounds
from omni.audio.measure import measure_level, median_f0, track_f0
from omni.audio.pcm import hash_of
from omni.errors import OmniError
from omni.instructions import dataset, loudness, pitch, prosody, rate
from omni.instructions.counting import NUMBERS, PAUSE, WORD_PAUSE
from omni.instructions.factory import RECIPES, SPLIT_SEEDS, finished, make_item
from omni.instructions.loudness import name_course
from omni.instructions.pool import SPLITS, open_pool
from omni.instructions.prosody import Contour, name_style
from omni.instructions.questions import normalised
from omni.instructions.sources import Sources
from omni.instructions.wording import WORDINGS
from omni.instructions.writing import rows_of
from omni.record.audiobench import log_test_use

MEASURED = (
    *("pitch_highest", "pitch_lowest", "pitch_band", "rate_band", "loudness_part", "loudness_course"),
    *("prosody_style", "count_beeps", "count_taps", "count_words"),
)


def told_by_figures(draft):
    """The place of the answer by the figures of a draft alone."""
    figures = draft.measured
    match draft.kind:
        case "pitch_highest" | "loudness_part":
            return int(np.argmax(list(figures.values())))
        case "pitch_lowest":
            return int(np.argmin(list(figures.values())))
        case "pitch_band" | "rate_band":
            value = figures["f0"] if draft.kind == "pitch_band" else figures["syllables"] / figures["spoken_seconds"]
            bands = pitch.BANDS if draft.kind == "pitch_band" else rate.BANDS
            return next((place for place, (low, high) in enumerate(bands.values()) if low <= value <= high), None)
        case "loudness_course":
            return name_course(list(figures.values()))
        case "prosody_style":
            return name_style(Contour(**{name: value for name, value in figures.items() if name != "plain_f0"}))
        case _:
            return draft.choices.index(NUMBERS[int(figures["count"]) - 1])


def drafts(kind, pool, rounds):
    """What a recipe gives for each answer, so many times asked."""
    found = []
    for seed, answer in product(range(rounds), range(4)):
        draft = RECIPES[kind](np.random.default_rng([seed, answer]), pool, answer)
        assert draft is None or draft.answer == answer
        found.append(draft)
    return found


# 1. Labels are measured


@pytest.mark.parametrize("kind", MEASURED)
def test_1_a_measured_answer_is_what_the_figures_say(kind, pools):
    made = [draft for draft in drafts(kind, pools["train"], 5) if draft is not None]
    assert {draft.answer for draft in made} == {0, 1, 2, 3}
    assert all(told_by_figures(draft) == draft.answer for draft in made)


@pytest.mark.parametrize("kind", [kind for kind in MEASURED if not kind.startswith(("count", "loudness"))])
def test_1_knobs_that_do_nothing_label_nothing(kind, pools, monkeypatch):
    """Voices that speak as they always do, and a bender of pitch that does not bend."""
    for module in (pitch, prosody):
        monkeypatch.setattr(module, "bend", lambda waveform, median, formula: waveform)
    pool = pools["train"]
    deaf = replace(pool, say=lambda voice, text, **knobs: pool.say(voice, text))
    made = drafts(kind, deaf, 6)
    assert None in made
    assert all(told_by_figures(draft) == draft.answer for draft in made if draft is not None)


def test_1_gains_that_do_nothing_label_nothing(pools, monkeypatch):
    monkeypatch.setattr(loudness, "SOFTER", (0.0, 0.0))
    monkeypatch.setattr(loudness, "DEPTH", (0.0, 0.0))
    assert set(drafts("loudness_part", pools["train"], 3)) == {None}
    assert {draft.answer for draft in drafts("loudness_course", pools["train"], 8) if draft is not None} == {2}


def test_1_what_is_heard_twice_is_not_counted_once(pools):
    pool = pools["train"]
    pause = torch.zeros(round(0.2 * 16_000))

    def stutter(voice, text, **knobs):
        spoken = pool.say(voice, text, **knobs)[:2_500]
        return torch.cat([spoken, pause, spoken])

    assert set(drafts("count_words", replace(pool, say=stutter), 4)) == {None}


def test_1_the_answer_is_still_heard_in_the_finished_sound(pools):
    """Under the noise that all have, and after the level that all have."""
    for kind in ("pitch_band", "loudness_course", "loudness_part", "count_beeps", "count_words"):
        for draft in filter(None, drafts(kind, pools["train"], 2)):
            waveform = finished(draft, np.random.default_rng(0)).waveform
            levels = [measure_level(part) for part in waveform.tensor_split(5)]
            match kind:
                case "pitch_band":
                    low, high = list(pitch.BANDS.values())[draft.answer]
                    assert 0.97 * low <= median_f0(track_f0(waveform)) <= 1.03 * high
                case "loudness_course":
                    assert name_course(levels) == draft.answer
                case "loudness_part":
                    loudest = int(waveform.square().unfold(0, 1_600, 400).mean(dim=1).argmax()) * 400 + 800
                    assert loudest * 4 // len(waveform) == draft.answer
                case _:
                    counted = count_sounds(waveform, 0.75 * (WORD_PAUSE if kind == "count_words" else PAUSE))
                    assert draft.choices[draft.answer] == NUMBERS[counted - 1]


def test_1_no_two_bands_touch():
    for bands in (pitch.BANDS, rate.BANDS):
        limits = [limit for band in bands.values() for limit in band]
        assert limits == sorted(limits)
        assert all(low / high >= 1.15 for high, low in zip(limits[1::2], limits[2::2], strict=False))


# 2. No side channel


def test_2_all_that_is_not_about_loudness_is_as_loud(items):
    quiet = {item.draft.kind: measure_level(item.draft.waveform) for item in items if item.category != "loudness"}
    assert len(quiet) > 8
    assert np.ptp(list(quiet.values())) < 0.01


def test_2_how_loud_it_is_says_nothing_about_where_it_is_loudest(pools):
    levels = defaultdict(list)
    for kind in ("loudness_part", "loudness_course"):
        for draft in filter(None, drafts(kind, pools["train"], 30)):
            levels[kind, draft.answer].append(measure_level(draft.waveform))
    assert len(levels) == 8
    for values in levels.values():
        assert np.mean(values) == pytest.approx(-30, abs=2)
        assert np.ptp(values) > 4


def test_2_there_is_one_way_to_16_khz():
    """A second resampler would give its engine away."""
    other = re.compile(r"functional\.resample|audio\.resample|Resample\(|soxr|resample_poly|librosa|scipy\.signal")
    sources = [
        path
        for room in ("speech", "instructions", "corpora")
        for path in Path(omni.__file__).parent.glob(f"{room}/*.py")
    ]
    assert len(sources) > 20
    assert [path.name for path in sources if other.search(path.read_text())] == []


def test_2_any_voice_is_high_and_low_slow_and_fast(pools):
    pool = pools["train"]
    for voice in (pool.voices[0], pool.voices[-1]):
        alone = replace(pool, voices=(voice,))
        for kind in ("pitch_band", "rate_band"):
            assert {draft.answer for draft in drafts(kind, alone, 10) if draft is not None} == {0, 1, 2, 3}


def test_2_noise_lies_under_every_answer_alike(items):
    for item in items:
        if item.category != "loudness":
            frames = item.draft.waveform.unfold(0, 160, 160).square().mean(dim=1)
            assert frames.min() > 0


# 3. No leak


def test_3_no_split_says_shows_or_asks_what_another_does(pools):
    def of(split):
        pool = pools[split]
        voices = {f"{voice.engine}/{voice.name.partition('+')[2]}" for voice in pool.voices}
        asked = {text for phrasings in WORDINGS.values() for text in getattr(phrasings, split)}
        return voices | set(pool.words) | set(pool.sentences) | {normalised(text) for text in asked}

    assert not of("train") & of("val")
    assert not of("train") & of("test")


def test_3_rows_show_the_voices_and_sentences_of_their_own_split_alone(pools):
    shown = {}
    for split in SPLITS:
        made = [make_item(number, pools[split], seed=1) for number in range(24)]
        shown[split] = {text for item in made for text in (*item.draft.voices, *item.draft.sentences)}
        shown[split] |= {row["question"] for item in made for row in rows_of(item, split, seed=1)}
        assert len(shown[split]) > 30
    for one, other in combinations(SPLITS, 2):
        assert not shown[one] & shown[other]


def test_3_noise_is_another_in_each_split(pools):
    assert len(set(SPLIT_SEEDS.values())) == len(SPLITS) == len(SPLIT_SEEDS)
    noises = {hash_of(make_item(6, replace(pools["train"], split=split), seed=1).draft.waveform) for split in SPLITS}
    assert len(noises) == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_3_the_held_out_engine_is_refused_before_the_test(split):
    with pytest.raises(OmniError, match="kokoro is the engine that no model may have heard"):
        open_pool(split, Sources(engines=["kokoro"], amazon_queen=None, animals=None, soundfont=None))


# 4. No guessing


@pytest.fixture
def asked(stub_recipes, silent_voices):
    """Thousands of questions with their answers, of which nothing can be heard."""
    made = [make_item(number, silent_voices["val"], seed=5) for number in range(4_800)]
    return [(item, next(rows_of(item, "val", seed=5))) for item in made]


@pytest.fixture
def cheap_labels(monkeypatch):
    monkeypatch.setattr("omni.instructions.writing.labels_of", lambda item: ())


def test_4_letters_are_even_in_two_hundred_and_in_every_category(cheap_labels, asked):
    letters, by_category = Counter(), defaultdict(Counter)
    for item, row in asked[:200]:
        letter = row["choices"].index(row["answer"])
        letters[letter] += 1
        by_category[item.category][letter] += 1
    assert letters == dict.fromkeys(range(4), 50)
    assert all(
        max(counts.values()) - min(counts[letter] for letter in range(4)) <= 1 for counts in by_category.values()
    )


def test_4_the_same_words_have_all_answers_as_often(cheap_labels, asked):
    answers = defaultdict(Counter)
    for _, row in asked:
        answers[row["question"]][row["answer"]] += 1
    assert len(answers) == len(WORDINGS)
    for counts in answers.values():
        assert max(counts.values()) / counts.total() < 0.28
        assert len(counts) == 4


def test_4_where_a_choice_stands_does_not_say_whether_it_is_right(cheap_labels, asked):
    right, stood = Counter(), Counter()
    for item, row in asked:
        for letter, choice in enumerate(row["choices"]):
            stood[item.draft.kind, choice, letter] += 1
            right[item.draft.kind, choice, letter] += choice == row["answer"]
    shares = {place: right[place] / stood[place] for place in stood}
    assert min(shares.values()) > 0.02
    assert max(shares.values()) < 0.5


def test_4_wrong_choices_are_as_likely_as_right_ones(pools):
    """What is drawn, a count or a word, is drawn before it is known which is the answer."""
    for kind in ("count_beeps", "word"):
        made = [draft for draft in drafts(kind, pools["train"], 40) if draft is not None]
        places = Counter(sorted(draft.choices).index(draft.choices[draft.answer]) for draft in made)
        assert max(places.values()) < 0.4 * len(made)
        assert len({draft.choices for draft in made}) >= 5


def test_4_the_same_words_with_another_sound_have_another_answer(pools):
    answers, sounds = defaultdict(set), set()
    for number in range(0, 8 * 12, 8):
        for place in (2, 4, 6):
            item = make_item(number + place, pools["val"], seed=1)
            answers[next(rows_of(item, "val", seed=1))["question"]].add(item.answer)
            sounds.add(hash_of(item.draft.waveform))
    assert len(sounds) == 36
    assert all(len(found) > 1 for found in answers.values())


# 5. A set to tune on, and counted looks


def test_5_tuning_and_the_extended_test_have_their_own_sizes_and_sounds(pools):
    assert dataset.HELD_OUT_ITEMS == {"val": 200, "test": 2000}
    assert "test" not in dataset.AudioInstructions.splits
    made = {
        split: {hash_of(make_item(number, pools[split], seed=1).draft.waveform) for number in (2, 6, 14)}
        for split in SPLITS
    }
    assert len(set.union(*made.values())) == 9


def test_5_each_look_at_the_test_is_a_line(tmp_path):
    path = tmp_path / "outputs" / "uses.jsonl"
    assert [log_test_use(path, run="a/run", step=step, score=0.5) for step in (10, 20, 20)] == [1, 2, 3]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["run"], row["step"]) for row in rows] == [("a/run", 10), ("a/run", 20), ("a/run", 20)]
