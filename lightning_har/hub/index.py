"""The project's cards, and the index made from them. No torch here.

python -m lightning_har.hub.index zoo/cards zoo/index.json [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_har.errors import ConfigError
from lightning_har.weights.card import Card, read_card
from lightning_har.weights.hub import cards_folder


def load_cards(folder: str | Path | None = None) -> dict[str, Card]:
    """Every card of a folder, by name in alphabetical order.

    Args:
        folder: None takes the project's; where neither a checkout nor the wheel has them, there are none.

    Raises:
        ConfigError: A file is no card, or is not called like its card.
    """
    folder = Path(folder) if folder else cards_folder()
    cards = {path.stem: read_card(path) for path in sorted(folder.glob("*.yaml"))} if folder else {}
    for name, card in cards.items():
        if card.name != name:
            raise ConfigError(f"{name}.yaml calls itself {card.name}")
    return cards


def summary(card: Card) -> dict[str, Any]:
    """A card in a line of the index."""
    best = next((r for r in card.results if r.metric in ("top-1", "top1")), None)
    top1 = best and {k: getattr(best, k) for k in ("value", "dataset", "split", "published")}
    return {
        "name": card.name,
        "status": card.status,
        "summary": card.summary,
        "task": card.task,
        "license": card.license,
        "republish": card.republish,
        "datasets": list(card.datasets),
        "parameters": card.parameters,
        "top1": top1,
        "revision": card.revision,
        "sha256": dict(card.sha256),
    }


def index(cards: dict[str, Card]) -> str:
    """The index as JSON text."""
    return json.dumps([summary(card) for card in cards.values()], indent=2, ensure_ascii=False) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write the index, or with ``--check`` say whether it is up to date."""
    check = "--check" in argv
    places = [a for a in argv if a != "--check"]
    if len(places) != 2:
        raise ConfigError("usage: python -m lightning_har.hub.index CARDS INDEX [--check]")
    text, path = index(load_cards(places[0])), Path(places[1])
    if not check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path} is not what {places[0]} say; write it anew without --check", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
