"""Folders of somebody else's: whatever they claim to be, nothing in them runs, and what they asked for is named."""

import json
import pickle
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from omni.audio.tones import write_smoke_clips
from omni.compare import main as compare
from omni.config.check import ConfigError
from omni.config.compose import compose
from omni.config.schema import run_dir
from omni.config.sweep import is_harmless, resume_command
from omni.config.trained import load_trained
from omni.config.trust import check_saved
from omni.config.whole import PARTS, PIPELINE
from omni.errors import OmniError
from omni.evaluate import Evaluate, evaluate
from omni.export import Export, Format, export
from omni.generate import Generate, generate
from omni.model.init_from import load_pipeline
from omni.serve import Serve, serve
from omni.text.tokenizer import ByteTokenizer
from omni.train import train
from omni.training.distributed import World

TINY = [
    *("encoder=whisper_random", "backbone=gpt_d2", "backbone.n_embd=32", "backbone.n_head=2", "backbone.n_kv_head=1"),
    *("projector=mlp", "projector.hidden_dim=16", "logger=[csv]", "device=cpu", "stage.gate=null", "stage.max_steps=2"),
]
EAR = """
import torch


class Ear(torch.nn.Module):
    source, frame_rate, n_states = "my own ear", 50, 1

    def __init__(self, *, width):
        super().__init__()
        self.width, self.signature = width, {"ear": width}

    def forward(self, waveforms):
        states = [w[: len(w) // 320 * 320].view(-1, 320).std(1)[:, None].expand(-1, self.width) for w in waveforms]
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        return padded[:, None], torch.tensor([len(s) for s in states])
"""


class Canary:
    """Pickles as a call that leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


composed = cache(lambda: compose([]))


def trained_run(folder: Path, *overrides: str) -> Path:
    train(World(), compose([*TINY, f"dataset.folder={folder.parent / 'clips'}", *overrides]), folder, [])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        return trained_run(folder)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Where one is, with a `canary` that must not come to be."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def stranger(run, home) -> Path:
    """A copy of the run in the folder that one is in."""
    folder = shutil.copytree(run, home / "stranger")
    told = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(told | {"cwd": str(home)}))
    return folder


def change(folder: Path, **nodes) -> None:
    """Set dotted keys of a run's configuration."""
    cfg = OmegaConf.load(folder / "config.yaml")
    for key, value in nodes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False)
    OmegaConf.save(cfg, folder / "config.yaml")


def going_on(folder: Path, *overrides: str) -> None:
    """`omni.train resume=FOLDER`, as far as it goes without a process of its own."""
    run_dir("fresh", str(folder))
    cfg = composed().copy()
    cfg.merge_with_dotlist([f"resume={folder}", *overrides])
    train(World(), cfg, folder, [f"resume={folder}", *overrides])


