"""Whom a request asks, and what: the same for every protocol, and for both lanes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from models.errors import shown
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.batching.shadow import KEPT_ROWS
from service.front import Front
from service.ledger import Ledger
from service.problems import BadBody, UnknownVersion
from service.settings import Settings
from service.wire import certainty, forms, oip, oip_answer, oip_matrix, plain, scoring
from service.wire.forms import Form
from service.wire.turn_forms import OipManyRows

ASIDE_BYTES = 500_000
"""From this size on a body is read and encoded in a thread. Measured beside a client that sends 10 MB bodies: the
longest wait of small requests falls from 250 to 86 ms, the time that the JSON parser keeps the interpreter for itself;
at 1 MB from 27 to 20; below, the thread costs more than it gives."""

OIP_LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body are JSON, before raw tensors follow."""

PRIORITY, URGENT = "x-priority", "urgent"
"""The header by which a plain request asks to go before others, and its value."""

JSON: Mapping[str, str] = {"content-type": "application/json"}
_MOST_TIMEOUT_DIGITS = 9
_Encode = Callable[[Version], Matrix]


def find(front: Front, whom: Mapping[str, Any], key: str | None = None) -> Version:
    """The version that "model", "version" (a number or its digits) and "label" ask for; each may be absent.

    `key` is the routing key of a prediction.

    Raises:
        UnknownModel, UnknownVersion, UnknownLabel, NotReady: as `Catalog.find` says.
    """
    name, version, label = whom.get("model"), whom.get("version"), whom.get("label")
    number = plain.version_number(version) if isinstance(version, str) else version
    if version is not None and number is None:
        model = front.catalog.find(name).name  # a model that is not there is the first thing to say
        raise UnknownVersion(model, version, sorted(front.catalog.live()[model]))
    return front.catalog.find(name, number, label, key)


def find_by_path(front: Front, path: Mapping[str, str], key: str | None = None) -> Version:
    """The same in a path of the Open Inference Protocol, whose version may, which is our own addition, be a label."""
    version = path.get("version")
    if version is not None and plain.version_number(version) is None and version in front.catalog.labels(path["model"]):
        return find(front, {"model": path["model"], "label": version})
    return find(front, path, key)


