"""How every plot of a report looks, and how it gets into the page: SVG inside the HTML, written here.

A plot is in the page's own ink: as sharp in print as on a screen, and it follows the page into the dark. It is a few
lines, dots, boxes and pictures between two axes; a plotting library draws more than that and took longer, with its
import, than a small table's fit (docs/decisions/0032-what-a-run-costs-beside-its-fit.md).
"""

import base64
import colorsys
import html
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from models.schema import Feature, NumberFeature

MOST_POINTS = 2000
"""Rows drawn as points; more hide what is under them."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")  # apart for the colour-blind
INK, PALE, GRID = "currentColor", "#B8BEC6", "var(--line)"
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
_TEXT, _LINE = 12, 17  # size of the text and from one line of it to the next, in pixels
_GAP = 6

Numbers = float | Sequence[float] | npt.NDArray[Any]
Range = tuple[float, float]


@dataclass
class Axes:
    """One plot: what is drawn in it, in the order it was added, and its two axes.

    Attributes:
        across, up: what the axes are called; `x`, `y` what they span, everything drawn and a margin where None.
        x_ticks, y_ticks: places and their names; chosen where None.
        is_log: the upright axis counts factors.
        is_slanted: the names below the plot are too long to stand beside each other.
        has_frame: lines stand for the axes.
    """

    across: str = ""
    up: str = ""
    x: Range | None = None
    y: Range | None = None
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_ticks: Sequence[tuple[float, str]] | None = None
    is_log: bool = False
    is_equal: bool = False
    is_slanted: bool = False
    has_frame: bool = True
    has_grid: bool = False
    marks: list[tuple[str, npt.NDArray[np.float64], str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)

    def line(
        self, x: Numbers, y: Numbers, colour: str, width: float = 1.6, opacity: float = 1.0, *, dashed: bool = False
    ) -> None:
        """A line through the points."""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        look = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}"{dashes}'
        self._add("line", np.array([x, y], dtype=np.float64).T, look)

    def dots(self, x: Numbers, y: Numbers, colour: str, size: float, opacity: float = 1.0) -> None:
        """A dot at each point."""
        look = f'stroke="{colour}" stroke-width="{size}" stroke-opacity="{opacity}" stroke-linecap="round"'
        self._add("dots", np.array([x, y], dtype=np.float64).T, look)

    def boxes(self, x0: Numbers, y0: Numbers, x1: Numbers, y1: Numbers, colour: str, *, opacity: float = 1.0) -> None:
        """A filled box between each two corners."""
        corners = np.array(np.broadcast_arrays(x0, y0, x1, y1), dtype=np.float64).T
        self._add("boxes", corners.reshape(-1, 2), f'fill="{colour}" fill-opacity="{opacity}"')

    def spans(self, x0: Numbers, y0: Numbers, x1: Numbers, y1: Numbers, colour: str) -> None:
        """A straight line between each two points."""
        ends = np.array(np.broadcast_arrays(x0, y0, x1, y1), dtype=np.float64).T
        self._add("spans", ends.reshape(-1, 2), f'stroke="{colour}"')

    def picture(self, pixels: npt.NDArray[np.uint8], x: Range, y: Range) -> None:
        """A picture over two ranges: [rows from below, columns, red green blue alpha]."""
        source = f"data:image/png;base64,{base64.b64encode(_png(pixels[::-1])).decode()}"
        look = f'preserveAspectRatio="none" href="{source}" style="image-rendering: pixelated"'
        self._add("picture", np.array([x, y], dtype=np.float64).T, look)

    def text(self, x: float, y: float, text: str, colour: str) -> None:
        """A text in the middle of a place."""
        inside = f'text-anchor="middle" dominant-baseline="central" fill="{colour}">{html.escape(text)}'
        self._add("text", np.array([[x, y]], dtype=np.float64), inside)

    def _add(self, kind: str, points: npt.NDArray[np.float64], look: str) -> None:
        self.marks.append((kind, points[np.isfinite(points).all(1)] if kind in ("line", "dots") else points, look))


@dataclass(frozen=True)
class Figure:
    """Plots side by side and below each other, each with its left, top, width and height in pixels."""

    width: float
    height: float
    cells: list[tuple[Axes, float, float, float, float]]


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one plot, in pixels."""
    axes = Axes()
    return Figure(width, height, [(axes, 0, 0, width, height)]), axes


