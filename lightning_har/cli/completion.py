"""``lightning-har completion``: the shell's completion script."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from lightning_har.cli.main import COMMANDS

EPILOG = """\
examples:
  eval "$(lightning-har completion bash)"                          in ~/.bashrc
  eval "$(lightning-har completion zsh)"                           in ~/.zshrc, after compinit
  lightning-har completion fish > ~/.config/fish/completions/lightning-har.fish     (make that folder before)
"""


def add_parser(subparsers: Any) -> None:
    """Add ``completion`` to the commands."""
    parser = subparsers.add_parser(
        "completion",
        help="print the shell's completion script",
        description="Print the completion script of a shell.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="yours: echo $SHELL")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Print it."""
    words = options()
    print(_fish(words) if args.shell == "fish" else _bash(words, zsh=args.shell == "zsh"), end="")
    return 0


def options() -> dict[str, list[str]]:
    """What each command takes: its options, its own subcommands, and the choices of its positional arguments."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for name in COMMANDS:
        importlib.import_module(f"lightning_har.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return {name: sorted(set(_words(subparsers.choices[name]))) for name in COMMANDS}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    found = ["--debug", "--quiet"]
    for action in parser._actions:
        found += [option for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found += [name, *_words(inner)]
        elif not action.option_strings and action.choices:
            found += [str(choice) for choice in action.choices]
    return found


def _bash(words: dict[str, list[str]], *, zsh: bool) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(found)}" ;;' for name, found in words.items())
    first = " ".join([*words, "--help", "--version"])
    return f"""\
{"autoload -U +X bashcompinit && bashcompinit" if zsh else ""}
_lightning_har() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{first}" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="{first}"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$current" in -*) ;; *) [ "$COMP_CWORD" -gt 1 ] && COMPREPLY+=($(compgen -f -- "$current")) ;; esac
}}
complete -o filenames -F _lightning_har lightning-har
""".lstrip("\n")


def _fish(words: dict[str, list[str]]) -> str:
    lines = [
        f'complete -c lightning-har -n __fish_use_subcommand -f -a {name} -d "{text}"'
        for name, text in COMMANDS.items()
    ]
    for name, found in words.items():
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for word in found:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c lightning-har {seen} {kind}")
    return "\n".join(lines) + "\n"