COMMANDS = {
    "load_trained": lambda run, **given: load_trained(str(run), device="cpu", **given),
    "generate": lambda run, **given: generate(Generate(run=str(run), prompt="a", max_tokens=2, **given)),
    "serve": lambda run, **given: serve(Serve(run=str(run), port=0, **given)),
    "evaluate": lambda run, **given: evaluate(Evaluate(run=str(run), **given)),
    "export": lambda run, **given: export(Export(run=str(run), to=str(run.parent / "out"), **given)),
    "slim": lambda run, **given: export(Export(str(run), str(run.parent / "out"), Format.slim, **given)),
    "resume": going_on,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_opens_the_pickle_beside_a_configuration(stranger, home, command):
    np.save(home / "evil.npy", np.array([Canary(home / "canary")], dtype=object), allow_pickle=True)
    change(stranger, projector={"_target_": "numpy.load", "file": str(home / "evil.npy"), "allow_pickle": True})
    with pytest.raises(ConfigError, match=r"projector\._target_: numpy\.load is none of omni's own classes.*trust="):
        COMMANDS[command](stranger)
    assert not (home / "canary").exists()
    assert not (home / "out").exists()
    assert json.loads((stranger / "run.json").read_text())["status"] == "passed"


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ({"encoder": {"_target_": "evil.Ear"}}, r"encoder\._target_: evil\.Ear"),
        ({"encoder": {"_target_": "importlib.import_module", "name": "evil"}}, r"encoder\._target_: importlib"),
        ({"projector": {"_target_": "pathlib.Path.touch", "self": "canary"}}, r"projector\._target_: pathlib"),
        ({"projector": {"_target_": "omni.atomic.replace_text"}}, r"projector\._target_: .* none of omni's for proj"),
        ({"projector": {"_target_": "omni.train.Path.touch"}}, r"projector\._target_: omni\.train\.Path\.touch"),
        (
            {"projector": {"_target_": "omni.record.metrics.CsvLogger", "folder": "canary"}},
            r"projector\._target_: omni",
        ),
        (
            {"dataset": {"_target_": "omni.corpora.debian_text.prepare_debian_text"}},
            r"dataset\._target_: omni",
        ),
        ({"backbone__tokenizer": {"_target_": "evil.Ear"}}, r"backbone\.tokenizer\._target_: .*nothing is built there"),
        ({"stage__samples": [{"_target_": "evil.Ear"}]}, r"stage\.samples\.0\._target_: evil\.Ear: nothing is built"),
        ({"projector___args_": ["canary"]}, r"projector\._args_: tells hydra how to call"),
        ({"projector___partial_": True}, r"projector\._partial_: tells hydra"),
        (
            {"dataset": {"_target_": "omni.data.mixture.Mixture", "parts": {"a": {"_target_": "evil.Ear"}}}},
            r"dataset\.parts\.a\._target_: evil\.Ear",
        ),
        ({"logger__spy": {"_target_": "evil.Ear"}}, r"logger\.spy\._target_: evil\.Ear"),
        ({"stage__name": "${oc.env:HOME}"}, r"stage\.name: \$\{oc\.env:HOME\} would be looked up"),
        ({"features": "/features"}, r"features: /features would be made outside"),
        ({"features": "../features"}, r"features: \.\./features would be made outside"),
        ({"dataset__folder": "../canary"}, r"dataset\.folder: \.\./canary would be made outside"),
    ],
)
def test_what_a_stranger_s_configuration_asks_for_is_named_and_not_done(stranger, home, monkeypatch, nodes, told):
    (home / "evil.py").write_text(f"open({str(home / 'canary')!r}, 'w')\n{EAR}")
    monkeypatch.syspath_prepend(home)
    change(stranger, **nodes)
    for command in ("load_trained", "resume"):
        with pytest.raises(ConfigError, match=told):
            COMMANDS[command](stranger)
    assert {path.name for path in home.iterdir()} == {"evil.py", "stranger"}
    assert {path.name for path in home.parent.iterdir()} == {"home"}


def test_a_tag_in_the_yaml_makes_nothing(stranger, home):
    text = (stranger / "config.yaml").read_text()
    (stranger / "config.yaml").write_text(text + f"x: !!python/object/apply:pathlib.Path.touch [{home}/canary]\n")
    for command in COMMANDS.values():
        with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
            command(stranger)
    assert not (home / "canary").exists()


def test_a_pickle_is_no_tokenizer_no_checkpoint_and_no_state(stranger, home):
    evil, checkpoint = pickle.dumps(Canary(home / "canary")), stranger / "checkpoints" / "step_000002"
    whole = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for name, content in (("model.safetensors", evil), ("trainer.pt", evil), ("trainer.pt", None)):
        (checkpoint / name).write_bytes(content or b"")
        if content is None:
            torch.save({"step": Canary(home / "canary")}, checkpoint / name)
        with pytest.raises(OmniError, match=r"step_000002: the checkpoint cannot be read"):
            going_on(stranger)
        (checkpoint / name).write_bytes(whole[name])
    (stranger / "tokenizer.pkl").write_bytes(evil)
    change(stranger, backbone__tokenizer=str(stranger / "tokenizer.pkl"))
    with pytest.raises(OmniError, match=r"backbone\.tokenizer: .*tokenizer\.pkl: refused, nothing was run"):
        load_trained(str(stranger), device="cpu")
    assert not (home / "canary").exists()


