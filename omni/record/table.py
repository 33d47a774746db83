"""Run folders as a table: a row a configuration, a column a key that differs, seeds folded, the best first.

Reads files only, and imports neither torch nor hydra, so that a hundred runs are compared in a second.
"""

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from omni.errors import OmniError
from omni.record.columns import cells, choose_columns, differing_keys
from omni.record.metrics import HIGHER, LOWER, best_of, better
from omni.record.outcome import STATES, Outcome, Skipped, clean, natural, read_outcomes
from omni.record.style import short

COMMIT = "commit"


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seed.

    `values` are the shown keys' cells. `mean`, `deviation` and `n` are of the metric's last value over the runs
    that finished (over all, when none did) and have one: None without any, the sample deviation from two on.
    `best` is the best value any of them had at any step, `seconds` the mean wall time of one run.
    """

    values: dict[str, str]
    runs: list[Outcome]
    mean: float | None
    deviation: float | None
    n: int
    best: float | None
    seconds: float | None

    @property
    def rank(self) -> int:
        """How well the worst of its runs ended, 0 the best; see `outcome.STATES`."""
        return max(STATES.index(run.state) for run in self.runs)

    @property
    def status(self) -> str:
        """The status its runs share, or how many have which."""
        count = Counter(run.status for run in sorted(self.runs, key=lambda run: STATES.index(run.state)))
        return next(iter(count)) if len(count) == 1 else ", ".join(f"{number} {name}" for name, number in count.items())

    @property
    def gate(self) -> str:
        """pass, fail, or how many of its seeds passed; a dash where none was judged."""
        verdicts = [run.gate_passed for run in self.runs if run.gate]
        if len(set(verdicts)) == 2:
            return f"{sum(verdicts)}/{len(verdicts)} pass"
        return "–" if not verdicts else "pass" if verdicts[0] else "fail"

    @property
    def count(self) -> str:
        """n, and out of how many where some runs have no say in the mean."""
        return str(self.n) if self.n == len(self.runs) else f"{self.n}/{len(self.runs)}"


@dataclass(frozen=True)
class Table:
    """Rows, the best first and the failed last, with the dotted `keys` their values belong to.

    `best` is the row to take, None when no row finished whole, or no value of the metric is better than another.
    `root` is the folder that run names are relative to. `differing` holds every key that differs, the ones too that
    `keys` leaves out; `notes` say what a reader must know to trust the numbers, `skipped` which folders are not in it.
    """

    metric: str
    keys: list[str]
    rows: list[Row]
    root: Path
    differing: list[str]
    best: Row | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def name(self, folder: Path) -> str:
        """A folder as the table calls it."""
        return clean(os.path.relpath(folder, self.root)) or clean(folder.name)

    def row_name(self, row: Row) -> str:
        """The runs of a row: "sweep/0, 1", or "sweep/0 … 7 (8)" from four on."""
        folders = [run.folder for run in row.runs]
        # A neighbour of the first needs no path of its own.
        near = [folder.parent == folders[0].parent for folder in folders]
        names = [self.name(folders[0])]
        names += [clean(folders[i].name) if near[i] else self.name(folders[i]) for i in range(1, len(folders))]
        return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]} ({len(names)})"

    @property
    def runs(self) -> list[Outcome]:
        """Every run, in the order of the rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def troubles(self) -> list[tuple[str, str]]:
        """(run, status and first error line) for each that did not pass, then each unreadable metrics.csv."""
        ended = [(self.name(run.folder), f"{run.status}: {run.error}") for run in self.runs if run.error]
        return ended + [(self.name(run.folder), run.warning) for run in self.runs if run.warning]


def read_table(paths: Iterable[str | Path], metric: str | None = None) -> Table:
    """Compare every run below the paths by a metric's last value; without one by what their sweep searched for, else by
    the loss, if there is a loss.

    Raises OmniError when a path is no folder, no run is found or no run logged the metric.
    """
    paths = [Path(path) for path in paths]
    runs, skipped = read_outcomes(paths)
    if not runs:
        reasons = "; ".join(f"{skip.folder}: {skip.reason}" for skip in skipped[:3])
        raise OmniError(f"nothing to compare: {reasons or 'no folder was named'}")
    metric = _choose_metric(runs, metric)
    differing = differing_keys(runs)
    keys, along = choose_columns(runs, differing)
    by_commit = _repeats_over_commits(runs, differing)
    shown = {key: cells(key, [run.config.get(key) for run in runs]) for key in keys}
    groups: dict[tuple, list[Outcome]] = {}
    for run in runs:
        same = tuple(run.config.get(key) for key in differing)
        groups.setdefault((run.stage, *same, run.commit if by_commit else ""), []).append(run)
    rows = []
    for group in groups.values():
        values = {key: shown[key][group[0].config.get(key)] for key in keys}
        rows.append(_fold(group, metric, values | ({COMMIT: group[0].commit or "–"} if by_commit else {})))
    sign = {LOWER: 1, HIGHER: -1}.get(better(metric), 0)
    rows.sort(key=lambda row: (row.rank, row.mean is None, sign * (row.mean or 0), natural(row.runs[0].folder)))
    ranked = sign and len(rows) > 1 and rows[0].rank <= STATES.index("missed") and rows[0].mean is not None
    best = rows[0] if ranked else None
    root = Path(os.path.commonpath([run.folder.parent for run in runs]))
    notes = _notes(runs, rows, metric, along, by_commit)
    return Table(metric, keys + [COMMIT] * by_commit, rows, root, differing, best, notes, skipped)


