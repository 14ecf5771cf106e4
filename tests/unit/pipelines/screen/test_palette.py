"""Colours of lines: people who see no red or no green tell them apart, on white and on dark.

Simulated as Machado, Oliveira and Fernandes do (2009, severity 1), compared in CIELAB.
"""

import re
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.screen.page.document import own

Colour = NDArray[np.float64]

SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
APART = 18.0
"""Distance in CIELAB that two areas need to be told apart at a glance; 2.3 can just be seen."""


def palettes() -> dict[str, tuple[str, dict[str, str]]]:
    """Return the paper and the colours of lines of each scheme, from the style sheets."""
    light, dark = own("report.css").split("(prefers-color-scheme: dark)")
    dark = dark.partition("@media print")[0]
    papers = own("style.css"), dark
    found = {}
    for name, text, paper in (("light", light, papers[0]), ("dark", dark, papers[1])):
        lines = dict(re.findall(r"(--line-\d): (#[0-9a-f]{6});", text))
        paper_colour = re.search(r"--paper: (#[0-9a-f]{6});", paper)
        assert paper_colour is not None
        found[name] = paper_colour[1], lines
    return found


def linear(colour: str) -> Colour:
    """Return the linear RGB of a colour in the form ``#rrggbb``."""
    coded = np.array([int(part, 16) / 255 for part in re.findall("..", colour[1:])])
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def lab(colour: Colour) -> Colour:
    """Return linear RGB in CIELAB, under D65."""
    x, y, z = _TO_XYZ @ np.clip(colour, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    fx, fy, fz = (
        each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116 for each in (x, y, z)
    )
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def contrast(one: str, other: str) -> float:
    """Return the contrast of WCAG between two colours."""
    bright, dim = sorted((float(_TO_XYZ[1] @ linear(each)) for each in (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_lines_are_told_apart(scheme: str, sight: str) -> None:
    paper, lines = palettes()[scheme]
    assert len(lines) == 6
    seen = {name: lab(SIGHTS[sight] @ linear(colour)) for name, colour in lines.items()}
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > APART, (one, other)
    ground = lab(SIGHTS[sight] @ linear(paper))
    for name, colour in seen.items():
        assert np.linalg.norm(colour - ground) > 2 * APART, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_stand_out_from_the_paper(scheme: str) -> None:
    paper, lines = palettes()[scheme]
    for name, colour in lines.items():
        assert contrast(paper, colour) >= 3, name


def test_the_simulation_knows_red_from_green() -> None:
    """The check can fail: pure red and green of one lightness are near for the colour-blind."""
    red, green = linear("#b05000"), linear("#6f7a00")
    far = np.linalg.norm(lab(red) - lab(green))
    near = np.linalg.norm(lab(SIGHTS["deuteranopia"] @ red) - lab(SIGHTS["deuteranopia"] @ green))
    assert near < APART < far
