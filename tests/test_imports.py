"""Imports run downwards only, see CONTRIBUTING.md: read from the source, not by importing."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lightning_har"

RUNNING = {"run", "arguments", "callbacks", "evaluate", "predict", "progress", "run_folder"}
LAYERS = (
    {"_version", "_files", "errors"},
    {"_lightning", "spec", "types"},
    {"weights"},
    {"nets"},
    {"modules", "data"},
    {"bench", "edge", "viz", "hub"},
    RUNNING,
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TOGETHER = {*RUNNING, "spec", "types"}  # one room over several files
OUTSIDE = {"zoo", "recipes", "benchmarks", "tests"}
LIGHTNING_FREE = {"nets", "weights", "spec", "types", "errors"}
LAZY = {"onnxruntime", "executorch", "cv2", "pytorchvideo", "matplotlib", "sklearn", "gradio", "mkdocs"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(tree: ast.AST, package: str) -> list[tuple[str, ast.stmt]]:
    """Full module names that a file imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            # from lightning_har import x may name a module or a public name
            found += [(f"{base}.{alias.name}" if base == "lightning_har" else base, node) for alias in node.names]
    return found


def uphill(source: str, path: Path) -> list[str]:
    """What in a file's imports breaks the rules."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    package = ".".join(("lightning_har", *here[:-1]))
    room = here[0]
    tree = ast.parse(source)
    top_level = set(map(id, tree.body))
    wrong = []
    for name, node in imports(tree, package):
        first, *rest = name.split(".")
        if first in OUTSIDE:
            wrong.append(f"{name}: outside the package")
        if first in LAZY and id(node) in top_level:
            wrong.append(f"{name}: heavy, import it in the function that uses it")
        if room in LIGHTNING_FREE and first in ("pytorch_lightning", "lightning"):
            wrong.append(f"{name}: {room} does not know Lightning")
        if first != "lightning_har" or not rest:
            continue
        target = rest[0]
        if target not in RANK:
            if target not in ("__version__",):
                wrong.append(f"{name}: no layer is known for {target}; add it to LAYERS, or import from its home")
        elif room in LIGHTNING_FREE and target == "_lightning":
            wrong.append(f"{name}: {room} does not know Lightning")
        elif target != room and RANK[target] >= RANK[room] and not {target, room} <= TOGETHER:
            wrong.append(f"{name}: {room} may not import {target}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    assert path.relative_to(PACKAGE).with_suffix("").parts[0] in RANK, "a new room: give it a layer"
    assert uphill(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("nets/x.py", "from lightning_har.modules.base import ActionRecognizer"),
        ("nets/x.py", "import pytorch_lightning as pl"),
        ("nets/x.py", "from lightning_har._lightning import Trainer"),
        ("modules/x.py", "from lightning_har.data import decode"),
        ("data/x.py", "import lightning_har.modules"),
        ("data/x.py", "from ..modules.base import ActionRecognizer"),
        ("data/x.py", "import cv2"),
        ("data/x.py", "def f():\n    from lightning_har.run import run"),
        ("viz/x.py", "from lightning_har.bench.report import Report"),
        ("run.py", "from recipes import quickstart"),
    ],
)
def test_the_check_can_fail(room: str, line: str) -> None:
    assert uphill(line, PACKAGE / room)


def test_what_is_allowed_passes() -> None:
    lines = "import lightning_har.data.decode\ndef f():\n    import cv2\n    from ..spec import InputSpec"
    assert uphill(lines, PACKAGE / "data/x.py") == []
