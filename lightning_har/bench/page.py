"""A benchmark as Markdown, and as one HTML page that needs nothing else: no network, no second file."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_har.bench.rows import COSTS, Row


class Column(NamedTuple):
    """A column of the table: its head, the value that it sorts by, the text of its cell; the metric, and its scale."""

    head: str
    value: Callable[[Row], float | str | None]
    text: Callable[[Row], str]
    title: str = ""
    metric: str = ""
    scale: float = 1.0
    digits: int = 0


def _score(key: str, head: str) -> Column:
    def text(s: Row) -> str:
        value, std = s["values"].get(key), s["std"].get(key)
        return "–" if value is None else f"{100 * value:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")

    return Column(head, lambda s: s["values"].get(key), text, "mean, ± standard deviation over runs", key, 100, 1)


def _cost(key: str, head: str, scale: float, digits: int) -> Column:
    def text(s: Row) -> str:
        value = s["values"].get(key)
        if value is None:
            return "–"
        small = 0 < abs(value * scale) < 10**-digits  # of which rounding would leave nothing
        return f"{value * scale:.1g}" if small else f"{value * scale:,.{digits}f}"

    return Column(head, lambda s: s["values"].get(key), text, COSTS.get(key, key), key, scale, digits)


def _interval(s: Row) -> str:
    if s["top1_interval"] is None:
        return s["interval_note"] or "–"
    low, high = s["top1_interval"]
    return f"{100 * low:.1f} – {100 * high:.1f}"


def _over_folds(s: Row) -> str:
    found = s.get("top1_over_folds")  # older results have none
    return "–" if found is None else f"{100 * found['mean']:.1f} ± {100 * found['half']:.1f} ({found['folds']})"


def _reported(column: Column) -> Column:
    """What studies report of a column's metric: every figure with where it stands; "–" for none."""

    def text(s: Row) -> str:
        figures = s["reported"].get(column.metric, {})
        return "; ".join(f"{v * column.scale:,.{column.digits}f} ({where})" for where, v in figures.items()) or "–"

    head = column.head.replace(", measured", "")
    return Column(
        head.replace(" (", ", reported (") if "(" in head else f"{head}, reported",
        lambda s: max(s["reported"].get(column.metric, {}).values(), default=None),
        text,
        "by the study, on its own data",
    )


COLUMNS = (
    Column("model", lambda s: s["name"], lambda s: s["name"]),
    Column("runs", lambda s: s["runs"], lambda s: str(s["runs"]), "seeds × folds"),
    Column("clips", lambda s: s["clips"], lambda s: str(s["clips"]), "test videos, each counted once"),
    _score("top1", "top-1, measured (%)"),
    Column(
        "95 % interval", lambda s: (s["top1_interval"] or [None])[0], _interval, "Wilson, clips taken as independent"
    ),
    _score("top5", "top-5 (%)"),
    _score("precision_macro", "precision (%)"),
    _score("recall_macro", "recall (%)"),
    _score("f1_macro", "F1 (%)"),
    _cost("num_predicted_classes", "classes predicted", 1, 0),
    _cost("parameters", "parameters (M)", 1e-6, 2),
    _cost("trainable_parameters", "trainable (M)", 1e-6, 3),
    _cost("macs", "multiply-adds (G)", 1e-9, 2),
    _cost("checkpoint_bytes", "size (MB)", 1e-6, 1),
    _cost("train_peak_bytes", "training memory (MiB)", 2**-20, 0),
    _cost("test_peak_bytes", "test memory (MiB)", 2**-20, 0),
    _cost("p50_ms", "latency p50 (ms)", 1, 1),
    _cost("p95_ms", "latency p95 (ms)", 1, 1),
    _cost("clips_per_s", "clips/s", 1, 1),
    _cost("reading_p50_ms", "reading p50 (ms)", 1, 1),
    _cost("epoch_s", "epoch (s)", 1, 1),
    _cost("data_wait_share", "waiting (%)", 100, 0),
)

_FOLDS = Column(
    "top-1 over folds ± 95 % (%)",
    lambda s: (s.get("top1_over_folds") or {}).get("mean"),
    _over_folds,
    "mean of the folds, each the mean over its seeds, ± half of Student's interval (how many folds)",
)


