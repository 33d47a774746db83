"""What omni imports is declared, and what is declared is pinned."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
DECLARED = [Requirement(line) for lines in GROUPS for line in lines]
OWNERS = {"hydra": "hydra-core", "parselmouth": "praat-parselmouth", "yaml": "pyyaml"}
"""The distributions of modules that are called otherwise."""
UNDECLARED = {
    "ctranslate2",  # what omni.bench measures beside omni, where somebody has it
    "tinysoundfont",  # installed by the Makefile, without the dependency it declares
}


@pytest.mark.parametrize("folder", ["omni", "tests"])
def test_what_is_imported_is_declared(folder):
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    files = sorted((ROOT / folder).rglob("*.py"))
    known = {"omni", *UNDECLARED, *sys.stdlib_module_names, *(path.stem for path in files)}
    for path in files:
        # Also what stands in a script inside a string.
        imported = re.findall(r"^ *(?:import (\w+)|from (\w+)[\w.]* import )", path.read_text(), re.MULTILINE)
        for top in set(map("".join, imported)) - known:
            assert canonicalize_name(OWNERS.get(top, top)) in declared, f"{path} imports {top}"


def test_what_is_declared_is_pinned_to_a_version_that_is_asked_for():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ; .+)?", line).groups()[:2]  # so no address either
            pins.setdefault(name, []).append(version)
    for requirement in DECLARED:
        versions = pins[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement
