"""Colours of pages stand apart for readers with each kind of colour blindness, and from both grounds."""

from itertools import combinations

import numpy as np
import pytest

from formulations.kit.arrays import Floats
from optimizer.report.page.skeleton import asset
from optimizer.report.page.theme import COLOURS

SEEN = {
    "all colours": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""What is seen of linear red, green and blue (Machado, Oliveira and Fernandes 2009, severity 1)."""

TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""Of linear sRGB, with D65 as white."""

APART = 8
"""Distance in CIELAB. From 2.3 on a difference is just noticed side by side, and lines of a picture are not that."""

GRAPHICS = 2.2
"""Contrast to the ground. WCAG 2.1 asks for 3 of graphics that stand alone; orange and light blue have less on white,
and what they show stands in tables and texts as well."""


def linear(colour: str) -> Floats:
    """Linear red, green and blue of `#rrggbb`."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    found: Floats = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return found


def lab(light: Floats) -> Floats:
    """Linear sRGB in CIELAB."""
    share = TO_XYZ @ np.clip(light, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", SEEN)
def test_any_two_colours_stand_apart(kind: str) -> None:
    seen = {colour: lab(np.array(SEEN[kind]) @ linear(colour)) for colour in COLOURS}
    for one, other in combinations(COLOURS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > APART, (one, other)


def test_colours_stand_out_from_light_and_dark_ground() -> None:
    grounds = ["#ffffff", "#14171c"]
    assert all(f"--ground: {ground}" in asset("page.css") for ground in grounds)
    for ground in grounds:
        for colour in COLOURS:
            dark, light = sorted(float(TO_XYZ[1] @ linear(each)) for each in (colour, ground))
            assert (light + 0.05) / (dark + 0.05) > GRAPHICS, (colour, ground)
