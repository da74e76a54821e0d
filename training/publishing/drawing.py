"""How every plot of a report looks, and how it gets into the page.

A plot is an SVG inside the HTML, in the page's own ink: as sharp in print as on a screen, and it follows the page into
the dark. What has very many points is a picture inside the SVG.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")  # apart for the colour-blind
INK, PALE, GRID = "#222222", "#B8BEC6", "#EEF0F2"
_OF_THE_PAGE = {INK: "currentColor", GRID: "var(--line)"}
_LOOK: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "text.color": INK,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.constrained_layout.w_pad": 0.1,  # inches; the browser's font is a little wider than the one measured
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it is found, read aloud, and drawn in any script
}


@contextmanager
def plain_drawing() -> Iterator[None]:
    """The look of every plot; names in scripts that the font lacks are measured as boxes and drawn by the browser."""
    with rc_context(_LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def svg_of(figure: Figure, name: str) -> str:
    """The figure as an SVG element; the same figure gives the same text. `name` keeps its ids apart from others'."""
    raw = io.StringIO()
    figure.dpi = 160  # of the pictures in it
    with rc_context({"svg.hashsalt": name}):
        # savefig would write the same, and draw everything once more before, only to lay it out
        canvas, unsaid = FigureCanvasSVG(figure), dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(raw, metadata=unsaid)  # type: ignore[no-untyped-call]  # it has no types
    text = raw.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # only what is referred to needs a name, and each name once
    text = re.sub(r'(<svg [^>]*?)width="[^"]*pt"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*pt"', r"\1", text, count=1)
    for colour, of_the_page in _OF_THE_PAGE.items():
        text = re.sub(colour, of_the_page, text, flags=re.IGNORECASE)
    width = round(figure.get_figwidth() * 96)
    least = round(0.6 * width)  # narrower, nobody could read its text: it is moved instead
    named = f'<svg role="img" aria-labelledby="{name}" style="width: {width}px; min-width: {least}px" '
    return text.replace("<svg ", named, 1)


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one plot, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(count: int, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """Up to four plots in a row of two or in one column of pairs."""
    count = min(count, 4)
    if count == 1:
        figure, axes = panel(4.8, 3.6)
        return figure, [axes]
    rows = (count + 1) // 2
    figure = Figure(figsize=(9.0, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, 2, place + 1) for place in range(count)]


def colour(code: int) -> Any:
    """The colour of a class."""
    return COLOURS[code] if code < len(COLOURS) else colormaps["tab20"](code % 20)


def shades(of: Any, low: float, high: float, count: int) -> ListedColormap:
    """A colour from nearly clear to strong, so that it lies on a light page as on a dark one."""
    return ListedColormap([(*to_rgb(of), float(share)) for share in np.linspace(low, high, count)])


def with_unit(name: str, unit: str | None) -> str:
    """What the axis of a feature is called."""
    return shortened(name) + (f" ({shortened(unit)})" if unit else "")


def shortened(value: object, most: int = 40) -> str:
    """A name as a plot shows it: on one line of at most `most` characters."""
    text = " ".join("".join(mark if mark.isprintable() else " " for mark in str(value)).split())
    return text if len(text) <= most else text[: most - 1] + "…"
