"""How sure an answer is: prediction intervals of a regression, prediction sets of a classification.

Both are split conformal (Vovk, Gammerman, Shafer 2005, section 4; Lei et al. 2018, "Distribution-free predictive
inference for regression", theorem 2.2): rows that trained nothing say how large errors are, and the constants found
there hold for every row of the same population, whatever the network. `training/judging/intervals.py` finds them; the
code that applies them is here, since the report and the server have to mean the same.
"""

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from models.record import Record

Level = Annotated[float, Field(gt=0, lt=1)]
Real = npt.NDArray[np.float64]
Numbers = Annotated[tuple[float, ...], Field(strict=False)]


class _Conformal(Record):
    method: Literal["split_conformal"] = "split_conformal"
    rows: Annotated[int, Field(ge=1)]
    levels: Annotated[tuple[Level, ...], Field(min_length=1, strict=False)]
    coverage: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _levels_rise(self) -> Self:
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError("levels must rise")
        if self.coverage is not None and len(self.coverage) != len(self.levels):
            raise ValueError("coverage must have one value for each level")
        return self


class Intervals(_Conformal):
    """Between which bounds a regression's target lies, for each of several levels of coverage.

    A bound is the prediction plus an offset. Errors often grow with what is predicted, so each target's predictions are
    cut into bins and every bin has offsets of its own (Mondrian conformal prediction: Vovk et al. 2005, section 4.5);
    the two ends are found apart, since errors are rarely symmetric. A level holds for each target by itself.

    Attributes:
        method: how they were found.
        rows: how many rows calibrated the offsets.
        levels: the shares of rows whose target lies inside, rising.
        edges: per target, where its bins meet, rising; B - 1 of them, none for a single bin.
        low, high: per target, bin and level, what is added to the prediction.
        coverage: per level, the share of test rows inside, mean over the targets; None without a test part.
    """

    edges: Annotated[tuple[Numbers, ...], Field(min_length=1, strict=False)]
    low: Annotated[tuple[tuple[Numbers, ...], ...], Field(strict=False)]
    high: Annotated[tuple[tuple[Numbers, ...], ...], Field(strict=False)]

    @model_validator(mode="after")
    def _offsets_are_complete(self) -> Self:
        for name, offsets in (("low", self.low), ("high", self.high)):
            is_whole = len(offsets) == len(self.edges) and all(
                len(bins) == len(edges) + 1 and all(len(of_bin) == len(self.levels) for of_bin in bins)
                for bins, edges in zip(offsets, self.edges, strict=True)
            )
            if not is_whole:
                raise ValueError(f"{name} must have a value for each target, bin and level")
        if any(list(edges) != sorted(set(edges)) for edges in self.edges):
            raise ValueError("edges must rise")
        return self

    def bounds(self, prediction: npt.NDArray[np.floating], level: float) -> tuple[Real, Real]:
        """The lower and the upper bounds of this level, which is one of `levels`.

        Shape:
            prediction: [N, K] -> [N, K], [N, K]
        """
        at = self.levels.index(level)
        values = prediction.astype(np.float64)
        lower, upper = values.copy(), values.copy()
        for k, edges in enumerate(self.edges):
            bins = np.searchsorted(edges, values[:, k], side="right")
            lower[:, k] += np.array([of_bin[at] for of_bin in self.low[k]])[bins]
            upper[:, k] += np.array([of_bin[at] for of_bin in self.high[k]])[bins]
        return lower, upper


class PredictionSets(_Conformal):
    """Among which classes the right one is, for each of several levels of coverage.

    A set holds every class at least as probable as the level's threshold (Sadinle, Lei, Wasserman 2019, "Least
    ambiguous set-valued classifiers"), and always the likeliest one, so that no set is empty. A network that is right
    more often than the level asks therefore covers more than the level.

    Attributes:
        method: how they were found.
        rows: how many rows calibrated the thresholds.
        levels: the shares of rows whose class is in the set, rising.
        thresholds: per level, the least probability of a class in the set.
        coverage: per level, the share of test rows whose class is in the set; None without a test part.
        sizes: per level, how many classes the sets of the test rows have on average.
    """

    thresholds: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False)]
    sizes: Numbers | None = None

    @model_validator(mode="after")
    def _thresholds_are_complete(self) -> Self:
        if len(self.thresholds) != len(self.levels):
            raise ValueError("thresholds must have one value for each level")
        return self

    def members(self, probabilities: npt.NDArray[np.floating], level: float) -> npt.NDArray[np.bool_]:
        """Which classes are in the set of each row, for a level that is one of `levels`.

        Shape:
            probabilities: [N, C] -> [N, C]
        """
        inside: npt.NDArray[np.bool_] = probabilities >= self.thresholds[self.levels.index(level)]
        if len(inside):
            inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
        return inside
