"""Write docs/results.md from what lies in benchmarks/results: every table there, none typed by hand.

    python benchmarks/make_results.py [--check]

A folder with results.json is a benchmark's (``lightning-har benchmark --out benchmarks/results/NAME``); a CSV is that
of the script of its name in this folder, or of the longest beginning of its name that is a script. The first paragraph
of the script's docstring tells what it is; its ``REPORTED``, if it has one, what a study reports of the same, which is
shown below the table as that, never in it. ``--check`` writes nothing and fails if the page or one of its pictures is
not what would be written.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import sys
from pathlib import Path

from lightning_har.bench.page import markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"
PICTURES = PAGE.parent / "results"
LONGEST = 64
"""Rows of a CSV that are shown; of a longer one the page shows its first, and says so."""
HEAD = """# Results

Every number here was measured by a script of this repository, on the machine that its table names. What a study
reports stands beside it as reported, on that study's data. This page is written by `benchmarks/make_results.py`.
"""
NO_GPU = "No GPU was at hand: every number here is a CPU's, and there is none of a GPU.\n"


def page() -> tuple[str, list[Path]]:
    """The page's text, and the pictures that it shows."""
    parts, pictures = [HEAD, *[NO_GPU] * (accelerators() <= {"cpu"})], []
    for place in sorted(RESULTS.iterdir()):
        if (place / "results.json").is_file():
            record = json.loads((place / "results.json").read_text(encoding="utf-8"))
            text = "#" + markdown(record["title"], record["models"], record["runs"])
            head, _, rest = text.partition("\n\n")
            _, about, _ = told_by(place)
            parts.append("\n\n".join(filter(None, [head, about, rest])))
            shown = sorted(place.glob("accuracy_*.png"))
            parts += [f"![{p.stem.replace('_', ' ')}](results/{place.name}-{p.name})\n" for p in shown]
            pictures += shown
        elif place.suffix == ".csv":
            parts.append(table(place))
            picture = place.with_suffix(".png")
            if picture.is_file():
                parts.append(f"![{place.stem}](results/{RESULTS.name}-{picture.name})\n")
                pictures.append(picture)
    return "\n".join(parts), pictures


def accelerators() -> set[str]:
    """What runs and tables name as their accelerator or device; "cpu" is none."""
    found = set()
    for path in RESULTS.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            found |= {row.get(name) or "cpu" for row in csv.DictReader(file) for name in ("accelerator", "device")}
    for path in RESULTS.glob("*/results.json"):
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        found |= {run["identity"]["hardware"]["accelerator"] for run in runs if run["identity"] is not None}
    return found


def told_by(path: Path) -> tuple[str, str, str]:
    """Of the script that wrote it: the docstring's title and first paragraph, and ``REPORTED``."""
    parts = path.stem.split("_")
    names = ("_".join(parts[:n]) for n in range(len(parts), 0, -1))
    script = next((HERE / f"{name}.py" for name in names if (HERE / f"{name}.py").is_file()), None)
    if script is None:
        return path.stem, "", ""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    title, _, about = (ast.get_docstring(tree) or script.stem).partition("\n\n")
    about = about.split("\n\n")[0] if not about.startswith("    ") else ""
    reported = [
        ast.literal_eval(s.value)
        for s in tree.body
        if isinstance(s, ast.Assign) and any(getattr(t, "id", None) == "REPORTED" for t in s.targets)
    ]
    title = " ".join(title.split()).rstrip(".")
    rest = path.stem.removeprefix(script.stem).strip("_").replace("_", " ")
    title += f" ({rest})" if rest else ""
    return title, " ".join(about.split()), " ".join(reported[0].split()) if reported else ""


def table(path: Path) -> str:
    """A CSV as a Markdown table, below what its script says of it."""
    title, about, reported = told_by(path)
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    # What is the same in every row is said once, below.
    same = {k for k in range(len(head)) if len(rows) > 1 and len({row[k] for row in rows}) == 1}
    kept = [k for k in range(len(head)) if k not in same]
    lines = [f"## {title}", "", about, ""]
    lines += ["| " + " | ".join(head[k] for k in kept) + " |", "|" + " --- |" * len(kept)]
    lines += ["| " + " | ".join(row[k].replace("|", "\\|") for k in kept) + " |" for row in rows[:LONGEST]]
    lines += ["", "; ".join(f"{head[k]}: {rows[0][k]}" for k in sorted(same) if rows[0][k])]
    rest = f" The first {LONGEST} of {len(rows)} rows." if len(rows) > LONGEST else ""
    lines += ["", f"Reported, not measured here: {reported}"] if reported else []
    lines += ["", f"From `benchmarks/results/{path.name}`.{rest}", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text, pictures = page()
    wanted = {PICTURES / f"{picture.parent.name}-{picture.name}": picture.read_bytes() for picture in pictures}
    there = sorted(PICTURES.glob("*.png"))
    if args.check:
        other = [] if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text else [PAGE]
        found = {path: path.read_bytes() for path in there}
        other += [path for path in sorted({*wanted, *found}) if wanted.get(path) != found.get(path)]
        for path in other:
            print(f"{path} is not what benchmarks/results says; run python benchmarks/make_results.py", file=sys.stderr)
        return int(bool(other))
    PICTURES.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    for path in {*there} - {*wanted}:
        path.unlink()
    for path, picture in wanted.items():
        path.write_bytes(picture)
    print(f"{PAGE}: {text.count('## ')} tables, {len(pictures)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