def test_an_exported_folder_is_built_of_omni_s_classes_alone(run, home):
    cfg = yaml.safe_load((run / "config.yaml").read_text())
    bundle = {"seed": 1, **{part: cfg[part] for part in PARTS}}
    bundle["projector"] = {"_target_": "pathlib.Path.touch", "self": str(home / "canary")}
    bundle["encoder"] |= {"weights": "encoder", "layers": "${oc.env:HOME}"}
    (home / PIPELINE).write_text(yaml.safe_dump(bundle))
    with pytest.raises(ConfigError, match=r"(?s)encoder\.layers: .*projector\._target_: pathlib\.Path\.touch is none"):
        load_trained(str(home), device="cpu")
    assert not (home / "canary").exists()


def test_runs_to_start_from_and_to_compare_are_read_only(stranger, home, capsys):
    model = load_trained(str(stranger), device="cpu").model
    change(stranger, encoder={"_target_": "pathlib.Path.touch", "self": str(home / "canary")}, seed="${oc.env:HOME}")
    assert load_pipeline(model, stranger, ByteTokenizer())["source"].endswith("model.safetensors")
    compare([str(home)])
    assert str(home) not in capsys.readouterr().out.replace(f" in {home}\n", "")
    assert not (home / "canary").exists()


def test_nothing_is_written_through_a_link_out_of_the_folder(stranger, home):
    (stranger / "train.log").unlink(missing_ok=True)
    (stranger / "train.log").symlink_to(home / "canary")
    for command in ("evaluate", "resume"):
        with pytest.raises(OmniError, match=r"train\.log: is a link out of the run's folder"):
            COMMANDS[command](stranger)
    assert not (home / "canary").exists()
    (stranger / "train.log").unlink()
    (stranger / "train.log").symlink_to("metrics.csv")
    run_dir("fresh", str(stranger))


def test_clips_of_one_s_own_are_not_written_over(home):
    (home / "manifest.jsonl").write_text('{"audio": "mine.wav", "text": "mine"}\n')
    with pytest.raises(OmniError, match=r"manifest\.jsonl: is of other clips"):
        write_smoke_clips(home)
    assert "mine.wav" in (home / "manifest.jsonl").read_text()


