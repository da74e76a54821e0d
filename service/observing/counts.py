"""The counts that all processes of a server keep in files, added up as `MultiProcessCollector` does, in less time.

prometheus_client's collector reads every name of every series anew at each scrape. A file grows at its end until
another takes its place, so here a name is read once, and a scrape reads numbers. A version that is live no longer
leaves the page after a while, and some time later the files (service/observing/count_files.py); where it comes back
before that, its counts go on.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prometheus_client.utils import floatToGoString

from service.observing.count_files import HEAD, LENGTH, Whose, value_place

STAYS_S = 300.0
"""How long a version is on the page after it was last seen live: a worker closes it after 60 s, no request for it takes
longer, and Prometheus shows what it last scraped for as long."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series of one family, the same object for every process that counts it.

    Attributes:
        family, kind, help: of the family; `kind` as the files' names begin, such as "counter" and "gauge_max".
        name: the series' own, such as that of a histogram with `_bucket` behind it.
        labels: without the upper end of a bucket.
        upper: that end; None where it is none.
        whose: whose counts they are.
        text: the line of the page, up to its value.
    """

    family: str
    kind: str
    help: str
    name: str
    labels: tuple[tuple[str, str], ...]
    upper: float | None
    whose: Whose
    text: str


@dataclass(slots=True)
class _File:
    """What is known of a file: the series in it, and where their values lie, in units of 8 bytes.

    Attributes:
        identity: its inode, and how often series were given up: a later file may get an inode again. One that has less
            than was seen is a later one, too.
    """

    identity: tuple[int, int]
    end: int = HEAD.size
    series: list[Series] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class WrittenCounts:
    """The files in a folder. It is used by one thread at a time."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._files: dict[Path, _File] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._sorted: list[Series] = []
        self._is_sorted = True  # there was no other series since
        self._seen: dict[Whose, float] = {}  # when it was last live, or found here for the first time

    def totals(self) -> dict[Series, float]:
        """Every series with its value: sums over processes, and of a "gauge_max" the largest."""
        totals: dict[Series, float] = {}
        gone = set(self._files)
        for path in sorted(self._folder.glob("*.db")):
            try:
                values = self._read(path)
            except FileNotFoundError:  # of a process that has just died
                continue
            gone.discard(path)
            takes_largest = path.name.startswith("gauge_max_")
            for series, value in values:
                before = totals.get(series)
                if before is None:
                    totals[series] = value
                else:
                    totals[series] = max(before, value) if takes_largest else before + value
        for path in gone:
            del self._files[path]
            self._is_sorted = False
        if not self._is_sorted:
            self._series = {key: one for key, one in self._series.items() if one in totals}
        return totals

    def page(self, live: Collection[Whose]) -> bytes:
        """The series in Prometheus' text format, but for those of versions that are none of `live` for a while."""
        totals = self.totals()
        if not self._is_sorted:
            self._sorted, self._is_sorted = sorted(totals, key=_order), True
        gone = self._gone(live)
        return "".join(_lines((one, totals[one]) for one in self._sorted if one.whose not in gone)).encode()

    def last_live(self, gone: Mapping[Whose, float]) -> None:
        """Know of versions when they were last live, by the clock; it may be called by any thread."""
        for whose, when in gone.items():
            self._seen.setdefault(whose, when)

    def _gone(self, live: Collection[Whose]) -> set[Whose]:
        now = self._clock()
        alive = {("", ""), *live, *((model, "") for model, _ in live)}
        found = {one.whose for one in self._sorted}
        seen = {one: when for one, when in list(self._seen.items()) if one in found}
        self._seen = seen | dict.fromkeys(found & alive, now)
        return {one for one in found - alive if now - self._seen.setdefault(one, now) > STAYS_S}

    def _read(self, path: Path) -> Iterable[tuple[Series, float]]:
        """The series of one file, with their values."""
        with path.open("rb") as file:
            raw = file.read(HEAD.size)
            used, given_up = HEAD.unpack(raw) if raw else (0, 0)
            raw += file.read(max(0, used - HEAD.size))
            identity = os.fstat(file.fileno()).st_ino, given_up
        known = self._files.get(path)
        if known is None or known.identity != identity or known.end > max(used, HEAD.size):
            known = self._files[path] = _File(identity)
            self._is_sorted = False
        if known.end < used:
            self._is_sorted = False
        while known.end < used:
            (length,) = LENGTH.unpack_from(raw, known.end)
            start = known.end + LENGTH.size
            value = value_place(start, length)
            known.series.append(self._series_of(path.stem, raw[start : start + length].decode()))
            known.places.append(value // 8)
            known.end = value + 16
        values = np.frombuffer(raw, "<f8", count=len(raw) // 8)
        return zip(known.series, values[known.places].tolist() if known.places else (), strict=True)

    def _series_of(self, file: str, key: str) -> Series:
        kind, _, slot = file.rpartition("_")
        of_one_process = kind == "gauge_liveall"
        known = self._series.get((kind + slot * of_one_process, key))
        if known is None:
            family, name, labels, what = json.loads(key)
            upper = labels.pop("le", None)
            if of_one_process:
                labels["pid"] = slot
            whose = (labels.get("model", ""), labels.get("version", ""))
            shown = {**labels, **({} if upper is None else {"le": floatToGoString(upper)})}  # type: ignore[no-untyped-call]
            text = name + _in_braces(shown) + " "
            known = Series(
                *(family, kind, what, name, tuple(sorted(labels.items()))),
                *(None if upper is None else float(upper), whose, text),
            )
            self._series[kind + slot * of_one_process, key] = known
        return known


def _order(series: Series) -> tuple[str, tuple[tuple[str, str], ...], bool, float]:
    return series.family, series.labels, series.upper is None, series.upper or 0.0


def _in_braces(labels: dict[str, str]) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    pairs = ",".join(f'{name}="{quoted(value)}"' for name, value in sorted(labels.items()))
    return f"{{{pairs}}}" if pairs else ""


def _lines(values: Iterable[tuple[Series, float]]) -> Iterator[str]:
    """The lines of sorted series; buckets, each of which has its own count, are added up as the format wants it."""
    family, below = "", 0.0
    for series, value in values:
        if series.family != family:
            family = series.family
            kind = series.kind.partition("_")[0]
            called = family + "_total" * (kind == "counter")
            what = series.help.replace("\\", r"\\").replace("\n", r"\n")
            yield f"# HELP {called} {what}\n# TYPE {called} {kind}\n"
        if series.upper is None:
            yield f"{series.text}{_number(value)}\n"
            continue
        below += value
        yield f"{series.text}{_number(below)}\n"
        if series.upper == float("inf"):
            yield f"{family}_count{_in_braces(dict(series.labels))} {_number(below)}\n"
            below = 0.0


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # has no annotations
