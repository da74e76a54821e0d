"""How far the rows that are asked about lately, and their predictions, are from those that a version was trained on.

Each API process keeps a few rows of each batch (`Drift.sample`, on the event loop, at most some rows a second). A
thread puts them into bins, whose counts fade: they are about the last `ROWCAST_DRIFT_ROWS` rows, in as many numbers as
there are bins, whatever the traffic. Counts lie in one file per slot, beside those of metrics, and whoever is asked
adds all files up. What comes out is the population stability index of each feature and target, see
service/observing/bins.py. docs/decisions/0042 says what it costs.
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

from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.observing.bins import Floats, Reference
from service.processes.waking import next_turn

MOST_VERSIONS = 256
"""Of one process; the one that nobody asked for longest makes place, once that is `_IN_USE_S` ago: where more are asked
in turn, those that came first are measured, and nobody makes bins all the time."""
_IN_USE_S = 60.0
FEWEST_ROWS = 300
"""Below it nothing is said: by chance alone 11 bins have a PSI of 0.03 then."""
ROWS_PER_S = 20.0
BURST_ROWS = 500.0
"""Rows of a version that are kept at most: so many at once, then so many per second. What is slower is kept whole."""

log = logging.getLogger(__name__)


@dataclass
class _Sampled:
    """One version's rows that are not counted yet, and its counts.

    Attributes:
        may: how many rows may be kept now.
        asked: when that was so, by the monotonic clock.
    """

    reference: Reference
    counts: Floats
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

    def _write(self, counts: Mapping[str, Floats]) -> None:
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


def read_counts(files: Iterable[Path]) -> dict[str, Floats]:
    """The counts in some files, added up by version."""
    total: dict[str, Floats] = {}
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