@pytest.fixture
def own(home, monkeypatch, request) -> Path:
    """A run that hears by a class of one's own, which lies where one is."""
    name = f"my_ear_{abs(hash(request.node.name))}"  # modules stay imported
    (home / f"{name}.py").write_text(f"import os\nfrom os import system\n{EAR}")
    monkeypatch.syspath_prepend(home)
    (home / "my_conf" / "encoder").mkdir(parents=True)
    (home / "my_conf" / "encoder" / "ear.yaml").write_text(f"_target_: {name}.Ear\nwidth: 2\n")
    write_smoke_clips(home / "clips")
    rows = [json.loads(line) for line in (home / "clips" / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"id": f"{row['id']} {split}", "split": split} for split in ("train", "test") for row in rows]
    (home / "clips" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    search = f"hydra.searchpath=['file://{home}/my_conf']"
    data = ["dataset=manifest", "dataset.path=clips/all.jsonl", "features=features", "projector.in_dim=2"]
    cfg = compose([*TINY[1:], "encoder=ear", *data, search])
    train(World(), cfg, home / "run", [])
    return home / "run"


def test_a_class_of_one_s_own_is_built_when_its_module_is_named(own, capsys):
    module = OmegaConf.load(own / "config.yaml").encoder._target_.rpartition(".")[0]
    for name in ("generate", "evaluate", "export", "resume"):
        with pytest.raises(ConfigError, match=rf"encoder\._target_: {module}\.Ear is none.*trust={module}$"):
            COMMANDS[name](own)
    assert load_trained(str(own), device="cpu", trust=module).model.encoder.source == "my own ear"
    generate(Generate(run=str(own), audio=["clips/low_tone.wav"], max_tokens=2, trust=[module]))
    evaluate(Evaluate(run=str(own), trust=["another", module]))
    assert (own / "hearing" / "test.json").is_file()
    change(own, stage__max_steps=3)
    going_on(own, f"trust={module}")
    assert json.loads((own / "run.json").read_text())["resumed"] == 1
    # A job of a sweep is composed again before it goes on, so it is known what it is built of.
    change(own, stage__max_steps=4)
    again = compose([f"resume={own}", "encoder=ear", f"hydra.searchpath=['file://{own.parent}/my_conf']"])
    train(World(), again, own, [])
    assert json.loads((own / "run.json").read_text())["resumed"] == 2
    for target in ("system", "os.system", "torch.nn.Linear", "Absent"):
        change(own, encoder___target_=f"{module}.{target}")
        with pytest.raises(ConfigError, match=rf"encoder\._target_: {module}\.{target} (cannot be imported|is not)"):
            load_trained(str(own), device="cpu", trust=module)


def test_to_trust_a_module_lets_none_of_omni_s_stand_where_it_does_not_belong():
    cfg = OmegaConf.create({"projector": {"_target_": "omni.record.metrics.CsvLogger"}})
    with pytest.raises(ConfigError, match=r"projector\._target_: .* none of omni's for projector"):
        check_saved(cfg, Path("config.yaml"), ["omni", "omni.record.metrics"])


HARMLESS = [
    *("seed=1,2", "stage.lr=1e-3,3e-4", "projector=mlp,conv", "logger=[csv]", "seed=range(1,4)", "~augment"),
    *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.partition=gpu", "hydra/sweeper=optuna"),
    *("dataset.path=/data/my.jsonl", "features=data/features", "stage.gate=null", "+stage.freeze=['backbone.*']"),
]
RISKY = [
    *("hydra.launcher.setup=['touch x']", "hydra.callbacks.x._target_=evil.Ear", "hydra/launcher=../../evil"),
    *("hydra.searchpath=[file:///evil]", "hydra.sweep.subdir=/x", "hydra.job_logging.handlers.x.class=evil.Ear"),
    *("encoder._target_=evil.Ear", "+encoder={_target_:evil.Ear}", "stage.name=${oc.env:HOME}", "encoder=../../evil"),
    *("encoder=mlp,/evil", "encoder=/evil", "+x@encoder=evil", "hydra={run:{dir:/x}}", "dataset={parts:1}"),
]


def test_a_sweep_goes_on_with_what_can_run_code_only_when_that_is_said_again(home):
    assert [override for override in HARMLESS if not is_harmless(override)] == []
    assert [override for override in RISKY if is_harmless(override)] == []
    sweep = home / "sweep"
    sweep.mkdir()
    plan = {"hydra": {"overrides": {"hydra": [RISKY[0]], "task": ["seed=1,2", RISKY[8]]}}}
    OmegaConf.save(plan, sweep / "multirun.yaml")
    command = ["omni-train", f"sweep.resume={sweep}"]
    with pytest.raises(ConfigError, match=r"sweep\.resume: .*hydra\.launcher\.setup=.* stage\.name=\$\{oc"):
        resume_command(command)
    with pytest.raises(ConfigError, match=r"give these again"):
        resume_command([*command, RISKY[0], RISKY[8], RISKY[1]])
    assert resume_command([*command, RISKY[0], RISKY[8]])[1:5] == ["--multirun", RISKY[0], "seed=1,2", RISKY[8]]
    (sweep / "compare.md").symlink_to(home / "canary")
    with pytest.raises(OmniError, match=r"compare\.md: is a link out"):
        resume_command([*command, RISKY[0], RISKY[8]])
