"""Two sides compared: in a git repository of its own, whose revisions are rendered by their own code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from omni.config.diff import (
    COMMENT_LIMIT,
    LONG,
    Change,
    Comparison,
    Entry,
    as_markdown,
    as_text,
    changes,
    code,
    text_of,
)
from omni.config.generated import checkout
from omni.config.side import Side

NEW_MODULES = ("__main__", "compose", "diff", "generated", "json_schema", "revision", "side", "snapshot")
NEW_EXPERIMENT = "# @package _global_\n# Faster.\nstage:\n  # Rate.\n  lr: 0.5\n"
# A git hook names its own checkout in these.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}


class Checkout:
    """A repository with omni and its conf, in which tests commit."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> str:
        names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        line = ["git", *names, *arguments]
        return subprocess.run(
            line, cwd=self.root, env=ENVIRONMENT, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new))

    def diff(self, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "omni.config", "diff", *arguments]
        return subprocess.run(line, cwd=self.root, env=ENVIRONMENT | env, capture_output=True, text=True, timeout=120)

    def shown(self, *arguments: str, **env: str) -> str:
        done = self.diff(*arguments, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> Checkout:
    """`old` has no omni.config.snapshot, `main` has; `other` left at `old`."""
    repo = Checkout(tmp_path_factory.mktemp("history") / "repo")
    for folder in ("omni", "conf"):
        shutil.copytree(checkout() / folder, repo.root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for group, kept in (("experiment", "w1_seed"), ("stage", "w1_smoke")):  # one is enough, and others may come
        for path in (repo.root / "conf" / group).glob("*.yaml"):
            if path.stem != kept:
                path.unlink()
    held = {name: (repo.root / f"omni/config/{name}.py").read_text() for name in NEW_MODULES}
    for name in NEW_MODULES:
        (repo.root / f"omni/config/{name}.py").unlink()
    repo.git("init", "--quiet", "--initial-branch=main")
    repo.commit("old")
    repo.git("tag", "old")
    for name, text in held.items():
        (repo.root / f"omni/config/{name}.py").write_text(text)
    repo.commit("new")
    return repo


@pytest.fixture
def repo(history, tmp_path) -> Checkout:
    """A clone to change."""
    history.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Checkout(tmp_path / "clone")
    clone.git("tag", "--force", "start")
    return clone


def test_a_changed_value_a_new_and_a_removed_experiment(repo):
    repo.change("conf/stage/w1_smoke.yaml", "  lr: 0.001\n", "  lr: 0.0003\n")
    (repo.root / "conf/experiment/fast.yaml").write_text(NEW_EXPERIMENT)
    (repo.root / "conf/experiment/w1_seed.yaml").unlink()
    repo.commit("change")
    first = repo.git("rev-parse", "--short=7", "start")
    last = repo.git("rev-parse", "--short=7", "HEAD")
    assert repo.shown("start", "HEAD").splitlines() == [
        f"start ({first}) -> HEAD ({last})",
        "",
        "stage/w1_smoke",
        "    stage.lr: 0.001 -> 0.0003",
        "",
        f"experiment/fast: only in HEAD ({last})",
        "",
        f"experiment/w1_seed: only in start ({first})",
        "",
        "1 changed, 2 on one side only, 0 identical",
    ]


def test_the_working_tree_counts_with_what_is_not_committed(repo):
    assert "no difference" not in repo.shown("HEAD")
    assert repo.shown("HEAD").endswith("identical\n")
    repo.change("conf/stage/w1_smoke.yaml", "max_steps: 50", "max_steps: 60")
    (repo.root / "conf/experiment/fast.yaml").write_text(NEW_EXPERIMENT)
    for shown in (repo.shown("HEAD"), repo.shown("HEAD", ".")):
        assert "stage.max_steps: 50 -> 60" in shown
        assert "experiment/fast: only in the working tree" in shown
    assert "stage.max_steps: 60 -> 50" in repo.shown(".", "HEAD")
    assert repo.git("status", "--short").splitlines() == [
        "M conf/stage/w1_smoke.yaml",
        "?? conf/experiment/fast.yaml",
    ]
    assert repo.git("worktree", "list").count("\n") == 0


def test_a_group_reaches_every_experiment_that_uses_it(repo):
    repo.change("conf/backbone/gpt_d6.yaml", "sequence_len: 2048", "sequence_len: 4096")
    shown = repo.shown("HEAD")
    assert shown.count("backbone.sequence_len: 2048 -> 4096") == 2
    assert "2 changed, 0 identical" in shown


def test_each_revision_is_rendered_by_its_own_code(repo):
    """A key renamed in schema, class and YAML alike: today's schema refuses yesterday's YAML, and the other way."""
    repo.change("conf/stage/w1_smoke.yaml", "warmup_steps: 5", "rise_steps: 5")
    repo.change("omni/config/schema.py", "warmup_steps: int = MISSING", "rise_steps: int = MISSING")
    repo.commit("rename")
    for sides in (("start", "HEAD"), ("start",), ("old", "HEAD")):
        shown = repo.shown(*sides)
        assert shown.count("  - stage.warmup_steps: 5\n  + stage.rise_steps: 5") in (0, 2)
        assert shown.count("- stage.warmup_steps: 5") == shown.count("+ stage.rise_steps: 5") == 2
        assert "2 changed, 0 identical" in shown


def test_a_resolver_of_a_revision_is_that_revisions(repo):
    repo.change("omni/training/scaling.py", "math.ceil(64 * n_layer", "math.ceil(128 * n_layer")
    shown = repo.shown("HEAD")
    assert shown.count("    backbone.n_embd: 384 -> 768") == 2


def test_a_revision_from_before_snapshots_is_rendered_all_the_same(repo):
    assert not repo.git("ls-tree", "old", "omni/config/snapshot.py")
    assert repo.shown("old", "start").endswith("\n2 identical\n")
    repo.git("checkout", "--quiet", "-b", "other", "old")
    repo.change("conf/stage/w1_smoke.yaml", "max_steps: 50", "max_steps: 60")
    (repo.root / "conf/experiment/odd.yaml").write_text("# @package _global_\nstage:\n  lrr: 3\n")
    repo.commit("other")
    repo.git("checkout", "--quiet", "main")
    shown = repo.shown("other", "main")
    assert "stage.max_steps: 60 -> 50" in shown
    line = next(line for line in shown.splitlines() if line.startswith("experiment/odd"))
    assert line.startswith("experiment/odd: only in other (")
    assert line.endswith("): stage.lrr: unknown key; did you mean stage.lr?")


def test_the_environment_does_not_reach_the_revisions(repo):
    assert "identical" in repo.shown("old", "HEAD", WHISPER_HF_ID="leaked", WHISPER_MS_ID="leaked")
    assert "changed" not in repo.shown("old", "HEAD", WHISPER_HF_ID="leaked", WHISPER_MS_ID="leaked")


def test_inside_a_git_hook_another_checkout_is_not_meant(repo, tmp_path):
    assert "2 identical" in repo.shown("HEAD", GIT_DIR=str(tmp_path / "elsewhere"), GIT_INDEX_FILE="nowhere")


def test_from_the_merge_base_the_others_work_is_not_shown(repo):
    repo.git("checkout", "--quiet", "-b", "pr")
    repo.change("conf/stage/w1_smoke.yaml", "max_steps: 50", "max_steps: 60")
    repo.commit("mine")
    repo.git("checkout", "--quiet", "main")
    repo.change("conf/stage/w1_smoke.yaml", "batch_size: 5", "batch_size: 4")
    repo.commit("theirs")
    assert "stage.batch_size: 4 -> 5" in repo.shown("main", "pr")
    base = repo.git("rev-parse", "--short=7", "start")
    shown = repo.shown("main", "pr", "--merge-base")
    assert shown.startswith(f"main (merge base {base}) -> pr (")
    assert "stage.max_steps: 50 -> 60" in shown
    assert "batch_size" not in shown
    repo.git("checkout", "--quiet", "pr")
    assert "batch_size" not in repo.shown("main", "--merge-base")


def test_one_broken_experiment_is_named_and_the_others_are_compared(repo):
    repo.change("conf/stage/w1_smoke.yaml", "max_steps: 50", "max_steps: 60")
    repo.commit("change")
    (repo.root / "conf/experiment/w1_seed.yaml").write_text("# @package _global_\nstage: [\n")
    (repo.root / "conf/experiment/lost.yaml").write_text("# @package _global_\nencoder:\n  width: ${nowhere}\n")
    shown = repo.shown("start")
    assert "experiment/w1_seed: does not render in the working tree: conf/experiment/w1_seed.yaml, line 3" in shown
    assert "experiment/lost: only in the working tree; does not render in the working tree: encoder.width: " in shown
    assert "stage.max_steps: 50 -> 60" in shown
    assert "1 changed, 2 broken, 0 identical" in shown
    assert repo.diff("start", "--exit-code").returncode == 1


def test_a_side_whose_code_is_broken_is_not_everything_added(repo):
    repo.change("omni/config/schema.py", "class Stage:", "class Stage(:")
    for sides, label in ((("HEAD",), "the working tree"), ((".", "HEAD"), "the working tree")):
        done = repo.diff(*sides, "--exit-code")
        assert done.returncode == 1
        assert re.search(rf"^{label} does not render: omni/config/schema.py, line \d+: SyntaxError", done.stdout, re.M)
        assert done.stdout.endswith("nothing was compared\n")
        assert "only in" not in done.stdout
    repo.commit("broken")
    repo.change("omni/config/schema.py", "class Stage(:", "class Stage:")
    shown = repo.shown("HEAD", "--markdown")
    assert "does not render:\n\n```\nomni/config/schema.py, line" in shown


def test_a_revision_without_omni_says_so(repo):
    repo.git("checkout", "--quiet", "--orphan", "empty")
    repo.git("rm", "-r", "--quiet", "--cached", ".")
    (repo.root / "only.txt").write_text("x")
    repo.git("add", "only.txt")
    repo.git("commit", "--quiet", "--message", "empty")
    shown = repo.shown("empty", "start")
    assert "does not render: this revision cannot be unpacked" in shown
    done = repo.diff("empty", "start", "--merge-base")
    assert done.returncode == 2
    assert "share no commit here" in done.stderr


def test_the_exit_code_is_asked_for(repo):
    assert repo.diff("HEAD", "--exit-code").returncode == 0
    repo.change("conf/train.yaml", "seed: 1", "seed: 2")
    assert repo.diff("HEAD").returncode == 0
    assert repo.diff("HEAD", "--exit-code").returncode == 1


@pytest.fixture
def run(repo) -> Path:
    """A run folder of experiment=w1_seed, trained with another rate; and a snapshot of the stage."""
    show = [sys.executable, "-m", "omni.config", "show"]
    folder = repo.root / "outputs/runs/w1_smoke/1"
    folder.mkdir(parents=True)
    for overrides, path in (
        (["experiment=w1_seed", "stage.lr=0.5"], folder / "config.yaml"),
        (["stage=w1_smoke"], repo.root / "tests/snapshots/stage/w1_smoke.yaml"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(subprocess.run([*show, *overrides], cwd=repo.root, capture_output=True, text=True).stdout)
    argv = ["python", "-m", "omni.train", "experiment=w1_seed", "stage.lr=0.5"]
    (folder / "run.json").write_text(json.dumps({"argv": argv}))
    return folder


def test_a_run_is_compared_with_the_experiment_it_came_from(repo, run):
    for side in ("HEAD", "."):
        shown = repo.shown("outputs/runs/w1_smoke/1", side).splitlines()
        assert shown[2] == "experiment/w1_seed"
        assert re.fullmatch(r" {4}stage\.lr: 0\.5 -> 0\.001\d*", shown[3])
        assert shown[4:] == ["", "1 changed, 0 identical"]
    assert re.search(r"stage\.lr: 0\.001\d* -> 0\.5", repo.shown("HEAD", str(run)))


def test_a_run_of_a_sweep_over_experiments_is_compared_with_the_nearest(repo, run):
    (repo.root / "conf/experiment/far.yaml").write_text(NEW_EXPERIMENT)
    argv = ["python", "-m", "omni.train", "-m", "experiment=far,w1_seed"]
    (run / "run.json").write_text(json.dumps({"argv": argv}))
    assert "\nexperiment/w1_seed\n" in repo.shown(str(run))


@pytest.mark.parametrize("told", ['{"argv": ["omni-train", "seed=3"]}', "{", '{"argv": null}', None])
def test_a_run_without_an_experiment_is_compared_with_its_stage(repo, run, told):
    (run / "run.json").unlink()
    if told is not None:
        (run / "run.json").write_text(told)
    assert "\nstage/w1_smoke\n" in repo.shown(str(run))


def test_a_run_whose_stage_is_gone_says_what_there_is(repo, run):
    (run / "run.json").write_text('{"argv": ["omni-train", "experiment=gone"]}')
    done = repo.diff(str(run))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {run} is of experiment/gone, and the working tree has only stage/w1_smoke")


def test_runs_and_snapshots_among_themselves(repo, run):
    snapshot = "tests/snapshots/stage/w1_smoke.yaml"
    shown = repo.shown(str(run), snapshot).splitlines()
    assert shown[2] == "configuration"
    assert any(line.startswith("    stage.lr: 0.5 -> ") for line in shown)
    assert "1 identical" in repo.shown(snapshot, snapshot)
    assert repo.shown(snapshot).splitlines()[-1] == "1 identical"
    repo.change(snapshot, "max_steps: 50", "max_steps: 40")
    assert "\nstage/w1_smoke\n    stage.max_steps: 40 -> 50\n" in repo.shown(snapshot)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' names nothing here; a side is a run folder, a snapshot, a git revision, or ."),
        (["mian"], "'mian' names nothing here; did you mean main?"),
        (["main", "mian"], "'mian' names nothing here; did you mean main?"),
        (["conf"], "'conf' is a folder without config.yaml, so no run, and no revision"),
        (["/"], "/ is no run folder: it has no config.yaml"),
        (["omni/train.py"], "omni/train.py: cannot be read"),
        (["conf/broken.yaml"], "conf/broken.yaml: holds no configuration"),
        (["conf", "--merge-base"], "--merge-base is for revisions, and 'conf' is none"),
        (["--", "--upload-pack=x"], "'--upload-pack=x' names nothing here"),
    ],
)
def test_bad_input_is_one_line_with_the_way_out(repo, arguments, message):
    (repo.root / "conf/broken.yaml").write_text("- 1\n")
    done = repo.diff(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_outside_a_checkout_runs_can_still_be_compared(repo, run):
    shutil.rmtree(repo.root / ".git")
    done = repo.diff("HEAD")
    assert done.returncode == 2
    assert "is no git checkout, so it has no revisions" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\nexperiment/w1_seed\n" in repo.shown(str(run))


def test_without_git_it_says_so(repo):
    done = repo.diff("HEAD", PATH="/nowhere")
    assert done.returncode == 2
    assert "git cannot be started" in done.stderr


def lines(old: dict, new: dict) -> list[str]:
    return [str(change) for change in changes(old, new)]


def test_keys_that_came_and_went_are_marked_by_leaf():
    old = {"a": {"b": 1, "gone": {"x": 1, "y": {}}}, "same": [1]}
    new = {"a": {"b": 2, "come": {"z": None}}, "same": [1]}
    assert lines(old, new) == ["  a.b: 1 -> 2", "- a.gone.x: 1", "- a.gone.y: {}", "+ a.come.z: null"]
    assert lines({"gate": {"metric": "loss"}}, {"gate": None}) == ["  gate: {metric: loss} -> null"]
    assert lines({"layers": [-1]}, {"layers": [0, -1]}) == ["  layers: [-1] -> [0, -1]"]


def test_types_are_told_apart_and_order_does_not_count():
    assert lines({"a": 1, "b": 2}, {"b": 2, "a": 1}) == []
    assert lines({"a": 1}, {"a": 1.0}) == ["  a: 1 -> 1.0"]
    assert lines({"a": 1}, {"a": True}) == ["  a: 1 -> true"]
    assert lines({"a": "1"}, {"a": 1}) == ["  a: '1' -> 1"]
    assert lines({"a": None}, {"a": "null"}) == ["  a: null -> 'null'"]
    assert (text_of(0.0005), text_of(3e-5), text_of("a\nb"), text_of([])) == ("0.0005", "3e-05", '"a\\nb"', "[]")


def comparison(*entries: Entry) -> Comparison:
    return Comparison(Side("main"), Side("pr"), list(entries))


def test_markdown_is_a_table_folded_when_long():
    short = Entry("stage/a", [Change("stage.lr", 0.0005, 0.0003)])
    long = Entry("experiment/<b>", [Change(f"k{i}", i, i + 1) for i in range(LONG + 1)])
    text = as_markdown(comparison(short, long, Entry("stage/c", [])))
    assert "### Configuration: `main` → `pr`\n\n2 changed, 1 identical\n" in text
    assert "#### `stage/a`\n\n| key | before | after |\n|---|---|---|\n| `stage.lr` | `0.0005` | `0.0003` |" in text
    assert f"<details><summary><code>experiment/&lt;b&gt;</code>: {LONG + 1} keys</summary>\n\n| key" in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert "stage/c" not in text


def test_markdown_of_odd_values_stays_in_its_cell():
    entry = Entry("stage/a", [*changes({"a": "x|y", "b": 1}, {"a": "`@you` <img>", "c": 1})])
    rows = as_markdown(comparison(entry)).splitlines()
    assert "| `a` | `x\\|y` | `` '`@you` <img>' `` |" in rows
    assert "| `b` | `1` | *absent* |" in rows
    assert "| `c` | *absent* | `1` |" in rows
    assert code("a``b") == "``` a``b ```"


def test_markdown_says_what_is_only_on_one_side_and_what_is_broken():
    text = as_markdown(comparison(Entry("stage/a", [], only_in="pr"), Entry("stage/b", [], broken="in pr: ```x")))
    assert "1 on one side only, 1 broken, 0 identical" in text
    assert "#### `stage/a`\n\nOnly in `pr`." in text
    assert "````\nin pr: ```x\n````" in text


def test_a_comment_stays_below_what_github_takes():
    entries = [Entry(f"stage/{i}", [Change(f"key{j}", "x" * 50, "y" * 50) for j in range(20)]) for i in range(60)]
    text = as_markdown(comparison(*entries))
    assert COMMENT_LIMIT / 2 < len(text) < 65_536
    assert "Too long to show here: " in text
    assert text.count("<details>") == text.count("</details>")
    assert "stage/59" in as_text(comparison(*entries))
