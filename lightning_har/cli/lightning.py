"""``lightning run recipes/x.py``: the command that the Lightning packages no longer ship.

``run`` runs a recipe here, as ``lightning-har run`` does. Any other subcommand belongs to lightning-sdk,
which has a ``lightning`` command too, and is handed to it where it is installed.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lightning_har.cli import main as har

HELP = """\
usage: lightning run RECIPE.py [arguments of the recipe]

  run    run a recipe on this machine: train, test, report (the same as `lightning-har run`)

Any other subcommand is handed to lightning-sdk, which is {state}.

example:
  lightning run recipes/quickstart.py
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a recipe, or hand the arguments to lightning-sdk.

    Args:
        argv: Arguments after the program's name; None takes ``sys.argv``.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        return har.main(arguments)
    sdk = _sdk_command()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(state="installed" if sdk else "not installed"), end="")
        return 0 if arguments else 2
    if sdk is None:
        print(
            f"error: `lightning {arguments[0]}` is a command of lightning-sdk, which is not installed; "
            "only `lightning run RECIPE.py` is here\nfor the other commands: pip install lightning-sdk",
            file=sys.stderr,
        )
        return 2
    sys.argv = ["lightning", *arguments]
    return int(sdk() or 0)


def _sdk_command() -> Callable[[], Any] | None:
    """The function behind lightning-sdk's own ``lightning`` script, found by its declared entry point."""
    try:
        entry_points = importlib.metadata.distribution("lightning-sdk").entry_points
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in entry_points:
        if entry.group == "console_scripts" and entry.name == "lightning":
            command: Callable[[], Any] = entry.load()
            return command
    return None


if __name__ == "__main__":
    sys.exit(main())
