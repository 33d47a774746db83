"""check.py says everything that is wrong at once, by dotted key, with the way out."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from omni.config.check import ConfigError, check
from omni.config.compose import compose as compose_or_say
from omni.config.paths import conf_dir
from omni.config.schema import register


def composed(*overrides: str):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", overrides=list(overrides))


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(composed(*overrides))
    return str(caught.value).splitlines()


def test_unknown_keys_behind_a_plus_are_caught_everywhere():
    said = problems("+stage.max_stepz=3", "+sead=2", "+encoder.contxt=full", "+logger.csv.x=1")
    assert sorted(said) == [
        "encoder.contxt: unknown key; did you mean encoder.context?",
        "logger.csv.x: unknown key; it takes none",
        "sead: unknown key; did you mean seed?",
        "stage.max_stepz: unknown key; did you mean stage.max_steps?",
    ]


def test_everything_is_said_at_once():
    said = problems(
        "dataset=manifest",
        "+stage.typo=3",
        "encoder.hf_id=${nowhere.at.all}",
        "encoder.context=loud",
        "projector.gate=perhaps",
        "backbone.n_layer=six",
    )
    for start in (
        "stage.typo: unknown key",
        "dataset.path: a value is missing; set it, as in dataset.path=VALUE",
        "encoder.hf_id: Interpolation key 'nowhere.at.all' not found",
        "encoder.context: Invalid value 'loud', expected one of [full, crop, clip]",
        "projector.gate: Value 'perhaps' is not a valid bool",
        "backbone.n_layer: Value 'six' of type 'str' could not be converted to Integer",
    ):
        assert any(line.startswith(start) for line in said), (start, said)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "projector.in_dim=400",
            "projector.in_dim: 400 is not what the encoder gives, 1 layer(s) of 512; set projector.in_dim=512",
        ),
        (
            "encoder.layers=[1,2,3]",
            "projector.in_dim: 512 is not what the encoder gives, 3 layer(s) of 512; set projector.in_dim=1536",
        ),
        (
            "encoder.layers=[]",
            "projector.in_dim: 512 is not what the encoder gives, 7 layer(s) of 512; set projector.in_dim=3584",
        ),
        ("encoder.layers=[7]", "encoder.layers: [7] are not among the states 0..6 (or -1..-7 from the end)"),
        ("projector.out_dim=100", "projector.out_dim: 100 is not the backbone's width; set projector.out_dim=384"),
        ("backbone.n_head=5", "backbone.n_head: 5 heads do not divide a width of 384 into even parts; try 3"),
        ("backbone.n_kv_head=2", "backbone.n_kv_head: 2 does not divide n_head=3"),
        ("backbone.window_pattern=SXL", "backbone.window_pattern: 'SXL' must be made of S and L"),
        (
            "backbone.vocab_size=256",
            "backbone.vocab_size: 256, and the tokenizer of bytes has 257; set backbone.vocab_size=257",
        ),
        (
            "logger=wandb",
            "logger.csv: missing, and curve, gate and resume read it; keep csv in the list, as in logger=[csv]",
        ),
        ("stage.max_steps=0", "stage.max_steps: 0 must be at least 1"),
        ("stage.lr=0", "stage.lr: 0.0 must be a number above 0"),
        ("stage.lr=nan", "stage.lr: nan must be a number above 0"),
        ("seed=-1", "seed: -1 must lie between 0 and 4294967295"),
        ("stage.warmup_steps=-1", "stage.warmup_steps: -1 must not be below 0"),
        ("encoder.layers=[3,-4]", "encoder.layers: [3, -4] names a state twice"),
        (
            "projector.init=zero",
            "projector.init: zero with gate=true puts two norms behind a zero, and the first step explodes; "
            "set projector.gate=false",
        ),
        ("stage.warmdown=1.5", "stage.warmdown: 1.5 must lie between 0 and 1"),
        ("projector.stack=0", "projector.stack: 0 must be at least 1"),
        (
            "precision=fp8",
            "compile: without it fp8 is slower than bf16; set compile=true, or precision=bf16",
        ),
    ],
)
def test_values_that_do_not_fit_each_other(override, line):
    assert problems(override) == [line]


def test_compiled_fp8_is_a_choice():
    check(composed("precision=fp8", "compile=true"))


TEXT = ("stage=w0_base", "dataset=text", "dataset.path=a.txt", "backbone=gpt_d2")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["stage.eval_every=10"], "stage.eval_every: looks at held-out clips whose states are kept on disk"),
        (["~encoder", "~projector"], "stage.eval_tokens: missing, and a stage of text alone is judged by them"),
        ([*TEXT, "debug.limit_clips=1"], "debug.limit_clips: there are no clips in a stage of text alone"),
        (["backbone.init_from=nowhere"], "backbone.init_from: nowhere is not there; name a run,"),
    ],
)
def test_what_a_stage_asks_for(overrides, line):
    (problem,) = problems(*overrides)
    assert problem.startswith(line)


@pytest.mark.parametrize(("dial", "told"), [("null", "None"), ("0", "0.0")])
def test_a_recipe_without_its_dial_names_it(dial, told):
    said = problems(*TEXT, f"stage.tokens_per_parameter={dial}")
    line = f"follows from stage.tokens_per_parameter={told}; set that above 0, or stage."
    assert [one for one in said if one == f"stage.max_steps: {line}max_steps"]


def test_a_group_that_is_nothing_is_said():
    cfg = composed()
    cfg.projector = None
    with pytest.raises(ConfigError, match="projector: null builds nothing; choose an option"):
        check(cfg)


def test_the_width_of_a_users_own_encoder_counts():
    cfg = composed()
    with open_dict(cfg):
        cfg.encoder = {"_target_": "mine.Ear", "width": 2}
        cfg.projector.in_dim = 512
    with pytest.raises(ConfigError, match=r"projector\.in_dim: 512 is not what the encoder gives, 1 layer\(s\) of 2"):
        check(cfg)


def test_a_users_own_class_keeps_its_own_keys():
    cfg = composed()
    with open_dict(cfg):
        cfg.encoder = {"_target_": "mine.Ear", "loudness": 11, "width": 512}
        cfg.projector = {"_target_": "mine.Bridge"}
    check(cfg)


def test_a_value_missing_in_a_users_own_class_is_still_said():
    cfg = composed()
    with open_dict(cfg):
        cfg.projector = {"_target_": "mine.Bridge", "depth": "???"}
    with pytest.raises(ConfigError, match=r"projector\.depth: a value is missing"):
        check(cfg)


def test_a_group_that_is_set_to_null_is_told_how_to_leave_it_out():
    with pytest.raises(ConfigError, match=r"GROUP=null: .* as in ~augment"):
        compose_or_say(["augment=null"])
