"""The docs say what is there: links, commands, code, diagrams."""

import argparse
import contextlib
import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_leaves import all_leaves

import lightning_har
from lightning_har import Sampling, TSNModule
from lightning_har.cli.main import COMMANDS, main
from lightning_har.data.fake import write_fake_folder
from lightning_har.hub.index import load_cards
from lightning_har.nets.backbones import build_backbone
from lightning_har.weights.hub import find_card
from lightning_har.weights.safetensors_io import save_safetensors

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ALL_PAGES = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
WRITES = ("--out", "--report", "--picture", "--annotate", "--csv")
IDS = {"ids": lambda p: str(p.relative_to(ROOT))}


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced code of a page, dedented."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        "\n".join(line.removeprefix(indent) for line in code.splitlines())
        for indent, language, code in found
        if language in languages
    ]


def commands(page: Path) -> list[str]:
    """Lines of a page that call our command line, joined where they are continued."""
    text = "\n".join(blocks(page, "", "console")).replace("\\\n", " ")
    lines = (re.sub(r"^(\$ |\.venv/bin/|\s+)+", "", line) for line in text.splitlines())
    return [line for line in lines if re.match(r"(lightning-har|lightning run)\b", line)]


@pytest.mark.parametrize("page", ALL_PAGES, **IDS)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            wrong.append(link)
        elif anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}
            wrong += [] if anchor in slugs else [link]
    assert wrong == []


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    subparsers = parser.add_subparsers()
    importlib.import_module(f"lightning_har.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return parser


@pytest.mark.parametrize("page", ALL_PAGES, **IDS)
def test_commands_are_taken(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(page):
        words = shlex.split(line.split(" && ")[0], comments=True)
        words = [w for w in words[1:] if w not in ("--quiet", "--debug")]
        if not words or words[0] in ("COMMAND", "--help"):
            continue
        assert words[0] in COMMANDS, line
        if words[0] == "run":
            recipe = words[1].replace("RECIPE", "recipes/folder.py")
            assert (ROOT / recipe).is_file() or recipe.startswith(("mine/", "kitchen")), line
            continue
        if "..." in words or "--help" in words:
            continue
        try:
            with contextlib.suppress(SystemExit) if words[-1] == ">" else contextlib.nullcontext():
                parser_of(words[0]).parse_args(
                    [w for w in words if not w.startswith(">")][: words.index(">") if ">" in words else None]
                )
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{line}: {error} {capsys.readouterr().err}")


SMALL = {
    "README": [
        ('temporal="gru")', 'temporal="gru", pretrained=False, num_frames=4)'),
        ("max_epochs=20", "max_epochs=1"),
    ],
}
"""What is put in place of a page's own arguments, so that it fetches nothing and is soon done."""


@pytest.mark.parametrize(
    "page",
    [*(p for p in PAGES if blocks(p, "python")), pytest.param(ROOT / "README.md", marks=pytest.mark.slow)],
    **IDS,
)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fake_folder(tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = "\n".join(blocks(page, "python"))
    for theirs, ours in SMALL.get(page.stem, ()):
        assert theirs in code
        code = code.replace(theirs, ours)
    if page.stem == "fine-tune":
        monkeypatch.setenv("LIGHTNING_HAR_ZOO", "zoo")  # as the page exports it
        (name,) = re.findall(r'load\("([^"]+)", num_classes', code)
        assert name in load_cards(), "a checkpoint that the project's zoo knows"
        assert f"lightning-har zoo build {name} --zoo zoo" in commands(page)
        module = TSNModule(400, "resnet18", num_segments=3, pretrained=False, input_size=64)
        module.eval_sampling = Sampling("segments", num_frames=25, crop="ten", short_side=256)  # the published one's
        module.save_pretrained(f"zoo/{name}", card=find_card(name))
    told: dict[str, Any] = {"__name__": "docs"}
    exec(compile(code, str(page), "exec"), told)
    if getattr(told.get("data"), "spec", None) is not None:  # what is tested is what `predict` will do
        assert told["data"].eval_sampling == told["module"].eval_sampling
        assert told["data"].train_sampling == told["module"].train_sampling


def test_commands_of_a_command_are_listed() -> None:
    """In the reference, in `lightning-har --help`, and in the command's own line of help, which is the same."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for command in ("data", "zoo"):
        inner = [name.split()[1] for name in all_leaves() if name.startswith(f"{command} ")]
        (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", page, re.MULTILINE)
        listed = row.partition(": ")[2].split(", ")
        assert sorted(listed) == sorted(inner)
        assert COMMANDS[command].partition(": ")[2].split(", ") == listed
        assert any(action.help == COMMANDS[command] for action in helps(command))


def helps(name: str) -> list[Any]:
    (action,) = (a for a in parser_of(name)._actions if isinstance(a, argparse._SubParsersAction))
    return action._choices_actions


def extra(words: list[str]) -> set[str]:
    """What a command needs beyond `make demo`'s installation: extras of pyproject.toml."""
    needed = {"ray"} if "ray" in words else set()
    if words[:1] == ["demo"]:
        needed |= {"demo"}
    if words[:2] == ["data", "flow"] and "raft" not in words:
        needed |= {"flow"}
    if words[:2] == ["data", "shards"]:
        needed |= {"webdataset"}
    if words[:1] in (["export"], ["bundle"], ["edge-bench"]):
        needed |= {"executorch" if "executorch" in words else "onnx"}
    if "torchcodec" in words:
        needed |= {"torchcodec"}
    return needed


@pytest.mark.parametrize("page", [p for p in ALL_PAGES if commands(p)], **IDS)
def test_extras_are_told_where_they_are_needed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    told = {
        name for names in re.findall(r'pip install "lightning-har\[([a-z,]+)\]"', text) for name in names.split(",")
    }
    needed = set().union(*(extra(words) for _, words in page_lines(page)))
    assert needed <= told
    assert "lightning-har[" not in re.sub(r"[\"']lightning-har\[", "", text), "zsh takes bare brackets for a pattern"


def test_errors_and_help_quote_extras() -> None:
    files = [*(ROOT / "lightning_har").rglob("*.py"), *(ROOT / "docs").rglob("*.ipynb")]
    bare = [str(p) for p in files if re.search(r"(?<!['\"])lightning-har\[", p.read_text(encoding="utf-8"))]
    assert bare == []


ELSEWHERE = {
    "lightning-har data download ucf101 data/ucf101": "wants a network: tests/data/test_download.py",
    "lightning-har data prepare ucf101 data/ucf101": "wants the archives: tests/test_data_cli.py",
    "lightning-har compare runs/tsn runs/i3d --out versus": "wants two whole runs: tutorials/two-stream.md has them",
    "lightning-har zoo build mobilenetv2-quantized-imagenet --zoo /srv/zoo": "network: tests/hub/test_zoo_cli.py",
    "lightning-har zoo build tsn-resnet50-kinetics400 --zoo zoo": "network: tests/hub/test_zoo_cli.py",
    "lightning-har zoo download NAME --out /srv/zoo/NAME": "wants a hub: tests/hub/test_zoo_cli.py",
    "lightning-har zoo verify mobilenetv2-quantized-imagenet": "wants what is built: tests/hub/test_zoo_cli.py",
    "lightning-har demo --model runs/mine": "serves until it is stopped: tests/cli/test_demo.py",
    "lightning-har run recipes/quickstart.py --out runs/quickstart": "takes minutes: `make demo`",
    "lightning-har zoo convert quickstart runs/quickstart/gru --out quickstart": "tests/hub/test_zoo_cli.py",
    "lightning-har zoo convert mobilenetv2-gru-ucf101-int8 zoo/mobilenetv2-gru-ucf101 "
    "--out zoo/mobilenetv2-gru-ucf101-int8": "wants the real one: tests/hub",
}
"""Commands of the pages that are not run here, and where they are. Those on Ray are in tests/data/test_ray.py."""
OFFLINE = {
    "run": ["--module.pretrained", "false", "--trainer.max_epochs", "1"],
    "extract": ["--weights", "random.safetensors", "--size", "32"],
}
"""What is added to a command without a $, so that it fetches nothing and is soon done."""
MINE = (
    "run recipes/folder.py --data.root clips --out runs/mine --module.pretrained false --module.num_frames 4"
    " --module.backbone mobilenetv2_035 --module.input_size 64 --trainer.max_epochs 1"
)


def page_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """A page's commands in order, as it prints them and as words to run; those with a $ before them exactly."""
    for block in blocks(page, "", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"^(\$ |\.venv/bin/)+", "", line), comments=True)
            if not line.startswith("$ ") and words[:1] not in (["lightning-har"], ["lightning"]):
                if words[:2] == ["python", "run.py"]:
                    yield " ".join(words), words
                continue
            told = " ".join(words)
            words = words[1 : words.index(">") if ">" in words else None]
            yield told, words + (OFFLINE.get(words[0], []) if not line.startswith("$ ") else [])


def test_what_is_not_run_is_on_a_page() -> None:
    assert set(ELSEWHERE) <= {told for page in PAGES for told, _ in page_lines(page)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that pages without a training of their own speak of."""
    place = tmp_path_factory.mktemp("mine")
    write_fake_folder(place / "clips")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(MINE.replace("recipes/", f"{ROOT}/recipes/").split()) == 0
    return place / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if {told for told, _ in page_lines(p)} - set(ELSEWHERE)], **IDS)
def test_commands_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """Every command does what the page says, in the page's order; the checkout's recipes are at hand."""
    lines = dict(page_lines(page))
    if page.stem != "own-clips":  # which makes them
        write_fake_folder(tmp_path / "clips")
        shutil.copy(tmp_path / "clips" / "wave" / "wave_00.mp4", tmp_path / "clip.mp4")
    if any("runs/mine" in told for told in lines) and not any("--out runs/mine" in told for told in lines):
        shutil.copytree(request.getfixturevalue("trained"), tmp_path / "runs")
    if any("lightning-har extract" in told for told in lines):
        net = build_backbone("mobilenetv2_100", pretrained=False).net
        save_safetensors(net.state_dict(), tmp_path / "random.safetensors")
    (tmp_path / "my-name").mkdir()  # the zoo of howto/own-zoo.md, here a folder
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_HAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for told, words in lines.items():
        if told in ELSEWHERE or "--engine ray" in told:
            continue
        if "executorch" in words and importlib.util.find_spec("executorch") is None:
            continue  # [dev] brings it, other installations need not
        if words[0] == "python":  # of a bundle, in its folder
            command = [sys.executable, *words[1:-1], str(tmp_path / words[-1])]
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "bundle")
            assert done.returncode == 0, f"{told}\n{done.stdout}\n{done.stderr}"
            continue
        code = main(words)  # in this process: a page has a dozen lines, and torch takes its time to import
        said = capsys.readouterr()
        assert code == 0, f"{told}\n{said.out}\n{said.err}"
        written = [words[i + 1] for i, w in enumerate(words[:-1]) if w in WRITES]
        for name in written:
            assert (tmp_path / name).exists(), f"{told} wrote no {name}"


def test_docstring_examples() -> None:
    """Examples in docstrings are run, wherever somebody writes one."""
    failed, attempted = [], 0
    for module in pkgutil.walk_packages(lightning_har.__path__, "lightning_har."):
        path = Path(module.module_finder.path) / f"{module.name.rpartition('.')[2]}.py"
        if path.is_file() and ">>> " in path.read_text(encoding="utf-8"):
            found = doctest.testmod(importlib.import_module(module.name))
            attempted += found.attempted
            failed += [module.name] if found.failed else []
    assert failed == []
    assert attempted >= 6  # those of plan, most_confused, sliding_windows, mobilenetv2_block


PRIVATE = {
    "arguments": "what run() parses, which `lightning run RECIPE --help` lists",
    "cli": "commands, each with its --help: reference/cli.md",
    "data.counts": "called by the data modules alone",
    "data.parallel": "the pool behind check, flow, prepare and extract",
    "hub.convert": "called by hub.build, by the name in a card",
    "modules.aids": "the options of ActionRecognizer, which says what they do",
    "nets.checks": "called by the networks alone",
    "nets.conv_head": "part of I3D and S3D, which say what it does",
    "nets.preprocess": "called by ActionRecognizer; InputSpec has the formula",
    "weights.crc32c": "part of tf_bundle",
    "weights.in_place": "part of modules.pretrained",
    "weights.resume": "part of weights.hub",
}
"""Modules and packages that the reference leaves out, and why."""


def test_every_public_module_is_in_the_reference() -> None:
    told = set(
        re.findall(r"^::: (\S+)$", "\n".join(p.read_text() for p in (ROOT / "docs/reference").glob("*.md")), re.M)
    )
    names = set()
    for path in (ROOT / "lightning_har").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        is_empty = path.stem == "__init__" and not re.search(r"^(def|class) [a-z]", path.read_text(), re.M | re.I)
        if not is_empty and "._" not in name and name != "lightning_har":  # whose names are others'
            names.add(name.removeprefix("lightning_har."))
    named = {one for one in told if one.removeprefix("lightning_har.") in names}
    functions = {one.rpartition(".")[0] for one in told - named}  # a package's own function stands for it
    covered = {one.removeprefix("lightning_har.") for one in named | functions}
    private = {name for name in names if any(name == one or name.startswith(f"{one}.") for one in PRIVATE)}
    assert names - covered - private == set()
    assert private & covered == set()
    assert all(any(name == one or name.startswith(f"{one}.") for name in names) for one in PRIVATE)


def test_diagrams_are_what_the_script_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import diagrams
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(diagrams, "IMAGES", tmp_path)
    for draw in (diagrams.networks, diagrams.sampling, diagrams.crops, diagrams.inflation):
        draw()
    for path in tmp_path.iterdir():
        assert path.read_text() == (ROOT / "docs" / "images" / path.name).read_text(), (
            f"run docs/diagrams.py: {path.name}"
        )


@pytest.mark.slow
def test_the_site_builds_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(https?://[^\"' >]+)", text)
        fetched = [url for url in fetched if "squidfunk" not in url or "unpkg" in url]
        assert fetched == [], page
