import math
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from omni.errors import OmniError
from omni.record.curve import draw_curve
from omni.record.metrics import CsvLogger

BLUE, GREEN, RED, ORANGE = (47, 111, 179), (42, 138, 74), (194, 59, 50), (217, 131, 36)
TEAL, FAINT = (77, 154, 148), (138, 144, 153)


def draw(tmp_path: Path, rows: list[dict[str, float]], title: str = "a run", gate: Sequence[dict] = ()):
    """The picture as RGB bytes, and every text that was painted into it."""
    logger = CsvLogger(tmp_path)
    for step, values in enumerate(rows, 1):
        logger.log(step, values)
    logger.finish("passed")
    said, paint = [], Text.draw

    def listen(self: Text, renderer: object) -> None:
        said.append(self.get_text())
        paint(self, renderer)

    with patch.object(Text, "draw", listen):
        draw_curve(tmp_path / "metrics.csv", tmp_path / "curve.png", title=title, gate=gate)
    picture = imread(tmp_path / "curve.png")
    return (picture[..., :3] * 255).round().astype(int), said


def amount(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((abs(picture - color).max(axis=-1) < 12).sum())


def falling(steps: int) -> list[dict[str, float]]:
    return [{"loss": 1 + 3 * math.exp(-step / 50), "lr": 3e-4 * step / steps} for step in range(steps)]


def test_the_picture_shows_the_curve_its_ends_and_the_learning_rate(tmp_path: Path) -> None:
    picture, said = draw(tmp_path, falling(200), title="w2_align · mlp")
    assert struct.unpack(">II", (tmp_path / "curve.png").read_bytes()[16:24]) == (1200, 705)
    assert amount(picture, BLUE) > 2000
    assert {"w2_align · mlp", "4", "1.06", "step", "loss", "lr"} <= set(said)
    assert "PASS" not in said
    assert "FAIL" not in said


@pytest.mark.parametrize(("passed", "verdict", "color"), [(True, "PASS", GREEN), (False, "FAIL", RED)])
def test_the_verdict_is_in_the_title(tmp_path: Path, passed: bool, verdict: str, color: tuple) -> None:
    gate = [{"metric": "loss", "threshold": 1.5, "value": 1.06, "passed": passed}]
    picture, said = draw(tmp_path, falling(200), gate=gate)
    assert verdict in said
    assert "loss 1.06, asked at most 1.5" in said
    assert "gate 1.5" in said
    assert amount(picture[:100, 600:], color) > 200


def test_noise_is_smoothed_without_bending_the_ends(tmp_path: Path) -> None:
    from omni.record.style import smooth

    noise = np.random.default_rng(0).normal(0, 0.3, 400)
    trend = np.linspace(5, 1, 400)
    smoothed = np.array(smooth(list(trend + noise)))
    assert abs(smoothed - trend)[20:].mean() < 0.1
    assert len(smoothed) == 400
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)


def test_a_validation_loss_is_drawn_too(tmp_path: Path) -> None:
    rows = falling(100)
    rows[49]["val_loss"], rows[99]["val_loss"] = 2.0, 1.5
    picture, said = draw(tmp_path, rows)
    assert amount(picture, ORANGE) > 300
    assert {"val_loss 1.5", "loss 1.41"} <= set(said)  # at the lines' ends


def test_the_five_losses_of_a_look_are_named_where_they_end_and_no_name_lies_on_another(tmp_path: Path) -> None:
    rows, names = falling(100), ("matched", "shuffled", "silence", "none", "transcript")
    rows[49] |= {f"loss_{name}": 3.0 for name in names}
    rows[99] |= {f"loss_{name}": 3.0 + 0.01 * place for place, name in enumerate(names)}
    ends, write = [], Text.draw

    def listen(self: Text, renderer: object) -> None:
        if self.get_text().startswith("loss_"):
            ends.append(self.get_window_extent(renderer))
        write(self, renderer)

    with patch.object(Text, "draw", listen):
        draw(tmp_path, rows)
    assert len(ends) == 5
    assert all(end.x0 > 0.915 * 1200 for end in ends)
    ends.sort(key=lambda end: end.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(ends))


def test_a_loss_that_lies_on_another_hides_none(tmp_path: Path) -> None:
    rows = falling(100)
    for step in (24, 49, 74, 99):
        rows[step] |= {f"loss_{name}": 3.0 for name in ("matched", "shuffled", "silence", "none")}
    picture, _ = draw(tmp_path, rows)
    names = picture[:, :1110]  # without what is written at the lines' ends
    assert min(amount(names, color) for color in (TEAL, FAINT)) > 300


def test_many_losses_are_all_drawn(tmp_path: Path) -> None:
    rows = [{"loss": 1.0} | {f"loss_{number}": 1.0 + number for number in range(8)} for _ in range(3)]
    _, said = draw(tmp_path, rows)
    assert {f"loss_{number} {number + 1}" for number in range(8)} <= set(said)


def test_steps_that_are_not_finite_are_marked(tmp_path: Path) -> None:
    rows = falling(100)
    rows[10]["loss"], rows[20]["loss"], rows[99]["loss"] = math.nan, math.inf, -math.inf
    picture, said = draw(tmp_path, rows)
    assert "3 steps not finite" in said
    assert amount(picture, RED) > 20
    assert amount(picture, BLUE) > 2000


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "nothing was logged"),
        ([{"loss": 2.5, "lr": 0.0}], "2.5"),
        ([{"loss": math.nan}], "1 step not finite"),
        ([{"loss": math.inf, "lr": math.nan}] * 3, "3 steps not finite"),
        ([{"lr": 0.1}] * 3, "nothing was logged"),
        ([{"accuracy": 0.25}, {"accuracy": 0.75}], "0.75"),
        ([{"loss": 0.0}] * 40, "0"),
        ([{"loss": -2.0}, {"loss": 3e5}], "300,000"),
        ([{"loss": 1e-300}, {"loss": 3.0}, {"loss": 3e38}], "1 step not finite"),
        ([{"a $b_{": 1.5, "c": 1.0}], "a $b_{"),
    ],
)
def test_odd_runs_still_make_a_picture(tmp_path: Path, rows: list, expected: str) -> None:
    picture, said = draw(tmp_path, rows, title="odd $x_{ \\frac" * 9, gate=[{"metric": "$q_{", "value": None}])
    assert picture.shape[0] == 705
    assert picture.shape[1] >= 1200
    assert expected in said


def test_a_picture_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    old = tmp_path / "curve.png"
    old.write_bytes(b"old")
    with pytest.raises(OmniError, match="cannot be read"):
        draw_curve(tmp_path / "none.csv", old, title="", gate=[])

    def break_off(path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    with (
        patch("matplotlib.figure.Figure.savefig", side_effect=break_off),
        pytest.raises(OSError, match="no space"),
    ):
        draw(tmp_path, falling(5))
    assert old.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "metrics.csv"]


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n")
    code = """if True:
        import sys
        from pathlib import Path
        from omni.record.curve import draw_curve
        assert "matplotlib" not in sys.modules
        draw_curve(Path("metrics.csv"), Path("curve.png"), title="t", gate=[])
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
