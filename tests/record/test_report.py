import base64
import csv
import json
import math
import re
import struct
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from omni.errors import OmniError
from omni.record import report
from omni.record.overlay import read_curve
from omni.record.report import write_report
from omni.record.table import read_table

FILES = ["compare.csv", "compare.html", "compare.md", "compare.png"]
BLUE, ORANGE, GREEN = (47, 111, 179), (217, 131, 36), (42, 138, 74)


def fake(folder: Path, losses: list[float], *, seed: int = 1, stage: dict | None = None, **about) -> Path:
    folder.mkdir(parents=True)
    config = {"seed": seed, "stage": {"name": "w1", "lr": 0.1} | (stage or {})}
    ends = {"first": losses[0], "last": losses[-1], "best": min(losses)} if losses else None
    run = {"status": "passed", "error": None, "stage": "w1", "seconds": 2.5, "metrics": {"loss": ends} if ends else {}}
    (folder / "config.yaml").write_text(json.dumps(config, ensure_ascii=False))
    (folder / "run.json").write_text(json.dumps(run | about))
    rows = [f"{step},{loss!r}" for step, loss in enumerate(losses, 1)]
    (folder / "metrics.csv").write_text("\n".join(["step,loss", *rows]) + "\n")
    return folder


def falling(steps: int, floor: float = 1.0) -> list[float]:
    return [floor + 4 * math.exp(-step / 20) for step in range(steps)]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for number, (lr, seed) in enumerate([(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]):
        fake(tmp_path / str(number), falling(60, lr * 10 + seed / 10), seed=seed, stage={"lr": lr})
    return tmp_path


def draw(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The picture as RGB, and every text painted into it."""
    said, paint = [], Text.draw

    def listen(self: Text, renderer: object) -> None:
        said.append(self.get_text())
        paint(self, renderer)

    with patch.object(Text, "draw", listen):
        write_report(folder, html=False)
    return (imread(folder / "compare.png")[..., :3] * 255).round().astype(int), said


def amount(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((abs(picture - color).max(axis=-1) < 12).sum())


class Page(HTMLParser):
    """What a browser would see: the tags, the texts, the cells of the table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self.rows, self.sources = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_report_is_four_files_and_no_litter(sweep: Path) -> None:
    table, files = write_report(sweep)
    assert sorted(path.name for path in files) == FILES
    assert sorted(path.name for path in sweep.iterdir()) == ["0", "1", "2", "3", *FILES]
    assert len(table.rows) == 2


def test_the_csv_holds_every_run_unrounded(sweep: Path) -> None:
    third = 1 / 3
    fake(sweep / "4", [5.0, third], seed=3, status="failed", error='a, "b"', stage={"lr": 'x,"y"\nz'})
    write_report(sweep)
    with (sweep / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert float(rows[4]["loss_last"]) == third
    assert rows[4]["stage.lr"] == 'x,"y"\nz'
    assert (rows[4]["status"], rows[4]["error"], rows[4]["seed"]) == ("failed", 'a, "b"', "3")
    assert float(rows[0]["seconds"]) == 2.5


def test_the_markdown_is_a_table_with_its_footnotes(sweep: Path) -> None:
    write_report(sweep)
    lines = (sweep / "compare.md").read_text().splitlines()
    assert lines[0] == "| run | stage.lr | loss | best | n | seconds | gate | status |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |"
    assert re.fullmatch(r"\| \*\*0, 1\*\* \| \*\*0.1\*\* \| \*\*1.359 ± 0.071\*\* \|.*", lines[2])
    assert lines[3].startswith("| 2, 3 | 0.2 | 2.359 ± 0.071 | 2.309 | 2 | 2.5 | – | passed |")
    assert lines[4] == ""
    assert lines[5].startswith("- n runs that differ in their seed alone")


def test_values_break_neither_the_markdown_nor_the_page(tmp_path: Path) -> None:
    evil = [
        "a|b\nc",
        "<script>alert(1)</script>",
        "`*_[x](y)_*`",
        "@you #1 & $x$",
        '"><img src=x onerror=y>',
        "日本語 🙂",
    ]
    for number, value in enumerate(evil):
        fake(tmp_path / f"r{number}", [2.0, 1.0 + number], stage={"lr": value}, status="failed", error=f"{value}\nmore")
    write_report(tmp_path)
    text = (tmp_path / "compare.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(evil)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert not re.search(r"<(script|img)|#1|@you|[^\\]\$", text)
    assert "日本語 🙂" in text
    html = (tmp_path / "compare.html").read_text()
    page = Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    cells = [row[1] for row in page.rows if len(row) == 8][1:]
    assert cells == ["a|b c", *evil[1:]]


def test_the_page_needs_no_other_file_and_sorts(sweep: Path) -> None:
    (sweep / "0" / "curve.png").write_bytes(b"\x89PNG the curve of one run")
    fake(sweep / "4", [], status="failed", error="boom", stage={"lr": 3})
    write_report(sweep)
    html = (sweep / "compare.html").read_text()
    page = Page(html)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", html)
    pictures = [base64.b64decode(source.partition(",")[2]) for source in page.sources]
    assert pictures == [(sweep / "compare.png").read_bytes(), b"\x89PNG the curve of one run"]
    head = page.rows[0]
    assert [name.strip() for name in head] == ["run", "stage.lr", "loss", "best", "n", "seconds", "gate", "status"]
    assert sum(tag == "button" for tag, _ in page.tags) == len(head)
    assert sum(tag == "details" for tag, _ in page.tags) == 5
    kinds = [attributes.get("class") for tag, attributes in page.tags if tag == "tr"]
    assert kinds == [None, "best", None, None]
    values = [
        attributes.get("data-value") for tag, attributes in page.tags if attributes.get("class") == "number metric"
    ]
    assert float(values[0]) == pytest.approx(1.359, abs=1e-3)
    assert values[2] == "–"
    assert "prefers-color-scheme: dark" in html


def test_curves_lie_over_each_other_with_a_band_and_a_legend(sweep: Path) -> None:
    picture, said = draw(sweep)
    assert struct.unpack(">II", (sweep / "compare.png").read_bytes()[16:24]) == (1560, 735)
    assert amount(picture, BLUE) > 2000
    assert amount(picture, ORANGE) > 1000
    # The band of the best row: its colour at less than a fifth.
    assert amount(picture, tuple(int(255 - 0.18 * (255 - part)) for part in BLUE)) > 500
    assert {"lr 0.1\n1.359 ± 0.071  best", "lr 0.2\n2.359 ± 0.071", "loss", "step"} <= set(said)
    assert "lower is better · 4 runs in 2 rows, band: ±1 deviation over seeds" in said


def test_the_legend_says_all_that_tells_the_rows_apart(tmp_path: Path) -> None:
    for number, stage in enumerate([{"init": "norm_matched", "gate": "true"}, {"init": "zero"}]):
        about = {"projector": "StackMLP", "stack": number} | stage
        fake(tmp_path / str(number), [3.0, 2.0 + number], stage=about | {f"only_{number}": "x" * 20})
    _, said = draw(tmp_path)
    (best,) = (" ".join(text.split()) for text in said if text.endswith("best"))
    assert {"init norm_matched", "gate true", f"only_0 {'x' * 20}", "stack 0"} <= set(
        pair.group() for pair in re.finditer(r"\S+ \S+", best)
    )
    assert "–" not in best


def test_a_curve_that_lies_on_another_hides_none(tmp_path: Path) -> None:
    for number in range(3):
        fake(tmp_path / str(number), [3.0, 2.0, 1.0 + 1e-6 * number], stage={"lr": number})
    picture, _ = draw(tmp_path)
    assert min(amount(picture[:, :1200], color) for color in (BLUE, ORANGE, GREEN)) > 500


def test_many_rows_keep_a_short_legend(tmp_path: Path) -> None:
    for number in range(150):
        fake(tmp_path / str(number), falling(40, 1 + number / 50), stage={"lr": number})
    _, said = draw(tmp_path)
    assert "140 more, 28 of them drawn" in said
    assert sum(text.startswith("lr ") for text in said) == 10


def test_a_spike_does_not_flatten_the_others(tmp_path: Path) -> None:
    for number in range(12):
        losses = falling(60, 1 + number / 20)
        if number == 11:
            losses[5:] = [1e6] * 55
        fake(tmp_path / str(number), losses, stage={"lr": number})
    _, said = draw(tmp_path)
    assert "4" in said
    assert not [text for text in said if re.fullmatch(r"[\d.]+e\d+|\d{5,}", text)]


def test_seeds_of_different_length_are_averaged_where_all_are(tmp_path: Path) -> None:
    fake(tmp_path / "0", [4.0, 2.0, 1.0], seed=1)
    fake(tmp_path / "1", [6.0, 4.0, 3.0, 100.0], seed=2)
    fake(tmp_path / "2", [1e9], seed=3, status="failed", error="boom")
    (row,) = read_table([tmp_path]).rows
    curve = read_curve(row, "loss")
    assert (curve.steps, curve.mean) == ([1, 2, 3], [5.0, 3.0, 2.0])
    assert curve.deviation == pytest.approx([math.sqrt(2)] * 3)
    assert len(curve.raw) == 2


def test_noise_is_smoothed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 400)
    fake(tmp_path / "0", (2 + noise).tolist())
    (row,) = read_table([tmp_path]).rows
    curve = read_curve(row, "loss")
    assert np.std(curve.mean[10:]) < 0.12
    assert curve.raw[0][7] == (8, 2 + noise[7])


@pytest.mark.parametrize(
    "losses", [[], [2.0], [math.nan, 1.0], [0.0] * 50, [-1.0, 1e7], [1e-9, 5.0], [math.inf] * 3, [1e300, 2.0]]
)
def test_odd_runs_still_make_a_report(tmp_path: Path, losses: list[float], recwarn: pytest.WarningsRecorder) -> None:
    fake(tmp_path / "odd $x_{", losses, metrics=None, status="running", stage={"lr": "$y_{ \\frac 日本 " * 5})
    (fake(tmp_path / "gone", [1.0], stage={"lr": "b"}) / "metrics.csv").unlink()
    (fake(tmp_path / "broken", [1.0], stage={"lr": "c"}) / "metrics.csv").write_text("no,header\n")
    write_report(tmp_path)
    height, width = imread(tmp_path / "compare.png").shape[:2]
    assert (height, width >= 1560) == (735, True)
    assert [str(warning.message) for warning in recwarn] == []


def test_names_that_are_no_utf8_do_not_stop_the_report(tmp_path: Path) -> None:
    fake(tmp_path / "a", [1.0])
    try:
        (tmp_path / "a").rename(tmp_path / "\udcff")
    except OSError:
        pytest.skip("this file system knows utf-8 names only")
    fake(tmp_path / "b", [1.0], status="failed", error="half a pair: \ud800")
    write_report(tmp_path)
    for name in FILES[:3]:
        (tmp_path / name).read_text(encoding="utf-8")


def test_an_old_page_is_brought_up_to_date(sweep: Path) -> None:
    write_report(sweep, html=False)
    assert not (sweep / "compare.html").exists()
    (sweep / "compare.html").write_text("old")
    _, files = write_report(sweep, html=False)
    assert len(files) == 4
    assert "loss of 4 runs" in (sweep / "compare.html").read_text()


def test_a_folder_that_cannot_be_written_is_said_after_the_table_was_shown(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    shown = []
    with pytest.raises(OmniError, match=r"cannot be written.*--out"):
        write_report(tmp_path / "file", [sweep], show=shown.append)
    assert len(shown) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_report_that_breaks_off_leaves_the_old_one(sweep: Path) -> None:
    write_report(sweep)
    before = (sweep / "compare.png").read_bytes()
    with (
        patch("matplotlib.figure.Figure.savefig", side_effect=OSError("no space")),
        pytest.raises(OmniError, match="no space"),
    ):
        write_report(sweep)
    assert (sweep / "compare.png").read_bytes() == before
    assert not [path for path in sweep.iterdir() if path.name.startswith(".")]


JOB = """
import sys
sys.path.insert(0, sys.argv[3])
from test_report import fake, write_report
from pathlib import Path
sweep, number = Path(sys.argv[1]), sys.argv[2]
for turn in range(3):
    fake(sweep / f"{number}{turn}", [2.0, 1.0], seed=int(number) * 10 + turn)
    write_report(sweep)
"""


def test_processes_that_refresh_at_once_leave_a_report_of_all_runs(tmp_path: Path) -> None:
    line = [sys.executable, "-c", JOB, str(tmp_path)]
    here = str(Path(__file__).parent)
    jobs = [subprocess.Popen([*line, str(n), here], stderr=subprocess.PIPE, text=True) for n in range(1, 5)]
    for job in jobs:
        _, errors = job.communicate(timeout=120)
        assert job.returncode == 0, errors
    assert len((tmp_path / "compare.csv").read_text().splitlines()) == 1 + 12
    assert "loss of 12 runs" in (tmp_path / "compare.html").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_late_writer_waits_and_reads_what_was_finished_meanwhile(sweep: Path) -> None:
    tables = []
    with report._locked(sweep):
        late = threading.Thread(target=lambda: tables.append(write_report(sweep)[0]))
        late.start()
        late.join(0.5)
        assert late.is_alive()
        fake(sweep / "4", [1.0], seed=9)
    late.join(30)
    assert len(tables[0].runs) == 5


def test_who_waited_for_a_lock_that_is_gone_still_locks_out_others(tmp_path: Path) -> None:
    kept = []

    def wait() -> None:
        with report._locked(tmp_path):
            kept.append((tmp_path / report.LOCK).exists())

    with report._locked(tmp_path):
        late = threading.Thread(target=wait)
        late.start()
        late.join(0.5)
    late.join(30)
    # A newcomer must find the file that the other holds.
    assert kept == [True]
