"""How far the rows that are asked about lately, and their predictions, are from those that a version was trained on.

Each API process keeps a few rows of each batch (`Drift.sample`, on the event loop, at most some rows a second). A
thread puts them into bins, whose counts fade: they are about the last `ROWCAST_DRIFT_ROWS` rows, in as many numbers as
there are bins, whatever the traffic. Counts lie in one file per slot, beside those of metrics, and whoever is asked
adds all files up. What comes out is the population stability index of each feature and target:

    PSI = sum over bins of (a - e) ln(a / e)      a, e: shares of the bin lately and in training

(Siddiqi 2006, Credit Risk Scorecards; by its rule of thumb below 0.1 nothing moved, above 0.25 much did). Without any
drift it is about (bins - 1) / rows (Yurdakul 2018), 0.01 for 11 bins and 1,000 rows. docs/decisions/0042
says what it costs.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from models.manifest import Manifest
from models.proof import Answers
from models.repository import Version
from models.schema import BooleanFeature, CategoryFeature, Matrix, NumberFeature
from service.waking import next_turn

MOST_FEATURES = 100
"""Of one version; further ones are not measured."""
MOST_VERSIONS = 256
"""Of one process; the one that nobody asked for longest makes place, once that is `_IN_USE_S` ago: where more are asked
in turn, those that came first are measured, and nobody makes bins all the time."""
_IN_USE_S = 60.0
FEWEST_ROWS = 300
"""Below it nothing is said: by chance alone 11 bins have a PSI of 0.03 then."""
ROWS_PER_S = 20.0
BURST_ROWS = 500.0
"""Rows of a version that are kept at most: so many at once, then so many per second. What is slower is kept whole."""

_BINS = 10  # of a number, as is usual for this index
_MOST_CATEGORIES = 20  # that have a bin of their own
_LEAST_SHARE = 0.001  # of a bin, in training and lately: else one row where there were none would outweigh all others

_Floats = npt.NDArray[np.float64]
log = logging.getLogger(__name__)


# --------------------------------------------------------------------------------------------------- bins


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
    low: _Floats
    high: _Floats
    missing: float

    @property
    def size(self) -> int:
        """How many bins there are."""
        return int(self.bin_of.max()) + 2

    def count(self, values: npt.NDArray[Any]) -> _Floats:
        """How many of the values [N] fall in each bin."""
        bins = self.bin_of[np.searchsorted(self.edges, values)]
        bins[np.isnan(values)] = self.size - 1
        return np.bincount(bins, minlength=self.size).astype(np.float64)

    def psi(self, counts: _Floats) -> float:
        """The population stability index of counts [bins]."""
        lately = counts / counts.sum()
        training = np.maximum(self._training(lately), _LEAST_SHARE)
        lately = np.maximum(lately, _LEAST_SHARE)
        return float(np.sum((lately - training) * np.log(lately / training)))

    def _training(self, lately: _Floats) -> _Floats:
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


# --------------------------------------------------------------------------------------------------- versions


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

    def count(self, matrix: Matrix, predictions: npt.NDArray[Any]) -> _Floats:
        """The counts of all bins, one after the other, of rows [N, F] and their predictions [N] or [N, K]."""
        columns = [matrix[:, column] for column, _ in self.features.values()]
        table = predictions.reshape(len(matrix), -1)
        columns += [table[:, place] for place, _ in self.targets.values()]
        return np.concatenate([bins.count(values) for bins, values in zip(self.all, columns, strict=True)])

    def psi(self, counts: _Floats) -> tuple[dict[str, float], dict[str, float]]:
        """The index of each feature and of each target."""
        parts = [counts[start:end] for start, end in zip(self.places[:-1], self.places[1:], strict=True)]
        values = [bins.psi(part) for bins, part in zip(self.all, parts, strict=True)]
        first = len(self.features)
        return (
            dict(zip(self.features, values[:first], strict=True)),
            dict(zip(self.targets, values[first:], strict=True)),
        )

    def rows(self, counts: _Floats) -> float:
        """How many rows the counts are of."""
        return float(counts[: self.places[1]].sum())


@dataclass
class _Sampled:
    """One version's rows that are not counted yet, and its counts.

    Attributes:
        may: how many rows may be kept now.
        asked: when that was so, by the monotonic clock.
    """

    reference: Reference
    counts: _Floats
    may: float = BURST_ROWS
    asked: float = 0.0
    rows: list[tuple[Matrix, npt.NDArray[Any]]] = field(default_factory=list)


class Drift:
    """The rows of one API process. `sample` is called on its event loop, `fold` in a thread, one at a time."""

    def __init__(self, folder: Path, slot: str, window: int) -> None:
        """Go on from what the slot's last process counted. A window of 0 rows turns all of it off."""
        self._folder, self._slot, self._window = folder, slot, window
        self._before = read_counts(_files_in(folder, slot)) if window else {}
        self._versions: dict[str, _Sampled] = {}
        self._full_until = 0.0  # by the monotonic clock

    def sample(self, version: Version, matrix: Matrix, answers: Answers) -> None:
        """Keep a few rows of a batch [N, F], and their predictions."""
        if not self._window:
            return
        now = time.monotonic()
        sampled = self._versions.get(version.key) or self._add(version, now)
        if sampled is None:
            return
        sampled.may = min(BURST_ROWS, sampled.may + (now - sampled.asked) * ROWS_PER_S)
        sampled.asked = now
        if sampled.may < 1 or not sampled.reference.all or not len(matrix):
            return
        predictions = answers["prediction"] if "prediction" in answers else answers["label"]
        kept = slice(None, None, -(-len(matrix) // int(sampled.may)))  # spread over the batch
        sampled.rows.append((matrix[kept].copy(), predictions[kept].copy()))
        sampled.may -= len(sampled.rows[-1][0])

    def _add(self, version: Version, now: float) -> _Sampled | None:
        if len(self._versions) >= MOST_VERSIONS:
            if now < self._full_until:
                return None
            longest = min(self._versions, key=lambda key: self._versions[key].asked)
            self._full_until = self._versions[longest].asked + _IN_USE_S
            if now < self._full_until:
                return None
            del self._versions[longest]
        reference = Reference(version.manifest)
        counts = np.zeros(reference.places[-1])
        before = self._before.get(version.key)
        if before is not None and before.shape == counts.shape:
            counts = before
        sampled = self._versions[version.key] = _Sampled(reference, counts, asked=now)
        return sampled

    def fold(self) -> None:
        """Count the rows that were kept, and write the counts for whoever is asked."""
        has_changed = False
        for sampled in list(self._versions.values()):
            kept, sampled.rows = sampled.rows, []
            rows = sum(len(matrix) for matrix, _ in kept)
            if rows:
                new = sampled.reference.count(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))
                total = sampled.reference.rows(sampled.counts) + rows
                sampled.counts = (sampled.counts + new) * min(1.0, self._window / total)
                has_changed = True
        if has_changed:
            self._write({key: sampled.counts for key, sampled in list(self._versions.items())})

    async def keep_up(self, every_s: float) -> None:
        """Fold for ever; what goes wrong is logged, and predictions go on."""
        while True:
            await next_turn(every_s)
            try:
                await asyncio.to_thread(self.fold)
            except OSError as error:  # no room, or too many open files
                log.error("drift could not be written, it is tried again: %s", error)  # noqa: TRY400 - one sentence
            except Exception:
                log.exception("drift could not be counted; it is tried again")

    def _write(self, counts: Mapping[str, _Floats]) -> None:
        beside = self._folder / f".drift-{self._slot}.new"
        with beside.open("wb") as file:
            np.savez(file, **counts)  # type: ignore[arg-type]  # its other keyword is named in numpy alone
        os.replace(beside, self._folder / f"drift-{self._slot}.npz")  # noqa: PTH105

    def collector(self, live: Iterable[Version]) -> Collector:
        """What `/metrics` says of the live versions."""
        return _Page(self._folder, list(live))


# --------------------------------------------------------------------------------------------------- the page


class _Page(Collector):
    """The indices of the live versions, from the counts of all processes."""

    def __init__(self, folder: Path, live: Sequence[Version]) -> None:
        self._folder, self._live = folder, live

    def collect(self) -> Iterator[Metric]:
        counts = read_counts(_files_in(self._folder))
        rows = GaugeMetricFamily(
            "rowcast_drift_rows", "Rows, of the latest, that drift is measured over", labels=["model", "version"]
        )
        features = GaugeMetricFamily(
            "rowcast_feature_psi",
            "Population stability index of a feature's latest values against the training rows",
            labels=["model", "version", "feature"],
        )
        predictions = GaugeMetricFamily(
            "rowcast_prediction_psi",
            "Population stability index of a target's latest predictions against those for the training rows",
            labels=["model", "version", "target"],
        )
        for version in self._live:
            counted = counts.get(version.key)
            reference = Reference(version.manifest)
            if counted is None or not reference.all or len(counted) != reference.places[-1]:
                continue
            labels = [version.name, str(version.number)]
            rows.add_metric(labels, reference.rows(counted))
            if reference.rows(counted) < FEWEST_ROWS:
                continue
            for family, values in zip((features, predictions), reference.psi(counted), strict=True):
                for name, value in values.items():
                    family.add_metric([*labels, name], value)
        yield from (rows, features, predictions)


def read_counts(files: Iterable[Path]) -> dict[str, _Floats]:
    """The counts in some files, added up by version."""
    total: dict[str, _Floats] = {}
    for path in files:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                counts = file[key]
                if key in total and total[key].shape == counts.shape:
                    counts = counts + total[key]
                total[key] = counts
    return total


def _files_in(folder: Path, slot: str = "*") -> list[Path]:
    return sorted(folder.glob(f"drift-{slot}.npz"))