def panels(count: int, width: float = 864, height: float = 365) -> tuple[Figure, list[Axes]]:
    """Up to four plots in a row of two or in one column of pairs."""
    count = min(count, 4)
    if count == 1:
        figure, axes = panel(461, 346)
        return figure, [axes]
    rows, half = (count + 1) // 2, width / 2
    drawn = [Axes() for _ in range(count)]
    cells = [(axes, half * (k % 2), height * (k // 2), half, height) for k, axes in enumerate(drawn)]
    return Figure(width, height * rows, cells), drawn


def svg_of(figure: Figure, name: str) -> str:
    """The figure as an SVG element, which the element with the id `name` describes."""
    margins = [_margins(axes, width) for axes, _, _, width, _ in figure.cells]
    parts = []
    for axes, left, top, width, height in figure.cells:
        # plots in one column begin at one line, plots in one row stand on one
        column = [own for own, cell in zip(margins, figure.cells, strict=True) if cell[1] == left]
        row = [own for own, cell in zip(margins, figure.cells, strict=True) if cell[2] == top]
        inner_left, inner_top = left + max(own[0] for own in column), top + max(own[1] for own in row)
        inner_width = left + width - 2 * _GAP - inner_left
        inner_height = top + height - max(own[2] for own in row) - inner_top
        parts.append(_drawn(_Frame.of(axes, inner_left, inner_top, inner_width, inner_height), left))
    least = round(0.6 * figure.width)  # narrower, nobody could read its text: it is moved instead
    return (
        f'<svg role="img" aria-labelledby="{name}" style="width: {figure.width:.0f}px; min-width: {least}px" '
        f'viewBox="0 0 {figure.width:.0f} {figure.height:.0f}" font-size="{_TEXT}" fill="{INK}">{"".join(parts)}</svg>'
    )


# ------------------------------------------------------------------------------------------------ a plot


def _margins(axes: Axes, width: float) -> tuple[float, float, float]:
    """Pixels left of, above and below what is drawn."""
    names = [_width(name) for _, name in _ticks(axes, 1)]
    left = max(names, default=0) + 2 * _GAP + (_LINE if axes.up else 0)
    bottom = _height_below(axes) + _LINE * bool(axes.across) + 2 * _GAP
    return left, _GAP + _LINE * len(_legend_lines(axes, width)) + _GAP * bool(axes.legend), bottom


@dataclass(frozen=True)
class _Frame:
    """Where the inside of a plot stands, in pixels, and what its axes span."""

    axes: Axes
    spans: tuple[Range, Range]
    left: float
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, axes: Axes, left: float, top: float, width: float, height: float) -> Self:
        x, y = spans = _range(axes, 0), _range(axes, 1)
        if axes.is_equal:  # a circle is a circle
            unit = min(width / (x[1] - x[0]), height / (y[1] - y[0]))
            width, height = unit * (x[1] - x[0]), unit * (y[1] - y[0])
        return cls(axes, spans, left, top, width, height)

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def across(self, x: Any) -> Any:
        """Pixels from the left edge."""
        low, high = self.spans[0]
        return (x - low) / (high - low) * self.width

    def down(self, y: Any) -> Any:
        """Pixels from the upper edge."""
        low, high = np.log10(self.spans[1]) if self.axes.is_log else self.spans[1]
        return (high - (np.log10(y) if self.axes.is_log else y)) / (high - low) * self.height


def _drawn(frame: _Frame, outer_left: float) -> str:
    axes, left, top, right = frame.axes, frame.left, frame.top, frame.left + frame.width
    parts = [_names_below(frame), _names_beside(frame)]
    inside = "".join(
        _mark(kind, np.column_stack([frame.across(points[:, 0]), frame.down(points[:, 1])]), look)
        for kind, points, look in axes.marks
        if len(points)
    )
    # an SVG within cuts off what is beyond its edges
    size = f'width="{frame.width:.1f}" height="{frame.height:.1f}"'
    parts.append(f'<svg x="{left:.1f}" y="{top:.1f}" {size}>{inside}</svg>')
    if axes.has_frame:
        parts.append(f'<path d="M{left:.1f} {top:.1f}V{frame.bottom:.1f}H{right:.1f}" fill="none" stroke="{PALE}"/>')
    if axes.up:
        turned = f'transform="translate({outer_left + _TEXT:.1f} {top + frame.height / 2:.1f}) rotate(-90)"'
        parts.append(f'<text text-anchor="middle" {turned}>{html.escape(axes.up)}</text>')
    lines = _legend_lines(axes, right - outer_left)
    for number, line in enumerate(lines):
        x, y = left, top - _GAP - _LINE * (len(lines) - number - 0.5)
        for name, of_name in line:
            parts.append(f'<path d="M{x:.1f} {y:.1f}h14" stroke="{of_name}" stroke-width="4"/>')
            parts.append(f'<text x="{x + 19:.1f}" y="{y:.1f}" dominant-baseline="central">{html.escape(name)}</text>')
            x += _legend_width(name)
    return "".join(parts)


def _names_below(frame: _Frame) -> str:
    axes, y = frame.axes, frame.bottom
    parts = []
    for place, name in _ticks(axes, 0):
        x = frame.left + frame.across(place)
        at = f'text-anchor="middle" x="{x:.1f}" y="{y + 16:.1f}"'
        if axes.is_slanted:
            at = f'text-anchor="end" transform="translate({x + 4:.1f} {y + 16:.1f}) rotate(-30)"'
        parts.append(f"<text {at}>{html.escape(name)}</text>")
        if axes.has_frame:
            parts.append(f'<path d="M{x:.1f} {y:.1f}v4" stroke="{PALE}"/>')
    if axes.across:
        middle = frame.left + frame.width / 2
        y += _height_below(axes) + _LINE
        parts.append(f'<text text-anchor="middle" x="{middle:.1f}" y="{y:.1f}">{html.escape(axes.across)}</text>')
    return "".join(parts)


def _names_beside(frame: _Frame) -> str:
    axes, x = frame.axes, frame.left
    parts = []
    for place, name in _ticks(axes, 1):
        y = frame.top + frame.down(place)
        if axes.has_grid:
            parts.append(f'<path d="M{x:.1f} {y:.1f}h{frame.width:.1f}" stroke="{GRID}"/>')
        at = f'text-anchor="end" dominant-baseline="central" x="{x - _GAP:.1f}" y="{y:.1f}"'
        parts.append(f"<text {at}>{html.escape(name)}</text>")
        if axes.has_frame:
            parts.append(f'<path d="M{x:.1f} {y:.1f}h-4" stroke="{PALE}"/>')
    return "".join(parts)


def _height_below(axes: Axes) -> float:
    """Pixels that the names below a plot take."""
    widest = max((_width(name) for _, name in _ticks(axes, 0)), default=0)
    return 0.5 * widest * axes.is_slanted + _LINE * bool(widest)


def _mark(kind: str, at: npt.NDArray[np.float64], look: str) -> str:
    def points(letters: tuple[str, ...], after: tuple[str, ...]) -> str:
        ends = [f"{letters[k % len(letters)]}{x:.1f} {y:.1f}{after[k % len(after)]}" for k, (x, y) in enumerate(at)]
        return "".join(ends)

    match kind:
        case "line":
            return f'<path {look} d="M{points(("",), (" ",))}"/>'
        case "dots":
            return f'<path {look} d="{points(("M",), ("h0",))}"/>'
        case "spans":
            return f'<path {look} d="{points(("M", "L"), ("",))}"/>'
        case "text":
            return f'<text x="{at[0, 0]:.1f}" y="{at[0, 1]:.1f}" {look}</text>'
    low, size = np.minimum(at[::2], at[1::2]), np.abs(at[1::2] - at[::2])
    places = [
        f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"' for (x, y), (w, h) in zip(low, size, strict=True)
    ]
    if kind == "picture":
        return f"<image {places[0]} {look}/>"
    return f"<g {look}>" + "".join(f"<rect {place}/>" for place in places) + "</g>"


def _legend_lines(axes: Axes, width: float) -> list[list[tuple[str, str]]]:
    """The legend above the plot, in as many lines as it needs."""
    lines: list[list[tuple[str, str]]] = []
    room = 0.0
    for name, colour in axes.legend:
        if not lines or room < _legend_width(name):
            lines.append([])
            room = width - 60  # what stands left of most plots
        lines[-1].append((name, colour))
        room -= _legend_width(name)
    return lines


def _legend_width(name: str) -> float:
    return _width(name) + 34


def _width(text: str) -> float:
    """About how wide the browser's font makes a text: what is far from Latin is as wide as high."""
    return sum(_TEXT if ord(letter) > 0x2E80 else 0.56 * _TEXT for letter in text)


# ------------------------------------------------------------------------------------------------ the axes


def _range(axes: Axes, k: int) -> Range:
    """What an axis spans."""
    if (given := (axes.x, axes.y)[k]) is not None:
        return given
    values = np.concatenate([points[:, k] for _, points, _ in axes.marks if len(points)] or [np.zeros(1)])
    low, high = float(values.min()), float(values.max())
    if k == 1 and axes.is_log:
        margin = (high / low) ** 0.05 if high > low else 1.1
        return low / margin, high * margin
    margin = 0.05 * (high - low) or max(0.5 * abs(low), 0.5)
    return low - margin, high + margin


def _ticks(axes: Axes, k: int) -> Sequence[tuple[float, str]]:
    """The places of an axis that have a name."""
    if (given := (axes.x_ticks, axes.y_ticks)[k]) is not None:
        return given
    low, high = _range(axes, k)
    if k == 1 and axes.is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, (last - first) // 6)
        factors = (1, 2, 5) if last - first <= 3 else (1,)
        places = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
        return [(place, f"{place:g}") for place in places if low <= place <= high]
    step = _nice((high - low) / 6)
    decimals = max(
        0, -math.floor(math.log10(step) + 1e-9) + (round(step / 10 ** math.floor(math.log10(step)), 6) == 2.5)
    )
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    is_plain = 1e-5 < step < 1e7
    return [(n * step, f"{n * step:.{decimals}f}" if is_plain else f"{n * step:.4g}") for n in numbers]


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


# ------------------------------------------------------------------------------------------------ colours and names


def colour(code: int) -> str:
    """The colour of a class."""
    if code < len(COLOURS):
        return COLOURS[code]
    red, green, blue = colorsys.hls_to_rgb(code * 0.381966 % 1, 0.55, 0.5)  # by the golden angle, neighbours are apart
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def rgb(of: str) -> npt.NDArray[np.float64]:
    """Red, green and blue from 0 to 255."""
    return np.array([int(of[k : k + 2], 16) for k in (1, 3, 5)], dtype=np.float64)


def shades(shares: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The colours of numbers from 0 to 1, dark to light: [...] -> [..., 3]."""
    table = np.array([rgb(one) for one in VIRIDIS])
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(shares, places, table[:, k]) for k in range(3)], axis=-1)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The picture [rows, columns, 4] as a PNG (W3C, third edition): a header, rows without filter, an end."""
    rows, columns, _ = pixels.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], 1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    content = chunk(b"IDAT", zlib.compress(lines.tobytes(), 6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + content + chunk(b"IEND", b"")


def some(rows: int, most: int = MOST_POINTS) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` rows, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))


def with_unit(feature: Feature) -> str:
    """What an axis of this feature is called."""
    unit = feature.unit if isinstance(feature, NumberFeature) else None
    return shortened(feature.name) + (f" ({shortened(unit)})" if unit else "")


def shortened(value: object, most: int = 40) -> str:
    """A name as a plot shows it: on one line of at most `most` characters."""
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in str(value)).split())
    return text if len(text) <= most else text[: most - 1] + "…"
