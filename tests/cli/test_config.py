"""`python -m omni.config`: what it prints, what it refuses, what it imports; and the workflows."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import omni
from omni.config import compose

ROOT = Path(__file__).parents[2]
LIGHT = {"hydra", "omegaconf", "yaml", "antlr4", "packaging", "rich"}
"""What the workflow installs, with what that needs."""


def process(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "omni.config", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture
def shown(config):
    def run(*arguments: str, cwd: Path = ROOT, **env: str) -> str:
        done = config(cwd, *arguments, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the checkout to break: omni, conf, the generated files, no git; whose conf the command then reads."""
    monkeypatch.setattr(omni, "__file__", str(tmp_path / "omni" / "__init__.py"))
    compose.defaults.cache_clear()
    for folder in ("omni", "conf", "docs/schema", "tests/snapshots", ".vscode"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    yield tmp_path
    compose.defaults.cache_clear()


@pytest.fixture
def small_copy(copy) -> Path:
    """Of each group what train.yaml chooses alone, and a data set of one's own."""
    kept = {
        each
        for chosen in compose.defaults().values()
        for each in ([chosen] if isinstance(chosen, str) else chosen or [])
    }
    for path in copy.glob("conf/*/*.yaml"):
        if path.stem not in {*kept, "manifest"}:
            path.unlink()
    return copy


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_show_is_what_train_would_run(shown, train):
    ran = train(ROOT, "--cfg", "job", "--resolve", "experiment=w1_seed", "seed=7")
    assert yaml.safe_load(shown("show", "experiment=w1_seed", "seed=7")) == yaml.safe_load(ran.stdout)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("stage.gate", "loss_drop: 0.5\n"),
        ("backbone.n_embd", "384\n"),
        ("device", "auto\n"),
        ("resume", "null\n"),
        ("encoder.layers", "- -1\n"),
    ],
)
def test_show_a_part(key, text, shown):
    assert shown("show", "--key", key) == text


def test_show_follows_the_environment_of_the_run(shown):
    assert shown("show", "--key", "encoder.hf_id", WHISPER_HF_ID="mine") == "mine\n"


def test_options_are_listed_with_what_they_are(shown):
    text = shown("show", "--options", COLUMNS="200")
    assert re.search(r"^projector=$", text, re.M)
    assert re.search(r"^  conv +Strided convolutions: 6\.25 soft tokens", text, re.M)
    assert "@package" not in text
    for group in ("encoder", "backbone", "stage", "experiment", "debug", "logger"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"^  {path.stem} +\S", text, re.M), path


def test_everything_that_ships_is_fine(shown):
    text = shown("check")
    right, of = re.match(r"(\d+) of (\d+) stages, experiments and options are fine", text).groups()
    assert right == of
    assert int(of) >= 20


def test_check_of_one_configuration(config, shown):
    assert shown("check", "experiment=w1_seed", "seed=2") == "experiment=w1_seed seed=2: fine\n"
    done = config(ROOT, "check", "+stage.typo=3", "encoder.layers=[9]", "dataset=manifest")
    assert done.returncode == 1
    assert done.stderr.startswith("error: stage.typo: unknown key")
    assert "\n  dataset.path: a value is missing" in done.stderr


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.max_stepz=3", "stage.max_stepz: unknown key; did you mean stage.max_steps?"),
        ("stag=w1_smoke", "stag: unknown key; did you mean stage?"),
        ("stage=w1_smok", "stage: there is no 'w1_smok'; did you mean stage=w1_smoke?"),
        ("stage.lr=fast", "stage.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("stage.lr", "Error parsing override 'stage.lr'"),
    ],
)
def test_composition_errors_are_those_of_the_command_line(command, override, message, config):
    done = config(ROOT, command, override)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["show", "--key", "stag.lr"], "--key stag: there is no such key; did you mean stage?", 1),
        (["show", "--key", "stage.lrr"], "--key stage.lrr: there is no such key; did you mean stage.lr?", 1),
        (["show", "encoder.width=${nowhere}", "--key", "encoder"], "encoder: Interpolation key 'nowhere'", 1),
        (["show", "--config-dir", "nowhere"], "--config-dir: nowhere is no folder", 1),
        (["diff", "nowhere"], "'nowhere' names nothing here", 2),
    ],
)
def test_bad_input_is_said_without_a_traceback(arguments, message, status, config):
    done = config(ROOT, *arguments)
    assert done.returncode == status
    assert done.stderr.startswith(f"error: {message}")
    assert "Traceback" not in done.stderr


