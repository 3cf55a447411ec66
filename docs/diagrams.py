"""Draws the docs' diagrams, docs/images/*.svg: `python docs/diagrams.py`. What they show is computed by the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_har.data.sampling import plan
from lightning_har.data.transforms import _corners
from lightning_har.spec import Sampling

IMAGES = Path(__file__).parent / "images"
INK, PALE, LINE = "#1b2a41", "#e8edf3", "#b8c4d3"
COLOURS = ("#d35400", "#2471a3", "#1e8449", "#7d3c98", "#b7950b", "#c0392b", "#117a65", "#5d6d7e", "#a04000", "#4a235a")


class Svg:
    """Shapes, in order."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="sans-serif" font-size="13" fill="{INK}" role="img"><title>{title}</title>',
            f'<rect width="{width}" height="{height}" rx="6" fill="white"/>',
        ]

    def rect(self, x: float, y: float, w: float, h: float, fill: str = PALE, stroke: str = LINE) -> None:
        """A box."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" fill="{fill}" stroke="{stroke}"/>'
        )

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = 13, colour: str = INK) -> None:
        """A line of text; y is its base line."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = LINE, arrow: bool = False) -> None:
        """A line, perhaps with a head."""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="1.4"/>'
        )
        if arrow:
            self.parts.append(f'<path d="M{x2:g} {y2:g} l-8 -4 v8 z" fill="{colour}"/>')

    def save(self, name: str) -> None:
        """Write it."""
        (IMAGES / name).write_text("\n".join([*self.parts, "</svg>"]) + "\n", encoding="utf-8")


def frames(svg: Svg, x: float, y: float, count: int, taken: dict[int, str], step: float = 14) -> None:
    """A video of ``count`` frames, those taken in colour."""
    for i in range(count):
        svg.rect(x + i * step, y, step - 3, 22, taken.get(i, PALE), taken.get(i, LINE))


def networks() -> None:
    """What each family sees of the same 32 frames, and how it puts it together."""
    svg = Svg(900, 400, "What TSN, I3D, S3D and CNN-RNN see of a clip")
    rows = (
        ("TSN", Sampling("segments", num_frames=3), ("2D network", "on each frame"), ("average", "of the logits")),
        (
            "I3D",
            Sampling("dense", num_frames=16),
            ("3D network", "k×k×k in time and space"),
            ("average", "over the map"),
        ),
        ("S3D", Sampling("dense", num_frames=16), ("3D network", "1×k×k, then k×1×1"), ("average", "over the map")),
        ("CNN-RNN", Sampling("uniform", num_frames=8), ("2D network", "on each frame"), ("GRU, LSTM, ...", "in order")),
    )
    for row, (name, sampling, network, end) in enumerate(rows):
        y = 30 + 95 * row
        chosen = plan(32, sampling)[0].tolist()
        svg.text(20, y + 16, name, size=15)
        frames(svg, 100, y, 32, dict.fromkeys(chosen, COLOURS[row]))
        svg.text(
            100, y + 42, f"frames {', '.join(map(str, chosen[:8]))}{', ...' if len(chosen) > 8 else ''} of 32", size=11
        )
        svg.line(556, y + 11, 584, y + 11, INK, arrow=True)
        svg.rect(590, y - 8, 150, 40)
        svg.text(665, y + 9, network[0], "middle")
        svg.text(665, y + 25, network[1], "middle", 11)
        svg.line(742, y + 11, 764, y + 11, INK, arrow=True)
        svg.rect(770, y - 8, 115, 40)
        svg.text(827, y + 9, end[0], "middle")
        svg.text(827, y + 25, end[1], "middle", 11)
        if name == "TSN":
            for cut in (1, 2):
                svg.line(98.5 + 14 * 32 * cut / 3, y - 8, 98.5 + 14 * 32 * cut / 3, y + 30, "#888888")
    svg.save("networks.svg")


def sampling() -> None:
    """The frames that ``plan`` takes of a video of 40."""
    svg = Svg(900, 500, "Which frames each scheme takes of a video of 40")
    rng = np.random.default_rng(3)
    rows = (
        ("segments, 5 frames", Sampling("segments", num_frames=5)),
        ("segments, random", Sampling("segments", num_frames=5, random=True)),
        ("segments of snippets of 3", Sampling("segments", num_frames=9, snippet_length=3)),
        ("uniform, 8 frames", Sampling("uniform", num_frames=8)),
        ("uniform, random", Sampling("uniform", num_frames=8, random=True)),
        ("dense, 8 frames", Sampling("dense", num_frames=8)),
        ("dense, stride 3", Sampling("dense", num_frames=8, time_stride=3)),
        ("dense, 3 clips", Sampling("dense", num_frames=8, num_clips=3)),
        ("uniform, 2 clips", Sampling("uniform", num_frames=6, num_clips=2)),
    )
    for row, (name, one) in enumerate(rows):
        y = 24 + 52 * row
        svg.text(20, y + 16, name)
        taken = {}
        for clip, indices in enumerate(plan(40, one, rng)):
            taken |= dict.fromkeys(indices.tolist(), COLOURS[clip])
        frames(svg, 220, y, 40, taken, step=16.5)
    svg.save("sampling.svg")


def crops() -> None:
    """Where the crops of 224 lie in a frame of 340×256."""
    svg = Svg(900, 210, "The crops of evaluation")
    for place, (crop, told) in enumerate(
        (("center", "center: 1 view"), ("three", "three: 3 views"), ("ten", "ten: 5, and their mirror images"))
    ):
        x, y, scale = 30 + 290 * place, 20, 0.6
        svg.rect(x, y, 340 * scale, 256 * scale)
        for i, (top, left) in enumerate(_corners(crop, 256 - 224, 340 - 224)):
            svg.rect(x + left * scale, y + top * scale, 224 * scale, 224 * scale, "none", COLOURS[i])
        svg.text(x, y + 256 * scale + 22, told)
    svg.save("crops.svg")


def inflation() -> None:
    """A 3×3 filter, repeated in time and divided."""
    svg = Svg(900, 230, "How inflation makes a 3D filter of a 2D one")
    kernel = ((1, 0, -1), (2, 0, -2), (1, 0, -1))

    def draw(x: float, y: float, divide: bool) -> None:
        for i, line in enumerate(kernel):
            for j, value in enumerate(line):
                svg.rect(x + 44 * j, y + 34 * i, 44, 34, "white")
                told = f"{value}/3" if divide and value else str(value)
                svg.text(x + 44 * j + 22, y + 34 * i + 22, told, "middle", 14)

    svg.text(30, 30, "a 2D filter, 3×3")
    draw(30, 60, divide=False)
    svg.line(190, 110, 290, 110, INK, arrow=True)
    svg.text(240, 98, "repeat 3 ×", "middle", 12)
    svg.text(240, 130, "divide by 3", "middle", 12)
    svg.text(320, 30, "its 3D filter, 3×3×3: one slice each for the frame before, this one, the next")
    for k, told in enumerate(("t − 1", "t", "t + 1")):
        draw(320 + 180 * k, 60, divide=True)
        svg.text(320 + 180 * k + 66, 184, told, "middle")
    svg.text(30, 214, "On a still clip the three slices see the same picture, and their sum is the 2D filter's answer.")
    svg.save("inflation.svg")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    networks()
    sampling()
    crops()
    inflation()
