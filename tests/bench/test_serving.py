"""The load is asked for, counted and told."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_command_loads_a_server_and_tells_what_came_back(tmp_path):
    out = tmp_path / "serving.json"
    line = [sys.executable, "-m", "omni.bench", "serving", "run=data/hearing", "clients=3", "seconds=2", "requests=9"]
    done = subprocess.run([*line, f"out={out}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "0 places taken" in done.stdout
    *loads, fleeting = json.loads(out.read_text())["measures"]
    named = [f"{kind}, {n}" for kind in ("sound", "text") for n in ("1 client", "3 clients")]
    assert [load["what"] for load in loads[1:]] == named
    for load in loads:
        assert list(load["statuses"]) == ["200"]
        assert 0 < load["p50"] <= load["p95"]
        assert load["rate"] > 0
        parts = {name: value for name, value in load["parts"].items() if name.endswith("_ms")}
        assert parts["time_to_first_token_ms"] > 0
    assert fleeting["statuses"] == {"200": 6, "left": 3}