def test_options_of_ones_own(tmp_path, shown):
    (tmp_path / "projector").mkdir()
    (tmp_path / "projector/mine.yaml").write_text("_target_: mine.Bridge\nloud: 11\n")
    own = ("projector=mine", "--config-dir", str(tmp_path))
    assert shown("show", *own, "--key", "projector.loud") == "11\n"
    assert shown("check", *own) == "projector=mine: fine\n"


def test_problems_of_what_ships_are_all_said(small_copy, config):
    copy = small_copy
    (copy / "conf/experiment/a.yaml").write_text("# @package _global_\nstage: [\n")
    (copy / "conf/experiment/b.yaml").write_text("# @package _global_\nencoder:\n  contxt: full\n  width: ${nowhere}\n")
    change(copy / "conf/dataset/manifest.yaml", "max_seconds:", "max_secondz:")
    done = config(copy, "check")
    assert done.returncode == 1
    for line in (
        "error: experiment=a\n  conf/experiment/a.yaml, line 3: expected the node content",
        "error: experiment=b\n  encoder.contxt: unknown key; did you mean encoder.context?",
        "  encoder.width: Interpolation key 'nowhere' not found",
        "error: dataset=manifest\n  dataset.max_secondz: unknown key; did you mean dataset.max_seconds?",
    ):
        assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert "dataset.path" not in done.stderr  # it is for the user to set


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("conf/stage/w1_smoke.yaml", "warmup_steps:", "rise_steps:"),
        ("conf/projector/stack_mlp.yaml", "\nstack:", "\nstacked:"),
        ("conf/logger/wandb.yaml", "  mode:", "  mood:"),
        ("conf/train.yaml", "precision:", "precise:"),
    ],
)
def test_a_key_renamed_in_a_yaml_fails_the_check(copy, file, old, new, config):
    change(copy / file, old, new)
    assert config(copy, "check", "seed=1").returncode == 1


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("schema.py", "warmup_steps: int", "rise_steps: int"),
        ("targets.py", "stack: int", "stacked: int"),
        ("targets.py", "    mode: WandbMode", "    mood: WandbMode"),
    ],
)
def test_a_key_renamed_in_a_schema_fails_the_check(copy, file, old, new):
    change(copy / "omni" / "config" / file, old, new)
    assert process("check", "seed=1", cwd=copy).returncode == 1


def test_a_value_that_no_yaml_sets_is_not_taken_for_one_the_user_sets(small_copy):
    change(
        small_copy / "omni/config/schema.py",
        "max_steps: int = MISSING",
        "max_steps: int = MISSING\n    more: int = MISSING",
    )
    done = process("check", cwd=small_copy)
    assert done.returncode == 1
    assert "error: stage=w1_smoke\n  stage.more: a value is missing" in done.stderr


@pytest.mark.parametrize("command", ["snapshot", "schema"])
def test_generated_files_are_checked_and_mended(copy, command, config, shown):
    assert "are up to date" in shown(command, "--check", cwd=copy)
    change(copy / "conf/stage/w1_smoke.yaml", "batch_size: 5", "batch_size: 4")
    change(copy / "conf/stage/w0_base.yaml", "# Optimizer steps.", "# Steps of it.")  # the first file that has a key
    (copy / "tests/snapshots/experiment/gone.yaml").write_text("seed: 1\n")
    (copy / "docs/schema/gone.json").write_text("{}\n")
    before = {path: path.read_text() for path in copy.rglob("*.yaml")}
    done = config(copy, command, "--check")
    assert done.returncode == 1
    assert done.stderr == f"error: out of date; `python -m omni.config {command}` mends it\n"
    expected = {"snapshot": ("-  batch_size: 5\n+  batch_size: 4", "-seed: 1"), "schema": ("Steps of it.", "-{}")}
    for text in expected[command]:
        assert text in done.stdout
    assert {path: path.read_text() for path in copy.rglob("*.yaml")} == before
    folder = {"snapshot": "tests/snapshots/experiment/gone.yaml", "schema": "docs/schema/gone.json"}[command]
    assert f"removed {folder}\n" in shown(command, cwd=copy)
    assert "are up to date" in shown(command, "--check", cwd=copy)


def test_a_broken_experiment_is_named_and_no_snapshot_is_touched(copy, config):
    change(copy / "conf/stage/w1_smoke.yaml", "batch_size: 5", "batch_size: 4")
    (copy / "conf/experiment/lost.yaml").write_text("# @package _global_\nencoder:\n  width: ${nowhere}\n")
    done = config(copy, "snapshot")
    assert done.returncode == 1
    assert done.stderr.startswith("error: experiment/lost: encoder.width: Interpolation key 'nowhere' not found")
    assert "batch_size: 5" in (copy / "tests/snapshots/stage/w1_smoke.yaml").read_text()