def columns_of(summaries: Sequence[Row], rows: Sequence[Row]) -> list[Column]:
    """The columns, beside each measured number the reported one where a study has one.

    A metric that only a study names, such as the top-1 of verbs, has its two columns where it was measured. Several
    folds have one, where there are several.
    """
    figures = _metrics_reported(summaries)
    columns = []
    for column in COLUMNS:
        columns.append(column)
        if column.head == "clips":
            columns.append(_protocol_column(rows))
        if column.text is _interval and any(s.get("top1_over_folds") for s in summaries):
            columns.append(_FOLDS)
        if column.metric in figures or column.metric == "top1":
            columns.append(_reported(column))
    known = {column.metric for column in columns}
    for metric in figures:
        if metric not in known and any(s["values"].get(metric) is not None for s in summaries):
            column = _score(metric, f"{metric} (%)")
            columns += [column, _reported(column)]
    return columns


def _metrics_reported(summaries: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(k for s in summaries for k in s["reported"] if k != "on"))


_MARKDOWN = (
    *("model", "runs", "clips", "top-1, measured (%)", "95 % interval", "top-5 (%)", "F1 (%)"),
    *("classes predicted", "parameters (M)", "multiply-adds (G)", "size (MB)", "training memory (MiB)"),
    *("test memory (MiB)", "latency p50 (ms)", "latency p95 (ms)", "clips/s", "reading p50 (ms)"),
    *("epoch (s)", "waiting (%)"),
)


def conditions(rows: Sequence[Row]) -> list[str]:
    """How the numbers came about, on what machine, versions and data: where runs differ, a line each, with whose it is.

    Protocols are numbered, as the tables refer to them.
    """
    told = [(row["name"], row["identity"]) for row in rows if row["identity"] is not None]
    called = [(row["name"], " ".join(row["arguments"])) for row in rows if row.get("arguments")]
    lines: list[str] = []
    for label, texts in (
        ("machine", [(name, _machine(t["hardware"])) for name, t in told]),
        ("data", [(name, f"{t['protocol']['data']}, {t['protocol']['split'].split(',')[0]}") for name, t in told]),
        ("versions", [(name, ", ".join(f"{k} {v}" for k, v in t["versions"].items())) for name, t in told]),
        ("commit", [(name, t["commit"] or "not a checkout") for name, t in told]),
        ("called with", called),
    ):
        names: dict[str, dict[str, None]] = {}
        for name, text in texts:
            names.setdefault(text, {})[name] = None
        several = len(names) > 1
        lines += [
            f"{label}: {text}" + (f" (of {', '.join(whose)})" if several else "") for text, whose in names.items()
        ]
    lines += [f"protocol {number}: {text}" for text, number in _protocols(rows).items()]
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    folds = sorted({row["fold"] for row in rows if row["fold"] is not None})
    return [*lines, f"seeds: {', '.join(map(str, seeds))}" + (f"; folds: {', '.join(folds)}" if folds else "")]


def _machine(hardware: Mapping[str, Any]) -> str:
    device = hardware["accelerator"]
    where = "no accelerator" if device == "cpu" else device
    return f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads, {where}"


def _protocols(rows: Sequence[Row]) -> dict[str, int]:
    """Every protocol that a run had, with its number."""
    texts = dict.fromkeys(_protocol(row["identity"]["protocol"]) for row in rows if row["identity"] is not None)
    return {text: number for number, text in enumerate(texts, start=1)}


def _protocol(protocol: Mapping[str, Any]) -> str:
    sampling = protocol["sampling"] or {}
    if sampling and all(isinstance(v, Mapping) for v in sampling.values()):
        sampling = next(iter(sampling.values()))
    frames = sampling.get("num_frames") or "all stored"
    told = f"{frames} frames {sampling.get('scheme', '')}, {protocol['views']} view(s), crop {protocol['crop']}"
    loading = {"batches of {}": "batch_size", "precision {}": "precision", "{} worker(s)": "num_workers"}
    known = [text.format(protocol[key]) for text, key in loading.items() if protocol.get(key) is not None]
    return ", ".join([told, *known])


def _protocol_column(rows: Sequence[Row]) -> Column:
    """The number of each model's protocol in the list below the table; of runs that differ, all of theirs."""
    numbers = _protocols(rows)
    of: dict[str, dict[int, None]] = {}
    for row in rows:
        if row["identity"] is not None:
            of.setdefault(row["name"], {})[numbers[_protocol(row["identity"]["protocol"])]] = None

    def text(s: Row) -> str:
        return ", ".join(map(str, of.get(s["name"], ()))) or "–"

    return Column("protocol", lambda s: next(iter(of.get(s["name"], ())), None), text, "see the conditions, below")


