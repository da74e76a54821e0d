"""A plot that has not been drawn yet: it crosses to whoever has Matplotlib, and comes back as text.

Nothing is imported here that the process of `training/aside.py` would have to wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = npt.NDArray[Any]
Axis = tuple[str, str | None]
"""What an axis is called: the name of a feature, and its unit."""


class Plane(NamedTuple):
    """What a network of two numbers answers.

    Attributes:
        points, y: some rows [N, 2], and their targets [N].
        across, up: the values along both axes.
        answers: at each point of their grid [up, across, ...].
        axes: what both are called.
    """

    points: Numbers
    y: Numbers
    across: npt.NDArray[np.float64]
    up: npt.NDArray[np.float64]
    answers: Numbers
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Plot:
    """What is to be drawn.

    Attributes:
        name: what the page calls it.
        function: who draws it, a function of `figures.py`.
        given: what that is given: arrays, numbers and texts.
    """

    name: str
    caption: str
    function: str
    given: tuple[Any, ...]

    def draw(self) -> "Figure":
        """The figure."""
        from training.publishing import figures  # noqa: PLC0415 - here and below: see training/later.py

        figure: Figure = getattr(figures, self.function)(*self.given)
        return figure


def svgs_of(plots: Sequence[Plot]) -> list[str]:
    """Each plot as an SVG element."""
    from training.publishing.drawing import plain_drawing, svg_of  # noqa: PLC0415

    with plain_drawing():
        return [svg_of(plot.draw(), plot.name) for plot in plots]
