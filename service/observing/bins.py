"""Bins of values, and how far lately counted ones are from those of the training rows.

The measure is the population stability index of each feature and target:

    PSI = sum over bins of (a - e) ln(a / e)      a, e: shares of the bin lately and in training

(Siddiqi 2006, Credit Risk Scorecards; by its rule of thumb below 0.1 nothing moved, above 0.25 much did). Without any
drift it is about (bins - 1) / rows (Yurdakul 2018), 0.01 for 11 bins and 1,000 rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features import BooleanFeature, CategoryFeature, NumberFeature
from models.manifest import Manifest
from models.schema import Matrix

MOST_FEATURES = 100
"""Of one version; further ones are not measured."""

_BINS = 10  # of a number, as is usual for this index
_MOST_CATEGORIES = 20  # that have a bin of their own
_LEAST_SHARE = 0.001  # of a bin, in training and lately: else one row where there were none would outweigh all others

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Where values of a feature or target fall, and which share of the training rows fell there.

    Attributes:
        edges: upper edges of the intervals but the last, each belonging to the interval below it.
        bin_of: the bin of each interval. One more bin, the last, is for missing values.
        low, high: shares of training values up to each edge. They differ where values repeat, since quantiles leave
            open how often; what is seen is then taken to be as near as it may be.
        missing: share of training rows without a value.
    """

    edges: npt.NDArray[Any]
    bin_of: npt.NDArray[np.int64]
    low: Floats
    high: Floats
    missing: float

    @property
    def size(self) -> int:
        """How many bins there are."""
        return int(self.bin_of.max()) + 2

    def count(self, values: npt.NDArray[Any]) -> Floats:
        """How many of the values [N] fall in each bin."""
        bins = self.bin_of[np.searchsorted(self.edges, values)]
        bins[np.isnan(values)] = self.size - 1
        return np.bincount(bins, minlength=self.size).astype(np.float64)

    def psi(self, counts: Floats) -> float:
        """The population stability index of counts [bins]."""
        lately = counts / counts.sum()
        training = np.maximum(self._training(lately), _LEAST_SHARE)
        lately = np.maximum(lately, _LEAST_SHARE)
        return float(np.sum((lately - training) * np.log(lately / training)))

    def _training(self, lately: Floats) -> Floats:
        present = lately[:-1]
        share = np.cumsum(present)[:-1] / max(present.sum(), 1e-9)
        up_to = np.clip(share, self.low, self.high)
        return np.append(np.diff(up_to, prepend=0.0, append=1.0) * (1 - self.missing), self.missing)


def bins_of_number(quantiles: Sequence[float], missing: float, datatype: type[np.generic]) -> Bins:
    """About ten bins of equal share, fewer where values repeat; a number that was always the same has three."""
    known = np.array(quantiles, dtype=datatype)  # rounded as the rows are, else a value might pass by its own edge
    if known[0] == known[-1]:
        edges = np.array([np.nextafter(known[0], datatype(-np.inf)), known[0]])
        return Bins(edges, np.arange(3), np.array([0.0, 1.0]), np.array([0.0, 1.0]), missing)
    last = len(known) - 1
    inner = np.unique(known[np.linspace(0, last, _BINS + 1).round().astype(int)])
    edges = inner[(inner < known[-1]) & ((inner > known[0]) | (known[0] == known[1]))]
    first_at, last_at = np.searchsorted(known, edges), np.searchsorted(known, edges, side="right") - 1
    low = last_at / last
    repeats = (last_at > first_at) | bool(np.all(known == np.round(known)))
    high = np.where(repeats, (last_at + 1) / last, low)
    return Bins(edges, np.arange(len(edges) + 1), low, high, missing)


def bins_of_shares(shares: Sequence[float], missing: float) -> Bins:
    """A bin for each of the 20 most frequent categories, one for all others and, the last but one, for unknown ones."""
    own = sorted(sorted(range(len(shares)), key=lambda index: -shares[index])[:_MOST_CATEGORIES])
    bins = np.full(len(shares) + 1, len(own))
    bins[own] = np.arange(len(own))
    bins[-1] = len(own) + 1
    # what training rows had beyond the schema's categories was too rare to be told apart, and is unknown now as then
    known, told_apart = sum(shares), [shares[index] for index in own]
    training = np.append(told_apart, [max(0.0, known - sum(told_apart)), max(0.0, 1 - known)])
    low = np.cumsum(training)[:-1]
    return Bins(np.arange(len(shares)), bins, low, low, missing)


class Reference:
    """What the manifest of a version says of its training rows, as bins.

    A datetime has none: time passes, so those that are asked about are never those of the training. Nor has a feature
    whose quantiles or shares the manifest leaves out.
    """

    def __init__(self, manifest: Manifest) -> None:
        datatype = np.float32 if manifest.input.datatype == "FP32" else np.float64
        self.features: dict[str, tuple[int, Bins]] = {}
        column = 0
        for feature in manifest.input.features:
            match feature:
                case NumberFeature(quantiles=quantiles, missing_share=missing) if len(quantiles) > 1:
                    bins = bins_of_number(quantiles, missing, datatype)
                case CategoryFeature(shares=shares, missing_share=missing) if shares:
                    bins = bins_of_shares(shares, missing)
                case BooleanFeature(true_share=float(true), missing_share=missing):
                    bins = bins_of_shares((1 - true, true), missing)
                case _:
                    column += len(feature.columns)
                    continue
            if len(self.features) < MOST_FEATURES:
                self.features[feature.name] = (column, bins)
            column += len(feature.columns)
        self.targets: dict[str, tuple[int, Bins]] = {}
        if manifest.predictions is not None:
            for place, (target, quantiles) in enumerate(
                zip(manifest.targets, manifest.predictions.quantiles, strict=False)
            ):
                if len(quantiles) > 1:
                    self.targets[target] = (place, bins_of_number(quantiles, 0.0, np.float32))
            if manifest.predictions.shares:
                self.targets[manifest.targets[0]] = (0, bins_of_shares(manifest.predictions.shares, 0.0))
        self.all = [bins for _, bins in (*self.features.values(), *self.targets.values())]
        self.places = np.cumsum([0, *(bins.size for bins in self.all)])

    def count(self, matrix: Matrix, predictions: npt.NDArray[Any]) -> Floats:
        """The counts of all bins, one after the other, of rows [N, F] and their predictions [N] or [N, K]."""
        columns = [matrix[:, column] for column, _ in self.features.values()]
        table = predictions.reshape(len(matrix), -1)
        columns += [table[:, place] for place, _ in self.targets.values()]
        return np.concatenate([bins.count(values) for bins, values in zip(self.all, columns, strict=True)])

    def psi(self, counts: Floats) -> tuple[dict[str, float], dict[str, float]]:
        """The index of each feature and of each target."""
        parts = [counts[start:end] for start, end in zip(self.places[:-1], self.places[1:], strict=True)]
        values = [bins.psi(part) for bins, part in zip(self.all, parts, strict=True)]
        first = len(self.features)
        return (
            dict(zip(self.features, values[:first], strict=True)),
            dict(zip(self.targets, values[first:], strict=True)),
        )

    def rows(self, counts: Floats) -> float:
        """How many rows the counts are of."""
        return float(counts[: self.places[1]].sum())
