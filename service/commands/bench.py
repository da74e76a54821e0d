"""`python -m service bench`: how fast a server answers, from its clients' side.

A closed loop: each connection asks again once it has its answer, so a server that stalls is asked less often than
clients would; what is measured is throughput and latency at that many waiting clients, not at a rate. Clients run in
processes of their own, and what they measure counts only while they are not the bottleneck themselves.
"""

import asyncio
import multiprocessing
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from models.errors import RowcastError
from service.commands.output import BadCommand, Json, NotWell, print_json, print_table

if TYPE_CHECKING:
    import aiohttp

WARM_UP_S = 1.0
BUSY = 0.85
"""Share of the time a client may compute or wait for a core: beyond it answers wait for it, and it times itself."""
FEWEST = 1000
"""Answers from which a 99th percentile is told: ten lie beyond it."""
_PERCENTILES = (50, 90, 99, 99.9)


class CannotMeasure(RowcastError):
    """The figures would not be the server's; the sentence says whose, and what to change."""

    code = "cannot_measure"
    sentence: str


@dataclass
class Seen:
    """What one client process saw.

    Attributes:
        seconds: the latencies of good answers.
        wrong: what went wrong, by status and code, or by exception.
        opened: connections that were opened while measuring.
        busy: share of the time in which the process computed.
        waited: share in which it could have, and no core was free.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    busy: float = 0.0
    waited: float = 0.0


def bench(
    url: str,
    model: str,
    *,
    connections: int = 16,
    processes: int = 2,
    rows: int = 1,
    seconds: float = 10.0,
    key: str | None = None,
    json: Json = False,
) -> None:
    """Measure a running server: throughput and latency of predictions over kept connections.

    Exit status 1 if any answer failed, 3 if the clients were too slow to measure this server.

    Args:
        url: The server, like http://localhost:8000.
        model: Whom to ask; its own example row is sent.
        connections: Clients that wait for an answer at any time.
        processes: Processes that these clients are spread over.
        rows: Rows in each request.
        seconds: How long, after a second of warming up.
        key: The server's key, where it has one.
    """
    if min(connections, processes, rows) < 1 or seconds < 1:
        raise BadCommand("bench", "--connections, --processes, --rows and --seconds must be at least 1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"{url.rstrip('/')}/v1/models/{model}"
    body = orjson.dumps({"instances": [asyncio.run(_example(address, headers))] * rows})
    processes = min(processes, connections)
    shares = [connections // processes + (place < connections % processes) for place in range(processes)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:  # Ctrl-C is for us alone
        work = [(f"{address}:predict", body, headers, share, seconds) for share in shares]
        seen = pool.starmap(measure, work)
    report = summarize(seen, rows, seconds)
    report = {"url": url, "model": model, "connections": connections, "rows": rows, "seconds": seconds} | report
    refuse_what_is_not_the_server_s(report, seen, connections)
    if json:
        print_json(report)
    else:
        print_table(("", ""), [(name, _shown(value)) for name, value in report.items()])
    if report["failed"]:
        raise NotWell


async def _example(address: str, headers: dict[str, str]) -> Any:
    """The row that a server tells of a model.

    Raises:
        BadCommand: nobody is there, or no such model.
    """
    aiohttp = _aiohttp()
    try:
        async with aiohttp.ClientSession(headers=headers) as session, session.get(address) as answer:
            said = await answer.json(content_type=None)
    except (aiohttp.ClientError, ValueError, TimeoutError) as error:
        raise BadCommand(address, f"does not answer as a server of Rowcast ({error}); is it up?") from None
    if answer.status != 200:
        raise BadCommand(
            address, str(said.get("error", answer.status)) if isinstance(said, dict) else str(answer.status)
        )
    if not isinstance(said, dict) or "example" not in said:
        raise BadCommand(address, "does not answer as a server of Rowcast; it tells no example row")
    return said["example"]


def measure(address: str, body: bytes, headers: dict[str, str], connections: int, seconds: float) -> Seen:
    """What the clients of one process see."""
    return asyncio.run(_ask(address, body, headers, connections, seconds))


async def _ask(address: str, body: bytes, headers: dict[str, str], connections: int, seconds: float) -> Seen:
    aiohttp = _aiohttp()
    seen = Seen()
    trace = aiohttp.TraceConfig()

    async def count(*_: Any) -> None:  # aiohttp awaits it
        seen.opened += 1

    trace.on_connection_create_end.append(count)
    limit = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=limit, headers=headers, trace_configs=[trace]) as session:
        warm = time.perf_counter() + WARM_UP_S
        await asyncio.gather(*(_loop(session, address, body, warm, Seen()) for _ in range(connections)))
        seen.opened = 0
        start, computed, waited = time.perf_counter(), time.process_time(), _waited_s()
        await asyncio.gather(*(_loop(session, address, body, start + seconds, seen) for _ in range(connections)))
        took = time.perf_counter() - start
        seen.busy, seen.waited = (time.process_time() - computed) / took, (_waited_s() - waited) / took
    return seen


async def _loop(session: "aiohttp.ClientSession", address: str, body: bytes, end: float, seen: Seen) -> None:
    aiohttp = _aiohttp()
    now = time.perf_counter()
    while now < end:
        try:
            async with session.post(address, data=body) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.wrong[type(error).__name__] += 1
            now = time.perf_counter()
            continue
        asked, now = now, time.perf_counter()
        if answer.status == 200:
            seen.seconds.append(now - asked)
        else:
            seen.wrong[f"{answer.status} {_code(said)}"] += 1


def _waited_s() -> float:
    """How long this thread was kept from running so far; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _code(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def summarize(seen: list[Seen], rows: int, seconds: float) -> dict[str, Any]:
    """The figures of all clients together; times in milliseconds."""
    times = np.array([second for one in seen for second in one.seconds])
    wrong: Counter[str] = sum((one.wrong for one in seen), Counter())
    report: dict[str, Any] = {
        "answers": len(times),
        "answers_per_s": len(times) / seconds,
        "rows_per_s": len(times) * rows / seconds,
        "failed": dict(wrong),
        "clients_busy": max(one.busy for one in seen),
        "clients_waited": max(one.waited for one in seen),
    }
    if len(times):
        report["mean_ms"] = 1000 * float(times.mean())
        told = [share for share in _PERCENTILES if len(times) * (100 - share) / 100 >= FEWEST / 100]
        report |= {f"p{share:g}_ms": 1000 * float(np.percentile(times, share)) for share in told}
        report["max_ms"] = 1000 * float(times.max())
    return report


def refuse_what_is_not_the_server_s(report: dict[str, Any], seen: list[Seen], connections: int) -> None:
    """Stop where the figures would be of something else.

    Raises:
        CannotMeasure: the clients were the bottleneck, connections were not kept, or nothing was answered.
    """
    if not report["answers"]:
        raise CannotMeasure(f"nothing was answered: {report['failed']}")
    if report["clients_busy"] + report["clients_waited"] > BUSY:
        raise CannotMeasure(
            f"the clients computed {report['clients_busy']:.0%} of the time and waited for a free core "
            f"{report['clients_waited']:.0%}, so these would be their figures "
            f"({report['answers_per_s']:.0f} answers/s): run it on another machine, send more --rows, or use wrk"
        )
    opened = sum(one.opened for one in seen)
    if opened > connections:
        raise CannotMeasure(
            f"{opened} connections were opened anew for {connections}: something between hangs up on them"
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} x {what}" for what, count in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    return str(value)


def _aiohttp() -> Any:
    try:
        import aiohttp  # noqa: PLC0415 - the server does without
    except ImportError:
        raise BadCommand("bench", "needs aiohttp, which is not installed; pip install aiohttp") from None
    return aiohttp
