"""What is true of every answer, whichever lane gives it: its request id, the key it needed, its problem, its count."""

import hmac
import logging
import re
import time
from collections.abc import Mapping

from models.errors import RowcastError
from models.repository import Version
from service import metrics, problems
from service.front import Front
from service.problems import Internal, Unauthorized, UnknownLabel, UnknownVersion

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_log = logging.getLogger(__name__)


class Ledger:
    """What is known of a request while it is answered.

    Attributes:
        id: the client's own X-Request-Id if it is a plain short text, else one made here.
        started: when its headers were there, by `time.perf_counter`.
        is_prediction: it reached a route that predicts.
        version: whom it asked, as soon as that is known.
        rows: rows answered.
        received, encoded, computed: when its body was there, its matrix, and the network's answers.
    """

    is_prediction = False
    version: Version | None = None
    rows = 0
    received = encoded = computed = 0.0

    def __init__(self, request_id: str, started: float) -> None:
        self.id, self.started = request_id, started


def request_id_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The client's own id of its request; None where it has none, or one that is no plain short text."""
    given = headers.get(b"x-request-id")
    return given.decode("ascii") if given is not None and _REQUEST_ID.fullmatch(given) else None


def key_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request carries; b"" where it carries none."""
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    return bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def check_key(front: Front, given: bytes) -> None:
    """Let a request pass that carries the server's key, if one is set.

    Raises:
        Unauthorized: it does not.
    """
    key = front.key
    if key is not None and not hmac.compare_digest(given, key):
        raise Unauthorized


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
    # the names of these two are live models; any other name is the client's invention and labels nothing
    model = problem.name if isinstance(problem, UnknownVersion | UnknownLabel) else ""
    now = time.perf_counter()
    front.metrics.request(
        ledger.version,
        metrics.OK if problem is None else problem.code,
        ledger.rows,
        now - ledger.started,
        model=model,
        encode_s=ledger.encoded - ledger.received,
        write_s=now - ledger.computed,
    )
