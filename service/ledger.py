"""What is true of every answer, whichever lane gives it: its request id, who asked, its problem, its count."""

import logging
import re
import time
from collections.abc import Mapping

from models.errors import RowcastError
from models.repository import Version
from service import problems
from service.access.gate import Caller
from service.access.keys import Scope
from service.front import Front
from service.observing.tracing import Trace
from service.problems import Internal, UnknownLabel, UnknownVersion

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_log = logging.getLogger(__name__)


class Ledger:
    """What is known of a request while it is answered.

    Attributes:
        id: the client's own X-Request-Id if it is a plain short text, else one made here.
        started: when its headers were there, by `time.perf_counter`.
        method, path: what it asked for; the path without a query.
        trace: the trace it belongs to, if it belongs to one.
        headers: of its answer, beside those that say what the answer is.
        caller: who asks, as soon as it is admitted.
        is_prediction: it reached a route that predicts.
        timeout: how long the client says that it may take, as it came.
        routing_key: what decides which version answers where labels have shares: the client's own X-Routing-Key, else
            the id.
        version: whom it asked, as soon as that is known.
        answered_rows: how many rows were answered; 0 for a request that fails.
        received, encoded, sent, computed: when its body was there, its matrix, when the batch it is in went out, and
            when the network's answers came; 0 for what has not happened, `sent` also where nobody said so.
    """

    routing_key = ""
    method = "POST"
    timeout: bytes | None = None
    trace: Trace | None = None
    headers: dict[str, str] | None = None
    caller: Caller | None = None
    is_prediction = False
    version: Version | None = None
    answered_rows = 0
    received = encoded = sent = computed = 0.0

    def __init__(self, request_id: str, started: float, path: str) -> None:
        self.id, self.started, self.path = request_id, started, path

    def stages(self, now: float) -> list[tuple[str, float, float]]:
        """What it went through until now: the name of each stage, its start and its end."""
        ends = {
            "read": self.received,
            "encode": self.encoded,
            "queue": self.sent,
            "compute": self.computed,
            "write": now if self.computed else 0.0,
        }
        passed: list[tuple[str, float, float]] = []
        for name, end in ends.items():
            if end:
                passed.append((name, passed[-1][2] if passed else self.started, end))
        return passed


def read_headers(front: Front, ledger: Ledger, headers: Mapping[bytes, bytes]) -> None:
    """Have a ledger hold what the headers of its request say: an id, a routing key, a timeout, a trace."""
    given = headers.get(b"x-request-id")
    is_fit = given is not None and _REQUEST_ID.fullmatch(given)
    ledger.id = given.decode("ascii") if given is not None and is_fit else front.ids.next()
    routing_key = headers.get(b"x-routing-key")
    ledger.routing_key = ledger.id if routing_key is None else routing_key.decode(errors="replace")
    ledger.timeout = headers.get(b"x-timeout-ms")
    trace = front.open_trace(headers)
    if trace is not None:
        ledger.trace, ledger.headers = trace, trace.headers()


def admit(
    front: Front,
    ledger: Ledger,
    headers: Mapping[bytes, bytes],
    peer: tuple[str, int] | None,
    scope: Scope,
    *,
    model: str | None,
) -> None:
    """Let a request pass that may ask for this; whoever asks stands in its ledger from now on.

    Raises:
        Unauthorized, KeyExpired, Forbidden, RateLimited: as `Gate.admit` says.
    """
    caller = ledger.caller = Caller(front.gate.address(headers, peer))
    front.gate.admit(caller, headers, scope, model)
    if caller.headers is not None:
        ledger.headers = {**(ledger.headers or {}), **caller.headers}


def problem_of(error: Exception, ledger: Ledger, path: str) -> RowcastError:
    """What the client is told of an error; the log hears of those that are the server's fault."""
    if not isinstance(error, RowcastError):
        _log.error("request %s to %r failed", ledger.id, path[:200], exc_info=error)
        return Internal()
    if problems.status_of(error) == 500:
        _log.error("request %s to %r: %s", ledger.id, path[:200], error)
    return error


def count(front: Front, ledger: Ledger, problem: RowcastError | None) -> None:
    """Count a request, once its answer is written."""
    now = time.perf_counter()
    if problem is not None:
        # the names of these two are live models; any other name is the client's invention and labels nothing
        model = problem.name if isinstance(problem, UnknownVersion | UnknownLabel) else ""
        front.metrics.failed(ledger.version, problem.code, now - ledger.started, model=model)
    else:
        assert ledger.version is not None
        encode_s, write_s = ledger.encoded - ledger.received, now - ledger.computed
        front.metrics.answered(ledger.version, ledger.answered_rows, now - ledger.started, encode_s, write_s)
    if front.observers:
        observe(front, ledger, problem)


def observe(front: Front, ledger: Ledger, problem: RowcastError | None) -> None:
    """Tell the access log and OpenTelemetry, where they are on, of a request whose answer is written."""
    for observer in front.observers:
        try:
            observer(ledger, problem)
        except Exception:  # noqa: BLE001 - the request is answered, whatever fails here
            _log.exception("request %s could not be told of", ledger.id)
