"""W3C Trace Context, level 1: which trace a request belongs to, told to its client, the log and OpenTelemetry.

https://www.w3.org/TR/trace-context/: what is not valid is as if it had not come.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_LONGEST_STATE = 512  # what must be passed on; a longer one may be dropped
_MOST_MEMBERS = 32
_KEY = r"[a-z0-9][a-z0-9_*/@-]{0,255}"
_MEMBER = re.compile(rf"{_KEY}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")

SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's place in its trace.

    Attributes:
        trace_id, span_id: of this request, in hexadecimal digits.
        parent_id: the span that asked; None where the trace begins here.
        flags: of the trace; `SAMPLED` is the only one that means something.
        state: what tracing systems pass on to each other.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    flags: int
    state: str = ""

    def headers(self) -> dict[str, str]:
        """What the answer says, so that its client can follow."""
        told = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return told | {"tracestate": self.state} if self.state else told


def read_trace(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The trace that a request says it belongs to, with a span of its own; None if it says none that is valid."""
    parent = headers.get(b"traceparent")
    if parent is None:
        return None
    match = _PARENT.fullmatch(parent)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return None
    trace_id, parent_id = match[2].decode(), match[3].decode()
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    flags = int(match[4], 16) & SAMPLED  # the others are to be set to 0
    return Trace(trace_id, new_span_id(), parent_id, flags, _state_of(headers.get(b"tracestate", b"")))


def _state_of(raw: bytes) -> str:
    if len(raw) > _LONGEST_STATE:
        return ""
    members = [member.strip(" \t") for member in raw.decode("latin-1").split(",")]
    there = [member for member in members if member]
    if len(there) > _MOST_MEMBERS or not all(map(_MEMBER.fullmatch, there)):
        return ""
    names = [member.partition("=")[0] for member in there]
    return ",".join(there) if len(set(names)) == len(names) else ""


def new_span_id() -> str:
    """All zeros, which would be none, once in 2^64 requests."""
    return secrets.token_hex(8)


def new_trace_id() -> str:
    """A trace of its own."""
    return secrets.token_hex(16)
