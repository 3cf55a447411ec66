"""Every command of the command line with its parser, found by asking: a new one is tested without being listed."""

import argparse
import importlib
from collections.abc import Iterator

from lightning_har.cli.main import COMMANDS


def _leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for one, sub in action.choices.items():
            yield from _leaves(sub, f"{name} {one}".strip())


def all_leaves() -> dict[str, argparse.ArgumentParser]:
    """Commands that do something, such as "data check", by name."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for name in COMMANDS:
        importlib.import_module(f"lightning_har.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return dict(_leaves(parser, ""))


def calls(name: str, parser: argparse.ArgumentParser, value: str) -> Iterator[list[str]]:
    """The command with ``value`` for everything it insists on; once for each choice where it offers some."""
    given = name.split()
    choices: list[str] | None = None
    for action in parser._actions:
        needed = action.required if action.option_strings else action.nargs not in ("?", "*", argparse.REMAINDER)
        if not needed or isinstance(action, argparse._HelpAction):
            continue
        if action.choices and choices is None and not action.option_strings:
            choices = [str(choice) for choice in action.choices]
            given.append("CHOICE")
        else:
            given += [*action.option_strings[-1:], "out" if action.dest == "out" else value]
    for choice in choices or [""]:
        yield [choice if word == "CHOICE" else word for word in given]
