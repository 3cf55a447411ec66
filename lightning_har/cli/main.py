"""``lightning-har``: the command line.

A command is one file in this folder, named like the command (``-`` becomes ``_``). Its
``add_parser(subparsers)`` adds its parser and sets that parser's default ``function``, which takes the
parsed arguments and returns an exit code. What imports torch is imported inside that function, so that
``--help`` stays quick.

Exit codes: 0 done; 1 done, but some of the files could not be read; 2 wrong usage or bad input, with a
message on stderr; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from lightning_har._version import __version__
from lightning_har.errors import HarError

COMMANDS = {
    "run": "train, test and report: run a recipe",
    "test": "score a checkpoint on data",
    "benchmark": "measure recipes and checkpoints under one protocol",
    "compare": "compare two models, paired by seeds and clips",
    "predict": "name the action in video files",
    "extract": "compute and keep the features of frames",
    "join": "put a model of stored features behind the network that computed them",
    "data": "data sets: show, download, prepare, check, stats, split, flow, shards, fake",
    "zoo": "checkpoints: list, info, download, verify, convert, build, publish",
    "show": "draw Grad-CAM, features, confusion, class bars, curves",
    "demo": "a page to try a model on: upload a clip, or use the camera",
    "init": "start a recipe, a model or a data set of your own",
    "doctor": "check the installation, and say what to do",
    "completion": "print the shell's completion script",
    "export": "write a model as ONNX or ExecuTorch, float or int8",
    "bundle": "make a folder that runs a model on a device without PyTorch",
    "edge-bench": "measure bundles: size, memory, cold start, latency",
}
"""Every command with its line of help. A command's own file is imported only when it is called."""

EPILOG = """\
examples:
  lightning-har run recipes/quickstart.py
  lightning-har run recipes/folder.py --data.root clips/ --out runs/mine
  lightning-har predict clip.mp4 --model runs/mine

exit codes: 0 done; 1 done, but some files could not be read; 2 wrong usage or bad input; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; None takes ``sys.argv``.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if "--quiet" not in arguments:
        return guard(lambda: _dispatch(arguments), debug=debug)
    arguments = [a for a in arguments if a != "--quiet"]
    return quietly(lambda: guard(lambda: _dispatch(arguments), debug=debug), silent=arguments[:1] == ["run"])


def quietly(command: Callable[[], int], *, silent: bool = False) -> int:
    """Call a command; hold back its progress and notes, and show them only where it fails.

    Args:
        command: Returns the exit code.
        silent: Hold back its stdout too: what `run` prints is in the run's folder.
    """
    held = io.StringIO()
    code = 1
    try:
        with contextlib.redirect_stderr(held), contextlib.redirect_stdout(held if silent else sys.stdout):
            code = command()
    finally:
        if code:
            print(held.getvalue(), end="", file=sys.stderr)
    return code


def guard(command: Callable[[], int], *, debug: bool = False) -> int:
    """Call a command; turn what a user can mend into a message of a few lines and an exit code.

    Args:
        command: Returns the exit code.
        debug: Let every error through, with its traceback.
    """
    try:
        return command()
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HarError as error:
        if debug:
            raise
        print(f"error: {error}{_make_room(str(error))}", file=sys.stderr)
    except OSError as error:
        # NumPy says no more of a disk that is full: "10240 requested and 4064 written".
        cut = error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error))
        number = errno.ENOSPC if cut else error.errno
        if debug or not (error.filename or number in FULL):
            raise
        where = f"{error.filename}: " if error.filename else ""
        told = f"{where}{os.strerror(errno.ENOSPC) if cut else error.strerror or error}"
        print(f"error: {told}{_make_room(told)}", file=sys.stderr)
    except RuntimeError as error:
        if not debug and "</torch_" in str(error):  # torch names its shared memory so
            print(
                f"error: the shared memory, /dev/shm, is full: {str(error).splitlines()[0]}\n"
                "lower --data.num_workers, or in Docker start with --shm-size=8g",
                file=sys.stderr,
            )
            return 2
        if debug or type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print(
            f"error: the accelerator's memory is full: {str(error).splitlines()[0]}\n"
            "lower --data.batch_size, --module.num_frames or --module.input_size, or take --trainer.precision 16-mixed",
            file=sys.stderr,
        )
    return 2


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of a disk, a quota or a file system that takes no more."""


def _make_room(told: str) -> str:
    """What to do where the reason in a message is a full disk, whatever error it came through."""
    full = any(os.strerror(number) in told for number in FULL)
    return "; make room, or write to another disk" if full else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean predict?"``, or nothing where nothing is near."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def nearest_path(path: str) -> str:
    """The same for a path that does not exist, among what lies in its folder."""
    folder, name = os.path.split(path.rstrip(os.sep))
    try:
        return nearest(name, os.listdir(folder or "."))
    except OSError:
        return f"; there is no folder {folder}"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines; the subcommands' parsers inherit it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and the message, with what a mistyped option may have meant."""
        options = {option: None for parser in _parsers(self) for option in parser._option_string_actions}
        typo = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        hint = nearest(typo[1], options) if typo else ""
        self.exit(2, f"error: {message}{hint}\nwhat it takes: {self.prog} --help\n")


def give_examples(commands: Any, of: str, epilog: str) -> None:
    """Show with each of a command's own commands those examples of the whole that are its own.

    Args:
        commands: What ``add_subparsers`` returned, complete.
        of: The command, such as "data".
        epilog: Its examples, one a line.
    """
    for name, parser in commands.choices.items():
        own = [line for line in epilog.splitlines() if f"{line} ".startswith(f"  lightning-har {of} {name} ")]
        parser.epilog = "\n".join(["examples:" if len(own) > 1 else "example:", *own])
        parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [parser, *(found for action in inner for one in action.choices.values() for found in _parsers(one))]


def _dispatch(arguments: list[str]) -> int:
    called = next((a for a in arguments if not a.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        print(
            f"error: unknown command {called!r}{nearest(called, COMMANDS)}\ncommands: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    parser = Parser(
        prog="lightning-har",
        description="Human action recognition in video.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lightning-har {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--quiet", action="store_true", help="show progress and notes only where a command fails")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, text in COMMANDS.items():
        if name == called:
            importlib.import_module(f"lightning_har.cli.{name.replace('-', '_')}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    if called is None:
        parser.parse_args(arguments)  # answers --help and --version, refuses other options
        parser.print_help()
        return 2
    if called != "run" and "--debug" in arguments:  # wherever it stands
        arguments.remove("--debug")
    args = parser.parse_args(arguments)
    code: int = args.function(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