MEASURES = (
    "Measured numbers are ours, from the runs named below; reported ones are the studies', on their data, and stand "
    "beside ours, never in their place. Memory is the allocator's peak on CUDA and the process's resident set on a CPU "
    "(Python and PyTorch included, loader workers not). Latency is the network's for one clip, copy and normalisation "
    "included; reading (open, decode, crop) is timed apart. An epoch's time is the median without the first."
)


def markdown(title: str, summaries: Sequence[Row], rows: Sequence[Row]) -> str:
    """The table of models, failures and notes below it, and the conditions."""
    figures = _metrics_reported(summaries)
    left_out = {c.head for c in COLUMNS if c.metric not in figures} - set(_MARKDOWN)
    columns = [c for c in columns_of(summaries, rows) if c.head not in left_out]
    lines = [f"# {title}", "", MEASURES, "", " | ".join(["", *(c.head for c in columns), ""]).strip()]
    lines.append("|" + " --- |" * len(columns))
    for s in summaries:
        cells = [c.text(s).replace("|", "\\|") for c in columns]
        if s["errors"] and not s["runs"]:
            cells = [s["name"], "failed", *["–"] * (len(columns) - 2)]
        lines.append(" | ".join(["", *cells, ""]).strip())
    lines += ["", *_remarks(summaries, rows), "", *(f"- {line}" for line in conditions(rows)), ""]
    return "\n".join(lines)


