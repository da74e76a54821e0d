"""The bars that Rowcast sets itself, and whether the results reach them. Ratios are medians of those within a round."""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.compare import ALONE
from benchmarks.serving.kinds import KINDS

Results = Mapping[str, Any]
BEST, PLAIN = "litserve, best options", "litserve, plain"


@dataclass(frozen=True)
class Bar:
    """One claim about the results.

    Attributes:
        what: what was measured.
        bar: what it must reach, in words.
        seen: the figure.
        is_met: whether it does.
    """

    what: str
    bar: str
    seen: float
    is_met: bool


_OF_MOSEC = {
    ("1 row JSON", 16): 1.4,
    ("1 row JSON", 64): 2.0,
    ("1 row JSON", 256): 2.0,
    ("1000 rows JSON", 16): 1.5,
    ("1000 rows binary", 16): 1.4,
    ("1 row, 20 mixed columns", 16): 2.0,
    ("1 row, 20 mixed columns", 64): 2.0,
    ("1000 rows, 20 mixed columns", 16): 2.0,
}
_OF_LITSERVE = {("1 row JSON", 64): 40.0, ("1 row JSON", 256): 40.0}


def bars(results: Results) -> list[Bar]:
    """All that the results have figures for."""
    return [*_of_peers(results.get("compare", [])), *_of_slow(results.get("slow")), *_of_idle(results.get("idle"))]


def _of_peers(rows: list[dict[str, Any]]) -> Iterator[Bar]:
    runs = runs_by_column(rows)
    for peer, bars_of_peer in (("mosec", _OF_MOSEC), (BEST, _OF_LITSERVE)):
        for (kind, connections), bar in bars_of_peer.items():
            yield from _at_least(runs, (kind, connections), peer, bar, f"{bar:g} x {peer}")
    yield from _at_least(runs, ("1000 rows binary", 16), ALONE, 0.9, "90% of ONNX Runtime alone (ambition)")
    what = ("1 row JSON", 1)
    p50 = ratio(runs.get((*what, "rowcast")), runs.get((*what, "mosec")), "p50_ms")
    if p50 is not None:
        yield Bar("1 row JSON, 1 connection, p50", "at most 0.6 x mosec's", p50, p50 <= 0.6)
    for kind, connections, server in runs:
        like = KINDS[kind].like if kind in KINDS else None
        if server == "rowcast" and like:
            seen = statistics.median(run["of_plain"] for run in runs[kind, connections, server])
            yield Bar(f"{kind}, {connections} connections", f"0.9 x {like}", seen, seen >= 0.9)


def _at_least(
    runs: Mapping[tuple[str, int, str], list[dict[str, Any]]], column: tuple[str, int], peer: str, bar: float, says: str
) -> Iterator[Bar]:
    seen = ratio(runs.get((*column, "rowcast")), runs.get((*column, peer)), "rps")
    if seen is not None:
        yield Bar(f"{column[0]}, {column[1]} connections", says, seen, seen >= bar)


def _of_slow(rounds: list[dict[str, Any]] | None) -> Iterator[Bar]:
    for batches in zip(*(one["batches"] for one in rounds or ()), strict=True):
        share = statistics.median(one["share"] for one in batches)
        what = f"50 ms a batch, 64 connections, at most {batches[0]['most_rows']} rows"
        yield Bar(what, "95% of the ideal", share, share >= 0.95)
    for beside in zip(*(one["beside"] for one in rounds or ()), strict=True):
        p99 = statistics.median(one["p99"] for one in beside)
        what = f"a small model beside it, {beside[0]['connections']} connections, p99"
        yield Bar(what, "at most 2 x of alone", p99, p99 <= 2)


def _of_idle(seen: dict[str, Any] | None) -> Iterator[Bar]:
    if seen:
        yield Bar("idle, share of a core in %", "under 0.5", 100 * seen["core"], seen["core"] < 0.005)
        yield Bar("idle, PSS in MB", "under 200", seen["pss_mb"], seen["pss_mb"] < 200)


def runs_by_column(rows: list[dict[str, Any]]) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """The runs of a comparison by kind, connections and server."""
    return {(row["kind"], row["connections"], row["server"]): row["runs"] for row in rows}


def ratio(ours: list[dict[str, Any]] | None, theirs: list[dict[str, Any]] | None, what: str) -> float | None:
    """How many times theirs ours is, the median over rounds; None where one was not measured.

    Servers of one round are pairs: the machine drifts from round to round.
    """
    if not ours or not theirs:
        return None
    pairs = [(mine[what], its[what]) for mine, its in zip(ours, theirs, strict=False)]
    return statistics.median(mine / its if its else math.inf for mine, its in pairs)
