"""Requests as spans of OpenTelemetry: one for each, and in it one for every stage that it went through.

Imported only where ROWCAST_TRACING is otlp. Where spans go, and which are sampled, say the OTEL_* variables that every
service with OpenTelemetry understands. Spans are made once an answer is written, from times that are taken anyhow, and
sent by a thread.
"""

import threading
import time
from collections.abc import Mapping

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from models.errors import RowcastError
from service import problems
from service.ledger import Ledger
from service.observing.tracing import SAMPLED, Trace, new_span_id, new_trace_id, read_trace

_PATIENCE_S = 1.0  # an API process has 1.5 s beyond ROWCAST_DRAIN_S


class _Ids(IdGenerator):
    """The ids that a request's client has been told; any for its stages."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.told: Trace | None = None

    def generate_span_id(self) -> int:
        told, self.told = self.told, None
        return self._random.generate_span_id() if told is None else int(told.span_id, 16)

    def generate_trace_id(self) -> int:  # asked for before the span's, and only where the trace begins here
        return self._random.generate_trace_id() if self.told is None else int(self.told.trace_id, 16)


class Telemetry:
    """An observer of requests that makes spans of them."""

    def __init__(self) -> None:
        named = Resource({SERVICE_NAME: "rowcast"}).merge(OTELResourceDetector().detect())
        self._ids = _Ids()
        self._provider = TracerProvider(resource=named, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("rowcast")

    def open_trace(self, headers: Mapping[bytes, bytes]) -> Trace:
        """The trace that a request says it belongs to, else one that begins here; sampled as the sampler says."""
        trace = read_trace(headers) or Trace(new_trace_id(), new_span_id(), None, 0)
        decision = self._provider.sampler.should_sample(_context(trace), int(trace.trace_id, 16), "request")
        flags = 0 if decision.decision is Decision.DROP else SAMPLED
        return Trace(trace.trace_id, trace.span_id, trace.parent_id, flags, trace.state)

    def __call__(self, ledger: Ledger, problem: RowcastError | None) -> None:
        """Make the spans of a request whose answer is written."""
        trace = ledger.trace
        if trace is None or not trace.flags & SAMPLED:
            return
        now = time.perf_counter()
        epoch_ns = time.time_ns() - round(now * 1e9)  # of perf_counter

        def at(moment: float) -> int:
            return epoch_ns + round(moment * 1e9)

        self._ids.told = trace
        span = self._tracer.start_span(
            f"{ledger.method} {_route(ledger)}",
            _context(trace),
            SpanKind.SERVER,
            _attributes(ledger, problem),
            start_time=at(ledger.started),
        )
        within = otel.set_span_in_context(span, Context())
        for name, start, end in ledger.stages(now):
            self._tracer.start_span(name, within, start_time=at(start)).end(at(end))
        if problem is not None and problems.status_of(problem) >= 500:
            span.set_status(Status(StatusCode.ERROR, problem.code))
        span.end(at(now))

    def close(self) -> None:
        """Send what has not been sent; a collector that does not answer is not waited for."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_PATIENCE_S)


def _context(trace: Trace) -> Context:
    """The span that asked, as a parent; an empty context where there is none."""
    if trace.parent_id is None:
        return Context()
    parent = SpanContext(
        int(trace.trace_id, 16),
        int(trace.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(trace.flags),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
    return otel.set_span_in_context(NonRecordingSpan(parent), Context())


def _route(ledger: Ledger) -> str:
    """What a request asks for in few words: a span's name has no room for what clients invent."""
    if ledger.version is not None:
        return f"predict {ledger.version.name}" if ledger.is_prediction else ledger.version.name
    return "predict" if ledger.is_prediction else "page"


def _attributes(ledger: Ledger, problem: RowcastError | None) -> dict[str, str | int]:
    """By OpenTelemetry's names for HTTP, and our own for the rest."""
    facts: dict[str, str | int] = {
        "http.request.method": ledger.method,
        "url.path": ledger.path[:200],
        "http.response.status_code": 200 if problem is None else problems.status_of(problem),
        "rowcast.request_id": ledger.id,
    }
    if ledger.caller is not None:
        facts["rowcast.client"] = ledger.caller.name
    if ledger.version is not None:
        facts |= {"rowcast.model": ledger.version.name, "rowcast.version": ledger.version.number}
        facts["rowcast.rows"] = ledger.answered_rows
    if problem is not None:
        facts["error.type"] = problem.code
    return facts
