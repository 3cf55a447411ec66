"""A benchmark from names to pages: plan, run, and write what was measured."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from lightning_har.bench.harness import Job, Reported, Say, Settings, Target, find_targets, plan, run_job
from lightning_har.bench.page import markdown, write_page
from lightning_har.bench.plots import save_plots
from lightning_har.bench.rows import Row, rows_of, summarize, write_csv


def benchmark(
    names: Sequence[str],
    out: str | Path,
    settings: Settings | None = None,
    *,
    recipes: str | Path = "recipes",
    title: str = "Benchmark",
    say: Say = print,
) -> list[Row]:
    """Measure recipes and checkpoints, one after another, each in a process of its own.

    Writes into ``out``, anew after every run so that a stopped benchmark has what was measured: ``results.json``,
    ``results.csv``, ``results.md``, ``results.html`` (self-contained), ``accuracy_*.png``, ``confusion/*.png``; and
    ``runs/``, from which a second call goes on.

    Args:
        names: Recipes and checkpoints, see ``find_targets``.
        out: The folder.
        settings: How all are run.
        recipes: Where bare names of recipes are looked for.
        title: Of the pages.
        say: Takes lines of progress.

    Returns:
        A row per model, see ``summarize``; one whose runs failed says why.

    Raises:
        ConfigError: An unknown name, or a folder that holds runs with other settings.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    settings = settings or Settings()
    out = Path(out)
    targets = find_targets(names, recipes)
    jobs = plan(targets, out, settings)
    summaries: list[Row] = []
    for number, job in enumerate(jobs, start=1):
        run_job(job, settings, partial(_numbered, say, f"[{number}/{len(jobs)}] "))
        summaries = write_results(jobs[:number], targets, out, title)
    return summaries


def _numbered(say: Say, number: str, line: str) -> None:
    say(number + line)


def write_results(jobs: Sequence[Job], targets: Sequence[Target], out: Path, title: str) -> list[Row]:
    """Everything that ``benchmark`` writes, of the jobs done so far."""
    rows = rows_of(jobs)
    reported: Mapping[str, Reported] = {t.name: t.reported for t in targets}
    summaries = summarize(rows, reported)
    out.mkdir(parents=True, exist_ok=True)
    beside = [{**row, "folder": os.path.relpath(row["folder"], out)} for row in rows]  # wherever it is read from
    record = {"title": title, "models": summaries, "runs": beside}
    (out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_csv(rows, out / "results.csv")
    pictures = save_plots(summaries, out)
    confusions = _confusions(rows, out / "confusion")
    (out / "results.md").write_text(markdown(title, summaries, rows), encoding="utf-8")
    write_page(title, summaries, rows, pictures, confusions, out / "results.html")
    return summaries


def _confusions(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """The confusion matrices of each model's first run, copied beside the results."""
    found = {}
    for row in rows:
        for source in sorted(Path(row["folder"]).glob("confusion_matrix*.png")):
            head = source.stem.removeprefix("confusion_matrix").strip("_")
            name = f"{row['name']}, {head}" if head else row["name"]
            if row["error"] is None and name not in found:
                folder.mkdir(parents=True, exist_ok=True)
                found[name] = folder / f"{name.replace('/', '-').replace(', ', '-')}.png"
                shutil.copyfile(source, found[name])
    return found
