"""What stands at an axis and in a picture."""

import base64
import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import drawing
from training.drawing import Axes, panel, svg_of

ends = st.floats(-1e12, 1e12, allow_nan=False)


@given(ends, st.floats(1e-6, 1e6))
def test_an_axis_has_a_few_names_that_differ(low, share):
    high = low + share * max(abs(low), 1e-6)
    ticks = drawing._ticks(Axes(x=(low, high)), 0)
    places = [place for place, _ in ticks]
    assert 2 <= len(ticks) <= 8
    assert places == sorted(places)
    assert low - 1e-6 * (high - low) <= places[0] < places[-1] <= high + 1e-6 * (high - low)
    if share > 1e-3:
        assert len({name for _, name in ticks}) == len(ticks)


@given(st.floats(1e-9, 1e9), st.floats(0.2, 14))
def test_an_axis_that_counts_factors_has_names_within_what_it_spans(low, decades):
    high = low * 10**decades
    ticks = drawing._ticks(Axes(y=(low, high), is_log=True), 1)
    assert len(ticks) <= 12
    assert all(low <= place <= high for place, _ in ticks)
    assert decades < 1 or ticks


@pytest.mark.parametrize(
    ("low", "high", "names"), [(0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]), (-20, 40, None)]
)
def test_names_are_round(low, high, names):
    found = [name for _, name in drawing._ticks(Axes(x=(low, high)), 0)]
    assert found == (names or ["-20", "-10", "0", "10", "20", "30", "40"])


def test_a_point_stands_where_the_axes_say():
    figure, axes = panel(400, 300)
    axes.x, axes.y = (0, 10), (0, 5)
    axes.dots([0, 5, 10, np.nan], [0, 2.5, 5, 1], "#000000", 3)
    inside = re.search(r'<svg x="\S+" y="\S+" width="(\S+)" height="(\S+)">.*?d="(.*?)"', svg_of(figure, "plot"))
    width, height = float(inside[1]), float(inside[2])
    points = [tuple(map(float, point.split())) for point in re.findall(r"M(\S+ [\d.]+)h0", inside[3])]
    right = [(0, height), (width / 2, height / 2), (width, 0)]
    np.testing.assert_allclose(points, right, atol=0.06)  # what is nowhere is not drawn


def test_a_picture_has_its_pixels_from_below():
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    figure, axes = panel(400, 300)
    axes.picture(pixels, (0, 3), (0, 2))
    png = base64.b64decode(re.search(r'base64,([^"]*)"', svg_of(figure, "plot"))[1])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    start, size = png.index(b"IDAT") + 4, int.from_bytes(png[png.index(b"IDAT") - 4 : png.index(b"IDAT")], "big")
    lines = np.frombuffer(zlib.decompress(png[start : start + size]), np.uint8).reshape(2, 13)
    assert (lines[:, 0] == 0).all()
    np.testing.assert_array_equal(lines[:, 1:].reshape(2, 3, 4), pixels[::-1])


def test_classes_have_colours_of_their_own():
    assert len({drawing.colour(code) for code in range(30)}) == 30