def _remarks(summaries: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    lines = []
    columned = {c.metric for c in columns_of(summaries, rows)}
    for s in summaries:
        lines += [f"- {s['name']} failed: {error.splitlines()[0]}" for error in s["errors"]]
        lines += [f"- {s['name']}: {note}" for note in s["notes"]]
        shown = ("on", *(columned if s["runs"] else ()))
        others = {k: v for k, v in s["reported"].items() if k not in shown}
        if s["reported"].get("on"):
            more = "; ".join(f"{k} {_figures(v)}" for k, v in others.items())
            told = f"reported on {s['reported']['on']}" if len(s["reported"]) > 1 else "its study gives no figure"
            lines.append(f"- {s['name']}: {told}" + (f": {more}" if more else ""))
    return lines


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{v:,} ({where})" for where, v in figures.items())


# -- HTML --------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2a6fd6; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th { white-space: normal; min-width: 4.5em; } td.words { white-space: normal; min-width: 12em; text-align: left; }
th { background: Canvas; cursor: pointer; position: sticky; top: 0; user-select: none; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
th:hover { color: var(--accent); } th[aria-sort=ascending]::after { content: " ▲"; }
th[aria-sort=descending]::after { content: " ▼"; } tbody tr:hover td { background: var(--soft); }
td.reported { font-style: italic; } td.failed { text-align: left; color: #c0392b; white-space: pre-wrap; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.pictures img { width: 100%; background: #fff; border-radius: 6px; } figure { margin: 0; }
figcaption { font-size: 13px; opacity: .8; } details { margin: .5rem 0; } li { margin: .15rem 0; }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "descending";
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const body = table.tBodies[0], sign = down ? 1 : -1;
      const key = row => row.cells[column] ? row.cells[column].dataset.value ?? "" : "";
      [...body.rows].sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return sign * order;
      }).forEach(row => body.append(row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
"""


def write_page(
    title: str,
    summaries: Sequence[Row],
    rows: Sequence[Row],
    pictures: Mapping[str, Path],
    confusions: Mapping[str, Path],
    path: Path,
) -> None:
    """One HTML file: the table with columns that sort, pictures, per-class scores, every run, the conditions.

    Args:
        title: Of the page.
        summaries: From ``summarize``.
        rows: From ``rows_of``.
        pictures: PNGs by what accuracy is drawn against.
        confusions: PNGs by model.
        path: Of the page.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(MEASURES)}</p>", _table(summaries, rows)]
    remarks = _remarks(summaries, rows)
    if remarks:
        parts += ["<h2>Remarks</h2><ul>", *(f"<li>{html.escape(r.removeprefix('- '))}</li>" for r in remarks), "</ul>"]
    if pictures:
        parts += ["<h2>Accuracy against cost</h2>", _pictures(pictures)]
    if confusions:
        parts += ["<h2>Confusion matrices</h2>", _pictures(confusions)]
    parts += ["<h2>Per class</h2>", *(_per_class(name, rows) for name in dict.fromkeys(r["name"] for r in rows))]
    parts += ["<h2>Runs</h2>", _runs(rows), "<h2>Conditions</h2><ul>"]
    parts += [*(f"<li>{html.escape(line)}</li>" for line in conditions(rows)), "</ul>"]
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"{''.join(parts)}<script>{_SCRIPT}</script></body></html>\n"
    )
    path.write_text(document, encoding="utf-8")


def _cell(value: Any, text: str, css: str = "") -> str:
    sort = "" if value is None else html.escape(str(value))
    return f'<td data-value="{sort}"{f" class={css}" if css else ""}>{html.escape(text)}</td>'


def _table(summaries: Sequence[Row], rows: Sequence[Row]) -> str:
    columns = columns_of(summaries, rows)
    head = "".join(f'<th title="{html.escape(c.title)}">{html.escape(c.head)}</th>' for c in columns)
    body = []
    for s in summaries:
        if s["runs"]:
            cells = [_cell(c.value(s), c.text(s), _css(c, s)) for c in columns]
        else:
            reason = html.escape("\n".join(s["errors"]))
            cells = [
                _cell(s["name"], s["name"]),
                f'<td class="failed" colspan="{len(columns) - 1}">failed: {reason}</td>',
            ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _wide(head, body)


def _css(column: Column, s: Row) -> str:
    if column.text is _interval and s["interval_note"]:
        return "words"
    return "reported" if "reported" in column.head else ""


def _wide(head: str, body: Sequence[str]) -> str:
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _pictures(pictures: Mapping[str, Path]) -> str:
    figures = []
    for name, path in pictures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        label = html.escape(name)
        figures.append(
            f'<figure><img alt="{label}" src="data:image/png;base64,{data}"><figcaption>{label}</figcaption></figure>'
        )
    return f'<div class="pictures">{"".join(figures)}</div>'


def _per_class(name: str, rows: Sequence[Row]) -> str:
    mine = next((r for r in rows if r["name"] == name and r["per_class"]), None)
    if mine is None:
        return ""
    keys = ("head", "class", "precision", "recall", "f1", "support", "predicted")
    body = []
    for one in mine["per_class"]:
        shown = [f"{v:.3f}" if isinstance(v, float) else "–" if v is None else str(v) for v in (one[k] for k in keys)]
        cells = [_cell(one[k], text) for k, text in zip(keys, shown, strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    which = f"seed {mine['seed']}" + (f", fold {mine['fold']}" if mine["fold"] is not None else "")
    head = "".join(f"<th>{k}</th>" for k in keys)
    return f"<details><summary>{html.escape(f'{name} ({which})')}</summary>{_wide(head, body)}</details>"


def _runs(rows: Sequence[Row]) -> str:
    keys = ("top1", "top5", "f1_macro", "train_peak_bytes", "test_peak_bytes", "p50_ms", "epoch_s", "epochs")
    how = {"batch": "batch_size", "precision": "precision", "workers": "num_workers"}
    names = ("model", "seed", "fold", "clips", "unread", *keys, "protocol", *how, "note")
    head = "".join(f"<th>{name}</th>" for name in names)
    numbers = _protocols(rows)
    body = []
    for row in rows:
        fixed = [
            _cell(row[k], "–" if row[k] is None else str(row[k])) for k in ("name", "seed", "fold", "clips", "skipped")
        ]
        values = [row["values"].get(k) for k in keys]
        cells = [_cell(v, "–" if v is None else f"{v:,.4g}" if abs(v) < 1e4 else f"{v:,.0f}") for v in values]
        protocol = row["identity"]["protocol"] if row["identity"] is not None else {}
        told = [numbers[_protocol(protocol)] if protocol else None, *(protocol.get(key) for key in how.values())]
        cells += [_cell(v, "–" if v is None else str(v)) for v in told]
        said = row["error"] or row["note"] or ""
        body.append(f"<tr>{''.join([*fixed, *cells, _cell(said or None, said, 'words')])}</tr>")
    return _wide(head, body)
