"""The walls of the house: which room may import what, and who may print."""

import ast
from pathlib import Path

import pytest

OMNI = Path(__file__).parents[1] / "omni"
INNER = [
    path
    for room in (
        "audio",
        "text",
        "data",
        "corpora",
        "model",
        "generation",
        "training",
        "evaluation",
        "speech",
        "instructions",
        "serving",
    )
    for path in sorted((OMNI / room).rglob("*.py"))
]
FORBIDDEN = {"hydra", "omegaconf", "wandb"}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_the_rooms_are_there():
    assert len(INNER) > 15


@pytest.mark.parametrize("path", INNER, ids=lambda path: path.relative_to(OMNI).as_posix())
def test_inner_rooms_know_no_configuration_and_do_not_print(path):
    assert not tops(path) & FORBIDDEN
    assert not any(name.startswith(("omni.config", "omni.record")) for name in imports(path))
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_data_knows_neither_where_a_corpus_comes_from_nor_what_reads_it():
    for path in (OMNI / "data").glob("*.py"):
        assert not any(name.startswith(("omni.corpora", "omni.model")) for name in imports(path)), path


def test_hydra_lives_in_config_and_the_thin_commands():
    users = {path.relative_to(OMNI).as_posix() for path in OMNI.rglob("*.py") if tops(path) & {"hydra", "omegaconf"}}
    thin = {"train.py", "export.py", "generate.py", "evaluate.py", "serve.py", "bench/__main__.py"}
    assert {user for user in users if not user.startswith("config/")} <= thin


def test_the_package_itself_is_light():
    assert imports(OMNI / "__init__.py") <= {"os"}