def whom(path: Mapping[str, str], asked: plain.Request) -> Mapping[str, Any]:
    """Whom a plain request asks: the path says so, or where it says nothing the body.

    Raises:
        BadBody: they say different things.
    """
    body = {"model": asked.model, "version": asked.version, "label": asked.label}
    for key, value in body.items():
        if path and value is not None and str(value) != path.get(key):
            raise BadBody(f'"{key}" must be absent or as in the path: the path says whom to ask', shown(value))
    return path or body


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, whatever protocol it came in.

    Attributes:
        matrix: its rows [N, F].
        within_s: how long after its headers the answer may come.
        write: the body of the answer, and the headers that say what it is.
        encode: its rows as another version reads them; None where they are many, and are not kept.
        level: at which the answer shall say how sure it is; None where it is not asked to.
        is_urgent: it asks to go before others.
        begin: where its numbers begin in its body, if requests like it differ in these alone, see `OipManyRows`.
    """

    version: Version
    matrix: Matrix
    within_s: float
    write: Callable[[Answers], tuple[bytes, Mapping[str, str]]]
    encode: _Encode | None
    level: float | None = None
    is_urgent: bool = False
    begin: int | None = None


def plain_question(settings: Settings, version: Version, asked: plain.Request) -> Question:
    """The question of a plain request.

    Raises:
        TooLarge, BadRow: as `plain.Request.encode` says.
        BadBody, NotOffered: as `certainty.asked_level` says.
    """
    level = certainty.asked_level(asked.parameters, version) if asked.parameters else None
    matrix, again = _encoded(version, lambda one: asked.encode(one.schema, settings.max_rows))
    return Question(version, matrix, settings.deadline_s, partial(_write_plain, version, level), again, level)


def _encoded(version: Version, encode: _Encode) -> tuple[Matrix, _Encode | None]:
    """Rows as a version reads them, and what encodes them for another one; None where they are too many to be kept."""
    matrix = encode(version)
    return matrix, encode if len(matrix) <= KEPT_ROWS else None


def _write_plain(version: Version, level: float | None, answers: Answers) -> tuple[bytes, Mapping[str, str]]:
    body = plain.write(version, answers)
    return body if level is None else certainty.add_to_plain(body, version, answers, level), JSON


def oip_question(settings: Settings, version: Version, raw: bytes, header_length: str | None) -> Question:
    """The question of a body of the Open Inference Protocol.

    Raises:
        BadBody, TooLarge, BadRow: as `oip.read`, `oip_answer.check_wanted` and `oip_matrix.encode` say.
        BadBody, NotOffered: as `certainty.asked_level` says.
    """
    asked = oip.read(raw, header_length)
    level = certainty.asked_level(asked.parameters, version)
    oip_answer.check_wanted(asked.wanted, version)
    matrix, again = _encoded(version, lambda one: oip_matrix.encode(asked, one, settings.max_rows))
    within_s = settings.deadline_s if asked.timeout_s is None else min(asked.timeout_s, settings.deadline_s)
    write = partial(_write_oip, version, asked, level)
    begin = None if header_length is not None else OipManyRows.begin(asked, raw, version)
    return Question(version, matrix, within_s, write, again, level, asked.is_urgent, begin)


def _write_oip(
    version: Version, asked: oip.Request, level: float | None, answers: Answers
) -> tuple[bytes, Mapping[str, str]]:
    body, json_bytes = oip_answer.write(version, asked, answers)
    if level is not None:
        body, json_bytes = certainty.add_to_oip(body, json_bytes, version, answers, level, binary=asked.binary)
    if json_bytes is None:
        return body, JSON
    return body, {OIP_LENGTH: str(json_bytes), "content-type": "application/octet-stream"}


def form_question(settings: Settings, version: Version, body: Form, raw: bytes) -> Question:
    """The question of a plain request whose body is no JSON.

    Raises:
        BadBody, TooLarge, BadRow: as `forms.encode` says.
    """
    matrix, again = _encoded(version, lambda one: forms.encode(body, raw, one.schema, settings.max_rows))
    return Question(version, matrix, settings.deadline_s, partial(_write_plain, version, None), again)


def scoring_question(settings: Settings, version: Version, body: Form, wanted: Form, raw: bytes) -> Question:
    """The question of an invocation, in any form.

    Raises:
        BadBody, TooLarge, BadRow: as `scoring.read`, `forms.encode` and `in_form` say.
    """
    if body.kind != "json":
        return in_form(form_question(settings, version, body, raw), wanted)
    asked = scoring.read(raw)
    matrix, again = _encoded(version, lambda one: asked.encode(one.schema, settings.max_rows))
    question = Question(version, matrix, settings.deadline_s, partial(_write_plain, version, None), again)
    return in_form(question, wanted, asked.output)


def in_form(question: Question, wanted: Form, output: str | None = None) -> Question:
    """The same question, whose answer is written in a form of its own; in JSON that of MLflow's scoring protocol.

    Raises:
        BadBody, NotOffered: as `forms.check_output` says.
    """
    level = forms.check_output(question.version, wanted, output, question.level)
    return replace(question, write=partial(_write_form, wanted, question.version, output, level))


def _write_form(
    wanted: Form, version: Version, output: str | None, level: float | None, answers: Answers
) -> tuple[bytes, Mapping[str, str]]:
    """The body, and beside its type whose answer it is, which not every form can say itself."""
    whose = {"x-model-name": version.name, "x-model-version": str(version.number)}
    return forms.write(wanted, version, answers, output=output, level=level), {
        "content-type": forms.TYPES[wanted.kind],
        **whose,
    }


def check_model(ledger: Ledger, version: Version) -> None:
    """The path has been checked; where the body names the model, or nobody does, it is known only now.

    Raises:
        Forbidden: the caller's key is not for this model.
    """
    if ledger.caller is not None:
        ledger.caller.client.check_model(version.name)


def allowed_s(ledger: Ledger, most_s: float) -> float:
    """How long a request may take: what X-Timeout-Ms says, and no longer than `most_s`.

    Raises:
        BadBody: it says no number of milliseconds.
    """
    if ledger.timeout is None:
        return most_s
    if not (ledger.timeout.isdigit() and len(ledger.timeout) <= _MOST_TIMEOUT_DIGITS and int(ledger.timeout)):
        raise BadBody(
            f"X-Timeout-Ms must be a whole number of milliseconds from 1, of {_MOST_TIMEOUT_DIGITS} digits at most",
            shown(ledger.timeout.decode("latin-1")),
        )
    return min(int(ledger.timeout) / 1000, most_s)


def may_be_urgent(ledger: Ledger) -> bool:
    """Whether the caller's requests may go before others: with keys, those of whom an operator said so."""
    return ledger.caller is not None and ledger.caller.client.may_be_urgent


def body_s(settings: Settings) -> float:
    """How long a body may take to come."""
    return min(settings.receive_s, settings.deadline_s)
