"""What is true of every answer, whichever lane gives it: its request id, the key it needed, its problem, its count."""

import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import RowcastError
from models.repository import Version
from service import metrics, problems
from service.front import Front
from service.problems import Internal, Unauthorized, UnknownLabel, UnknownVersion

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ledger:
    """What is known of a request while it is answered.

    Attributes:
        id: the client's own X-Request-Id if it is a plain short text, else one made here.
        started: when its headers were there, by `time.perf_counter`.
        is_prediction: it reached a route that predicts.
        routing_key: what decides which version answers where labels have shares: the client's own X-Routing-Key, else
            the id.
        version: whom it asked, as soon as that is known.
        rows: rows answered.
        received, encoded, computed: when its body was there, its matrix, and the network's answers.
    """

    id: str
    started: float
    routing_key: str = ""
    is_prediction: bool = False
    version: Version | None = None
    rows: int = 0
    received: float = 0.0
    encoded: float = 0.0
    computed: float = 0.0


def open_ledger(headers: Mapping[bytes, bytes]) -> Ledger:
    """The ledger of a request whose headers have just come."""
    given = headers.get(b"x-request-id", b"")
    request_id = given.decode("ascii") if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    routing_key = headers.get(b"x-routing-key")
    return Ledger(
        request_id,
        time.perf_counter(),
        request_id if routing_key is None else routing_key.decode(errors="replace"),
    )


def check_key(front: Front, headers: Mapping[bytes, bytes]) -> None:
    """Let a request pass that carries the server's key, if one is set.

    Raises:
        Unauthorized: it does not.
    """
    key = front.settings.api_key
    if key is None:
        return
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
    if not hmac.compare_digest(given, key.get_secret_value().encode()):
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