def test_every_folder_below_conf_is_a_group_that_check_and_options_know():
    """hydra takes any folder there for a group, and completion offers it."""
    entries = yaml.safe_load((ROOT / "conf/train.yaml").read_text())["defaults"]
    groups = {group for entry in entries if isinstance(entry, dict) for group in entry}
    assert {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} <= groups | {"hydra"}


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["check", "seed=2"], ["snapshot", "--json"], ["schema", "--check"], ["diff", ".", "."]],
    ids=" ".join,
)
def test_what_the_workflow_installs_is_enough(arguments):
    code = f"""
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in {LIGHT | {"omni"}!r} and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"{{name}} is not among what the workflow installs")
sys.meta_path.insert(0, Block())
sys.argv = ["omni.config", *{arguments!r}]
runpy.run_module("omni.config", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text())


def test_the_workflow_gives_nothing_away():
    text = (ROOT / ".github/workflows/config-diff.yml").read_text()
    jobs = workflow("config-diff.yml")["jobs"]
    assert workflow("config-diff.yml")[True] == "pull_request"  # YAML 1.1 reads `on` as true
    assert "secrets." not in text
    assert workflow("config-diff.yml")["permissions"] == {}
    assert jobs["diff"]["permissions"] == {"contents": "read"}
    assert jobs["comment"]["permissions"] == {"pull-requests": "write"}
    assert [step for step in jobs["comment"]["steps"] if "uses" in step] == []  # it checks no code out
    for job in jobs.values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")  # a branch's name would become a command


def test_the_workflow_installs_the_versions_of_the_project():
    (install,) = (s["run"] for s in workflow("config-diff.yml")["jobs"]["diff"]["steps"] if "pip" in s.get("run", ""))
    asked = re.findall(r'"([^"]+)"', install)
    assert asked
    assert set(asked) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {re.split("[<>=]", name)[0].removesuffix("-core") for name in asked} <= LIGHT


def bash(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PATH": f"{cwd}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"} | env
    return subprocess.run(["bash", "-e", "-c", script], cwd=cwd, env=env, capture_output=True, text=True)


def test_the_steps_of_the_workflow_do_their_job(copy):
    """The two scripts, with `gh` replaced by one that writes down what it is asked."""
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    git = "git init -q && git add -A && git {} commit -qm x && git rev-parse HEAD".format(" ".join(names))
    base = bash(git, copy).stdout.strip()
    change(copy / "conf/stage/w1_smoke.yaml", "batch_size: 5", "batch_size: 4")
    jobs = workflow("config-diff.yml")["jobs"]
    (step,) = (step for step in jobs["diff"]["steps"] if step.get("id") == "diff")
    files = {"GITHUB_OUTPUT": str(copy / "output"), "GITHUB_STEP_SUMMARY": str(copy / "summary.md")}
    done = bash(step["run"], copy, BASE=base, **files)
    assert done.returncode == 0, done.stderr
    row = "| `stage.batch_size` | `5` | `4` |"
    assert row in (copy / "summary.md").read_text()
    different, comment = re.fullmatch(
        r"different=(\d)\ncomment<<(?:end_\w{32})\n(.*)\nend_\w{32}\n", (copy / "output").read_text(), re.S
    ).groups()
    assert (different, row in comment) == ("1", True)
    assert bash(step["run"], copy, BASE="nowhere", **files).returncode != 0

    (copy / "bin").mkdir()
    (copy / "bin/gh").write_text('#!/bin/sh\necho "$@" >> asked\ncase "$*" in *--jq*) echo "$OLD";; esac\n')
    (copy / "bin/gh").chmod(0o755)
    script = jobs["comment"]["steps"][0]["run"]
    given = {"COMMENTS": "repos/o/r/issues", "NUMBER": "7", "COMMENT": comment}
    for different, old, asked in (
        ("1", "", "api --silent repos/o/r/issues/7/comments --field body=@body.md"),
        ("1", "42", "api --silent --method PATCH repos/o/r/issues/comments/42 --field body=@body.md"),
        ("0", "42", "api --silent --method PATCH repos/o/r/issues/comments/42 --field body=@body.md"),
        ("0", "", None),
    ):
        (copy / "asked").unlink(missing_ok=True)
        assert bash(script, copy, DIFFERENT=different, OLD=old, **given).returncode == 0
        assert (copy / "asked").read_text().splitlines()[1:] == ([asked] if asked else [])
    assert (copy / "body.md").read_text().startswith("<!-- omni.config diff -->\n### Configuration")
    assert row in (copy / "body.md").read_text()


def test_ci_runs_what_a_fresh_clone_must_pass():
    job = workflow("ci.yml")["jobs"]["run"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert workflow("ci.yml")["permissions"] == {"contents": "read"}
