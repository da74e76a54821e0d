"""Results as tables on a terminal, and as README has them."""

import statistics
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving.bars import BEST, PLAIN, Results, bars, ratio, runs_by_column
from benchmarks.serving.compare import ALONE

_PEERS = ("mosec", "asgi", BEST, PLAIN, ALONE)
_TOO_BUSY = 0.05


def show(results: Results) -> None:
    """Print every part that was measured, and then the bars."""
    console = Console(width=150)
    parts = {"compare": _comparison, "slow": _slow, "scaling": _scaling, "idle": _idle}
    for part, table_of in parts.items():
        if results.get(part):
            for table in table_of(results[part]):
                console.print(table)
    table = Table("bar", "must be", "is", "", title="bars")
    for bar in bars(results):
        table.add_row(bar.what, bar.bar, f"{bar.seen:.2f}", "met" if bar.is_met else "NOT MET")
    console.print(table)
    others = _others(results)
    if others and statistics.median(others) > _TOO_BUSY:
        console.print(f"Other work took {statistics.median(others):.0%} of the machine: run it again on a quiet one.")


def _comparison(rows: list[dict[str, Any]]) -> Iterator[Table]:
    runs = runs_by_column(rows)
    names = ["rowcast", *(name for name in _PEERS if any(key[2] == name for key in runs))]
    title = "requests/s (Rowcast's are so many times as many); p50 in ms"
    table = Table("request", "connections", *names, title=title)
    for kind, connections in dict.fromkeys(key[:2] for key in runs):
        cells = [_cell(runs, kind, connections, name) for name in names]
        table.add_row(kind, str(connections), *cells)
    yield table
    chosen = [row for row in rows if row["choice"] and row["server"] in ("mosec", BEST)]
    if chosen:
        table = Table("request", "connections", "server", "options that did best", title="tuned")
        for row in chosen:
            options = ", ".join(f"{name.lower()} {value}" for name, value in row["choice"].items())
            table.add_row(row["kind"], str(row["connections"]), row["server"], options)
        yield table


def _cell(runs: dict[tuple[str, int, str], list[dict[str, Any]]], kind: str, connections: int, name: str) -> str:
    its = runs.get((kind, connections, name))
    if not its:
        return ""
    cell = f"{_median(its, 'rps'):,.0f}"
    times = ratio(runs.get((kind, connections, "rowcast")), its, "rps")
    if times is not None and name != "rowcast":
        cell += f" ({times:.2f} x)"
    failed = sum(run["failed"] for run in its)
    return cell + f"; {_median(its, 'p50_ms'):.2f}" + (f"; {failed:.0f} failed" if failed else "")


def _slow(rounds: list[dict[str, Any]]) -> Iterator[Table]:
    table = Table(
        *("most rows in a batch", "rows in a batch", "ms a batch", "requests/s", "ideal", "share", "failed"),
        title="a model of 50 ms a batch, 64 connections",
    )
    for batches in zip(*(one["batches"] for one in rounds), strict=True):
        shown = [f"{_median(batches, what):,.1f}" for what in ("rows_in_batch", "batch_ms", "rps", "ideal")]
        failed = sum(one["failed"] for one in batches)
        table.add_row(str(batches[0]["most_rows"]), *shown, f"{_median(batches, 'share'):.1%}", str(failed))
    yield table
    table = Table("connections", "p99 alone, ms", "p99 beside it, ms", "times", title="a small model beside it")
    for beside in zip(*(one["beside"] for one in rounds), strict=True):
        alone, together = (_median([one[how] for one in beside], "p99_ms") for how in ("alone", "beside"))
        table.add_row(str(beside[0]["connections"]), f"{alone:.2f}", f"{together:.2f}", f"{_median(beside, 'p99'):.2f}")
    yield table


def _scaling(rounds: list[dict[str, Any]]) -> Iterator[Table]:
    table = Table(
        "models", "ready after, s", "requests/s to one", "to all in turn", title="models, 1 row, 16 connections"
    )
    for seen in zip(*(one["models"] for one in rounds), strict=True):
        one, everyone = (_median([run[how] for run in seen], "rps") for how in ("one", "all"))
        table.add_row(str(seen[0]["models"]), f"{_median(seen, 'ready_s'):.1f}", f"{one:,.0f}", f"{everyone:,.0f}")
    yield table
    table = Table("features", "requests/s", "µs/row", "µs/value", title="features, 1 row, 16 connections")
    for seen in zip(*(one["features"] for one in rounds), strict=True):
        rps, features = _median(seen, "rps"), seen[0]["features"]
        table.add_row(str(features), f"{rps:,.0f}", f"{1e6 / rps:.1f}", f"{1e6 / rps / features:.2f}")
    yield table
    table = Table("rows", "connections", "JSON/s", "µs/row", "binary/s", "µs/row", title="rows of a request")
    for seen in zip(*(one["rows"] for one in rounds), strict=True):
        rows = seen[0]["rows"]
        if "said" in seen[0]:
            table.caption = f"{rows:,} rows are answered {seen[0]['status']}: {seen[0]['said']}"
            continue
        cells = []
        for form in ("JSON", "binary"):
            rps = _median([run[form] for run in seen], "rps")
            cells += [f"{rps:,.1f}", f"{1e6 / rps / rows:.2f}" if rps else "no answer in time"]
        table.add_row(f"{rows:,}", str(seen[0]["connections"]), *cells)
    yield table


def _idle(seen: dict[str, Any]) -> Iterator[Table]:
    title = f"idle for {seen['seconds']} s: {seen['core']:.2%} of a core, {seen['pss_mb']:.0f} MB"
    table = Table("process", "of a core", "PSS, MB", title=title)
    for one in seen["processes"]:
        table.add_row(one["command"], f"{one['core']:.3%}", f"{one['pss_mb']:.1f}")
    yield table


def markdown(results: Results) -> str:
    """The table of README."""
    runs = runs_by_column(results.get("compare", []))
    peers = {"mosec": "of mosec", BEST: "of LitServe at its best", PLAIN: "of plain LitServe", "asgi": "of raw ASGI"}
    lines = [
        "| request | connections | requests/s | p50, ms | " + " | ".join(peers.values()) + " |",
        "|---|---|---|---|" + "---|" * len(peers),
    ]
    for kind, connections, name in runs:
        if name == "rowcast":
            ours = runs[kind, connections, name]
            times = [ratio(ours, runs.get((kind, connections, peer)), "rps") for peer in peers]
            cells = [f"{_median(ours, 'rps'):,.0f}", f"{_median(ours, 'p50_ms'):.2f}"]
            cells += ["" if one is None else f"{one:.2f} x" for one in times]
            lines.append(f"| {kind} | {connections} | " + " | ".join(cells) + " |")
    lines += ["", "| bar | must be | is |", "|---|---|---|"]
    for bar in bars(results):
        lines.append(f"| {bar.what} | {bar.bar} | {bar.seen:.2f}{'' if bar.is_met else ', **not met**'} |")
    return "\n".join(lines)


def _median(runs: Any, what: str) -> float:
    return statistics.median(run[what] for run in runs)


def _others(results: Results) -> list[float]:
    """Shares of the machine that others took while something was measured."""
    return [run["others"] for row in results.get("compare", []) for run in row["runs"] if "others" in run]