def _choose_metric(runs: Sequence[Outcome], asked: str | None) -> str:
    known = list(dict.fromkeys(name for run in runs for name in run.summary))
    searched = {run.config.get("sweep.objective") for run in runs}
    if asked is None and len(searched) == 1 and searched <= {*known}:
        return searched.pop()
    if asked is None:
        # What every run that measured anything has, before what only some of them have.
        everywhere = [name for name in known if all(name in run.summary for run in runs if run.summary)]
        losses = [name for name in everywhere + known if "loss" in name.lower()]
        return next(iter([name for name in losses if name == "loss"] + losses + everywhere + known), "loss")
    if known and asked not in known:
        near = get_close_matches(asked, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise OmniError(f"metric: no run logged {asked!r}; there are {', '.join(known)}.{hint}")
    return asked


def _repeats_over_commits(runs: Sequence[Outcome], differing: Sequence[str]) -> bool:
    """Whether the same configuration and seed was run from several commits: then the code is what differs."""
    commits: dict[tuple, set[str]] = {}
    for run in runs:
        same = (run.seed, run.stage, *(run.config.get(key) for key in differing))
        commits.setdefault(same, set()).add(run.commit)
    return any(len(several) > 1 for several in commits.values())


def _fold(group: list[Outcome], metric: str, values: dict[str, str]) -> Row:
    counted = [run for run in group if run.finished] or group
    last = [value for run in counted if (value := run.value(metric)) is not None]
    best = [value for run in counted if (value := run.value(metric, "best")) is not None]
    seconds = [run.seconds for run in counted if run.seconds is not None]
    return Row(
        values=values,
        runs=sorted(group, key=lambda run: (STATES.index(run.state), natural(Path(run.seed)), natural(run.folder))),
        mean=statistics.fmean(last) if last else None,
        deviation=statistics.stdev(last) if len(last) > 1 else None,
        n=len(last),
        best=best_of(metric, best),
        seconds=statistics.fmean(seconds) if seconds else None,
    )


def _notes(runs: list[Outcome], rows: list[Row], metric: str, along: dict[str, list[str]], split: bool) -> list[str]:
    notes = []
    if any(len(row.runs) > 1 for row in rows):
        notes.append("n runs that differ in their seed alone are one row: mean ± sample deviation of the last value.")
    if any(len({run.seed for run in row.runs}) < len(row.runs) for row in rows):
        notes.append("Some rows hold the same seed more than once.")
    stages = sorted({run.stage or "unnamed" for run in runs})
    if len(stages) > 1:
        notes.append(f"Runs of different stages ({', '.join(stages)}) are compared only on the keys they share.")
    without = sorted({run.stage for run in runs} - {run.stage for run in runs if metric in run.summary})
    if len(without) < len(stages) and without:
        notes.append(f"{metric} was not logged by any run of {', '.join(without)}.")
    for key, others in along.items():
        notes.append(f"{key} tells the same runs apart as {', '.join(others)}; only the first is shown.")
    commits = sorted({run.commit or "an unknown one" for run in runs})
    if len(commits) > 1:
        listed = ", ".join(commits[:5]) + ", …" * (len(commits) > 5)
        marked = "; + has changes that were not committed" * any(commit.endswith("+") for commit in commits)
        folded = "" if split or not any(len(row.runs) > 1 for row in rows) else ", which the rows do not tell apart"
        notes.append(f"The runs come from {len(commits)} states of the code ({listed}{marked}){folded}.")
    return [clean(note) for note in notes]


def plus_minus(row: Row) -> str:
    """mean ± deviation, the deviation in two digits and the mean to the same decimals; a dash without a value."""
    if row.mean is None:
        return "–"
    if not row.deviation or not 1e-3 <= abs(row.mean) < 1e5:
        return figure(row.mean) if row.deviation is None else f"{figure(row.mean)} ± {short(row.deviation)}"
    decimals = 0
    while row.deviation * 10**decimals < 9.95 and decimals < 5:
        decimals += 1
    return f"{row.mean:.{decimals}f} ± {row.deviation:.{decimals}f}"


def figure(value: float | None) -> str:
    """A measured value in four digits; a dash without one."""
    if value is None:
        return "–"
    return f"{value:#.4g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 else short(value)


def duration(seconds: float | None) -> str:
    """Seconds, to a tenth below a hundred; a dash without."""
    return "–" if seconds is None else f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"
