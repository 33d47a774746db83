"""compare.html: one file that needs no other, to open, sort, unfold and send to a colleague."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from omni.record.columns import header
from omni.record.gate import in_words
from omni.record.outcome import Outcome
from omni.record.table import Row, Table, duration, figure, plus_minus

# Each run's own curve is some 50 kB; a page of two thousand could not be opened.
PICTURES = 24
DETAILS = 500

STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --faint: #6b727b; --line: #e3e6ea; --ground: #fff; --soft: #f6f7f9;
  --blue: #2f6fb3; --green: #2a8a4a; --red: #c23b32; --best: #eaf5ed; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #98a1ab; --line: #30363d; --ground: #15181c;
  --soft: #1d2126; --blue: #6ea8e0; --green: #5dc27f; --red: #f0837b; --best: #17291d; }
  img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; } }
body { margin: 0 auto; max-width: 1180px; padding: 2.2rem 1.2rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.45rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2.2rem 0 0.5rem; }
p, li { color: var(--faint); margin: 0.2rem 0; } ul { padding-left: 1.2rem; } li b { color: var(--ink); }
img { display: block; max-width: 100%; margin: 1.4rem 0; }
details img { max-width: min(100%, 42rem); } li, dd { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 0.42rem 0.75rem; text-align: left; border-bottom: 1px solid var(--line); max-width: 30rem;
  overflow-wrap: break-word; }
th { position: sticky; top: 0; background: var(--ground); font-weight: 600; white-space: nowrap; padding: 0; }
th button { all: unset; cursor: pointer; padding: 0.42rem 0.75rem; width: 100%; box-sizing: border-box; }
th button:focus-visible { outline: 2px solid var(--blue); outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.number, .number button { text-align: right; white-space: nowrap; } tbody tr:hover { background: var(--soft); }
tr.best { background: var(--best); } tr.best .metric { font-weight: 700; color: var(--green); }
.passed, .pass { color: var(--green); } .failed, .fail { color: var(--red); }
.running, .interrupted { color: var(--blue); }
details { border-bottom: 1px solid var(--line); padding: 0.45rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1.2rem; margin: 0.7rem 0 0.7rem 1.1rem; }
dt { color: var(--faint); } dd { margin: 0; }
"""

SCRIPT = """
document.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (left, right) => {
    const [a, b] = [key(left), key(right)], [x, y] = [parseFloat(a), parseFloat(b)];
    if (a === "–" || b === "–") return (a === "–") - (b === "–");
    return down * (isNaN(x) || isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y);
  };
  head.closest("tr").querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
  body.append(...[...body.rows].sort(order));
}));
"""


def render_page(table: Table, png: bytes | None) -> str:
    """The whole page, with the picture and the best runs' own curves in it; every text in it is escaped."""
    title = f"{table.metric} of {len(table.runs)} run{'s' * (len(table.runs) != 1)}"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>\n<p>below {escape(table.root.name)}</p>",
        _image(png, f"{table.metric} over steps, a line a row") if png else "",
        _table(table),
        _list("Notes", (escape(note) for note in table.notes)),
        _list("What went wrong", (f"<b>{escape(name)}</b> {escape(text)}" for name, text in table.troubles)),
        _list("Skipped", (f"<b>{escape(table.name(skip.folder))}</b> {escape(skip.reason)}" for skip in table.skipped)),
        "<h2>Runs</h2>",
        *(_details(table, run, number < PICTURES) for number, run in enumerate(table.runs[:DETAILS])),
        f"<p>{len(table.runs) - DETAILS:,} more are in compare.csv</p>" if len(table.runs) > DETAILS else "",
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    names = ["run", *map(header, table.keys), table.metric, "best", "n", "seconds", "gate", "status"]
    numbers = range(len(table.keys) + 1, len(table.keys) + 5)
    kinds = [' class="number"' if place in numbers else "" for place in range(len(names))]
    heads = zip(kinds, map(escape, names), strict=True)
    head = "".join(f'<th scope="col"{kind}><button type="button">{name}</button></th>' for kind, name in heads)
    body = "\n".join(_row(table, row) for row in table.rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _row(table: Table, row: Row) -> str:
    cells = [f"<td>{escape(table.row_name(row))}</td>"]
    cells += [f"<td>{escape(row.values[key])}</td>" for key in table.keys]
    cells.append(_number(row.mean, plus_minus(row), "number metric"))
    cells.append(_number(row.best, figure(row.best)))
    cells.append(_number(row.n, row.count))
    cells.append(_number(row.seconds, duration(row.seconds)))
    cells.append(f'<td class="{escape(row.gate)}">{escape(row.gate)}</td>')
    cells.append(f'<td class="{escape(row.runs[-1].status)}">{escape(row.status)}</td>')
    kind = ' class="best"' if row is table.best else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _number(value: float | None, text: str, kind: str = "number") -> str:
    sortable = "–" if value is None else repr(value)
    return f'<td class="{kind}" data-value="{sortable}">{escape(text)}</td>'


def _list(title: str, items: Iterable[str]) -> str:
    lines = "\n".join(f"<li>{item}</li>" for item in items)
    return f"<h2>{title}</h2>\n<ul>\n{lines}\n</ul>" if lines else ""


def _details(table: Table, run: Outcome, with_picture: bool) -> str:
    facts = {"folder": str(run.folder), "stage": run.stage, "status": run.status, "error": run.error}
    facts |= {"seed": run.seed, "seconds": duration(run.seconds), "commit": run.commit}
    if run.gate:
        facts["gate"] = "; ".join(map(in_words, run.gate))
    for name in run.summary:
        facts[name] = ", ".join(f"{which} {figure(run.value(name, which))}" for which in ("first", "last", "best"))
    facts |= {key: run.config[key] for key in table.differing if key in run.config}
    lines = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items() if value)
    picture = _curve(run.folder / "curve.png") if with_picture else ""
    summary = f'{escape(table.name(run.folder))} <span class="{escape(run.status)}">{escape(run.status)}</span>'
    return f"<details><summary>{summary}</summary>\n<dl>{lines}</dl>{picture}</details>"


def _curve(path: Path) -> str:
    try:
        return _image(path.read_bytes(), "the curve of this run")
    except OSError:
        return ""


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
