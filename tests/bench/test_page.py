"""The HTML page in a browser: columns sort, failures stay readable, nothing is fetched."""

import csv
import os
import shutil

import pytest
from harness_runs import write_run

from lightning_har.bench.page import markdown, write_page
from lightning_har.bench.rows import read_row, summarize, write_csv

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page(tmp_path):
    """Three models that ran, of 3, 20 and 100 million multiply-adds, and one that did not."""
    rows = []
    for name, right, macs in (("beta", 12, 20_000_000), ("alpha", 18, 100_000_000), ("gamma", 6, 3_000_000)):
        folder = write_run(tmp_path / name, right=right, macs=macs)
        rows.append({**read_row(folder / "report.json", name, name), "arguments": ["--epochs", "3"]})
    rows.append({**rows[0], "name": "delta", "recipe": "delta", "error": "out of memory", "values": {}})
    write_page("Four", summarize(rows, {"alpha": {"on": "X", "top1": {"t": 0.9}}}), rows, {}, {}, tmp_path / "p.html")
    return tmp_path / "p.html"


def test_what_the_page_says(page):
    text = page.read_text()
    assert "called with: --epochs 3" in text
    assert "24 clips: too few for a confidence interval" in text
    assert ">0.003<" in text  # not 0.00


def test_what_is_reported_stands_beside_what_is_measured(tmp_path):
    row = read_row(write_run(tmp_path / "r") / "report.json", "m", "m")
    row["values"] |= {"top5": 0.875, "trainable_parameters": 446_909, "verb_top1": 0.25}
    other = {**row, "name": "o", "recipe": "o"}
    reported = {
        "on": "X",
        "top5": {"table 1": 0.9297},
        "trainable_parameters": {"table 1": 266_963},
        "verb_top1": {"table 2": 0.188},
        "noun_top1": {"table 2": 0.0382},  # not measured: it has no column, and is told below
    }
    summaries = summarize([row, other], {"m": reported, "o": {"on": "Y"}})
    lines = [line.strip("| ").split(" | ") for line in markdown("T", summaries, [row]).splitlines() if "|" in line]
    head, mine, others = lines[0], lines[2], lines[3]
    for name, measured, figure in (
        ("top-5", "87.5", "93.0 (table 1)"),
        ("verb_top1", "25.0", "18.8 (table 2)"),
    ):
        at = head.index(f"{name} (%)")
        assert head[at + 1] == f"{name}, reported (%)"
        assert (mine[at], mine[at + 1], others[at], others[at + 1]) == (measured, figure, measured, "–")
    at = head.index("trainable (M)")
    assert (mine[at], mine[at + 1]) == ("0.447", "0.267 (table 1)")
    assert "noun_top1 (%)" not in head
    assert "- m: reported on X: noun_top1 0.0382 (table 2)\n" in markdown("T", summaries, [row])
    assert "- o: its study gives no figure\n" in markdown("T", summaries, [row])
    write_page("T", summaries, [row], {}, {}, tmp_path / "p.html")
    assert '<td data-value="0.9297" class=reported>93.0 (table 1)</td>' in (tmp_path / "p.html").read_text()


def cells_of(text):
    """Of each model its cells, by the head of their column."""
    head, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in lines}


def test_times_have_their_percentiles_and_throughput(tmp_path):
    row = read_row(write_run(tmp_path / "r") / "report.json", "m", "m")
    (cells,) = cells_of(markdown("T", summarize([row], {}), [row])).values()
    times = ("latency p50 (ms)", "latency p95 (ms)", "clips/s", "reading p50 (ms)", "epoch (s)")
    assert [cells[name] for name in times] == ["10.0", "12.0", "90.0", "10.0", "3.0"]


def test_each_row_says_whose_protocol_it_had(tmp_path):
    rows = []
    how = {"batch_size": 8, "precision": "bf16-mixed", "num_workers": 3}
    for name, seed, protocol in (("old", 0, {}), ("new", 0, how), ("new", 1, {**how, "batch_size": 5})):
        folder = write_run(tmp_path / f"{name}{seed}", seed, protocol=protocol)
        rows.append(read_row(folder / "report.json", name, name))
    rows[2]["identity"]["commit"] = "def"
    rows.append({**rows[0], "name": "bad", "recipe": "bad", "error": "killed", "values": {}, "identity": None})
    summaries = summarize(rows, {})
    text = markdown("T", summaries, rows)
    cells = cells_of(text)
    assert [cells[name]["protocol"] for name in ("old", "new", "bad")] == ["1", "2, 3", "–"]
    assert "- protocol 1: 4 frames uniform, 1 view(s), crop full\n" in text
    told = "4 frames uniform, 1 view(s), crop full, batches of {}, precision bf16-mixed, 3 worker(s)\n"
    assert f"- protocol 2: {told.format(8)}" in text
    assert f"- protocol 3: {told.format(5)}" in text
    assert "- commit: abc (of old, new)\n- commit: def (of new)\n" in text
    assert "- machine: c, 2 cores, 1 threads, no accelerator\n" in text  # the same for all

    write_page("T", summaries, rows, {}, {}, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    for shown in ("<th>batch</th><th>precision</th><th>workers</th>", '"bf16-mixed">bf16-mixed<', ">2, 3<"):
        assert shown in page
    write_csv(rows, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    found = [(line["batch_size"], line["precision"], line["num_workers"]) for line in lines]
    assert found == [("", "", ""), ("8", "bf16-mixed", "3"), ("5", "bf16-mixed", "3"), ("", "", "")]


def test_several_folds_have_a_column_of_their_own(page, tmp_path):
    assert "over folds" not in page.read_text()
    rows = []
    for name, folds in (("both", "12"), ("one", "1")):
        for fold in folds:
            folder = write_run(tmp_path / f"{name}{fold}", right=6 * int(fold), fold=fold)
            rows.append(read_row(folder / "report.json", name, name))
    cells = cells_of(markdown("T", summarize(rows, {}), rows))
    assert [cells[name]["top-1 over folds ± 95 % (%)"] for name in ("both", "one")] == ["37.5 ± 158.8 (2)", "–"]
    older = [{k: v for k, v in s.items() if k != "top1_over_folds"} for s in summarize(rows, {})]
    assert "over folds" not in markdown("T", older, rows)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; CHROMIUM=PATH names one")
def test_columns_sort_by_value_and_failures_stay_last(page):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        asked, wrong = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto(page.as_uri())
        table = tab.locator("table.sortable").first

        def order(head):
            table.locator("th", has_text=head).first.click()
            return [cell.split()[0] for cell in table.locator("tbody tr td:first-child").all_inner_texts()]

        assert order("multiply-adds") == ["alpha", "beta", "gamma", "delta"]
        assert order("multiply-adds") == ["gamma", "beta", "alpha", "delta"]
        assert table.locator("th[aria-sort=ascending]").count() == 1
        assert order("top-1, measured") == ["alpha", "beta", "gamma", "delta"]
        assert order("model")[0] in ("gamma", "alpha")  # names sort too, and the failed one with them
        table.locator("th", has_text="clips").first.press("Enter")  # the keyboard does it too
        assert table.locator("th[aria-sort]").inner_text().startswith("clips")
        # The page itself never scrolls sideways; its tables do.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1200
        browser.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
