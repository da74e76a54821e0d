"""The forms of a request's body and of its answer, chosen by Content-Type and Accept.

JSON is the form of everything that says nothing else: clients send JSON under many types, and under none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from models.errors import shown
from models.proof import Answers
from models.repository import Version
from models.schema import Matrix, Schema
from service.problems import BadBody
from service.wire import arrow, arrow_answer, arrow_stream, certainty, csv_text, json_lines, scoring
from service.wire.answers import finite

Kind = Literal["json", "csv", "lines", "arrow"]

KINDS: Mapping[str, Kind] = {
    "application/json": "json",
    "text/csv": "csv",
    "application/jsonlines": "lines",
    "application/x-jsonlines": "lines",
    "application/x-ndjson": "lines",
    arrow_stream.MEDIA_TYPE: "arrow",
}
"""Media types, and the form of each; the first of a form is how its answers are called."""

TYPES: Mapping[Kind, str] = {kind: name for name, kind in reversed(list(KINDS.items()))}

_MOST_ACCEPTED = 32  # types of an Accept that are looked at; browsers send ten
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")
_HEADER = {"present": True, "absent": False}


@dataclass(frozen=True, slots=True)
class Form:
    """What a body is, or shall be.

    Attributes:
        parameters: those of its media type, in lower case: `text/csv; header=present`.
    """

    kind: Kind
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def header(self) -> bool | None:
        """Whether CSV has a line of names (RFC 4180); None when nothing says so.

        Raises:
            BadBody: it has another value than "present" and "absent".
        """
        given = self.parameters.get("header")
        if given is not None and given not in _HEADER:
            raise BadBody("the parameter header of text/csv must be present or absent", shown(given))
        return None if given is None else _HEADER[given]

    @property
    def output(self) -> str | None:
        """What the answer shall hold, where one thing alone has room.

        Raises:
            BadBody: it is none of `scoring.OUTPUTS`.
        """
        given = self.parameters.get("output")
        if given is not None and given not in scoring.OUTPUTS:
            raise BadBody(f"the output must be one of {', '.join(scoring.OUTPUTS)}", shown(given))
        return given

    @property
    def interval(self) -> float | None:
        """The level at which the answer shall say how sure it is; None when nothing says so.

        Raises:
            BadBody: it is no number.
        """
        given = self.parameters.get("interval")
        try:
            return None if given is None else float(given)
        except ValueError:
            raise BadBody("the parameter interval of the answer's type must be a number", shown(given)) from None


def of_body(content_type: str) -> Form:
    """The form of a body; JSON where its type says nothing that is known here."""
    name, parameters = _media_type(content_type)
    return Form(KINDS.get(name, "json"), parameters)


def of_answer(accept: str, body: Form) -> Form:
    """The form that a client likes best of those that there are; else Arrow for Arrow and JSON for the rest."""
    best, best_weight = Form("arrow" if body.kind == "arrow" else "json"), 0.0
    for one in accept.split(",", _MOST_ACCEPTED)[:_MOST_ACCEPTED] if accept else ():
        name, parameters = _media_type(one)
        weight = _weight(parameters.get("q", "1"))
        if name in KINDS and weight > best_weight:
            best, best_weight = Form(KINDS[name], parameters), weight
    return best


def of_request(content_type: str, accept: str) -> tuple[Form, Form]:
    """The form of a request's body, and that of its answer."""
    body = of_body(content_type)
    return body, of_answer(accept, body)


def _media_type(text: str) -> tuple[str, Mapping[str, str]]:
    name, *rest = text.split(";")
    pairs = (pair.partition("=") for pair in rest[:8])
    return name.strip().lower(), {key.strip().lower(): value.strip().strip('"').lower() for key, _, value in pairs}


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def encode(form: Form, raw: bytes, schema: Schema, most_rows: int) -> Matrix:
    """The rows of a body that is no JSON as the matrix that the graph reads, [N, F].

    Raises:
        BadBody, TooLarge, BadRow: as the form's own `encode` says.
    """
    if form.parameters.get("charset", "utf-8") not in _UTF8 and form.kind != "arrow":
        raise BadBody("the body must be in UTF-8", f"charset {shown(form.parameters['charset'])}")
    if form.kind == "csv":
        return csv_text.encode(raw, schema, most_rows, header=form.header)
    if form.kind == "lines":
        return json_lines.encode(raw, schema, most_rows)
    return arrow.encode(raw, schema, most_rows)


def check_output(version: Version, form: Form, output: str | None, level: float | None = None) -> float | None:
    """Refuse, before anything is computed, an answer that cannot be written; else the level of its intervals or sets.

    `level` is the one that the body asks for, which comes before that of the form.

    Raises:
        BadBody: probabilities are asked of a regression, the form's parameters are none of ours, or it has no room for
            intervals.
        NotOffered: the version has no intervals.
    """
    if "probabilities" in (output, form.output) and version.manifest.classes is None:
        raise BadBody(f"model '{version.name}' predicts numbers and has no probabilities")
    if form.kind == "csv":
        _ = form.header  # raises where it is neither
    if level is None and form.interval is not None:
        level = certainty.asked_level({certainty.INTERVAL: form.interval}, version)
    if level is not None and form.kind == "json":
        raise BadBody("an answer of this path in JSON has no room for intervals; ask for text/csv or another form")
    return level


def write(
    form: Form, version: Version, answers: Answers, *, output: str | None = None, level: float | None = None
) -> bytes:
    """The body of an answer; in JSON that of MLflow's scoring protocol.

    Raises:
        ModelFailed: a number is not finite, or a label is no class.
    """
    chosen = form.output or output or scoring.OUTPUTS[0]
    if level is None:
        sure = None
    else:
        finite(version, "prediction" if version.manifest.classes is None else "probabilities", answers)
        sure = certainty.certainty_of(version, answers, level)
    if form.kind == "csv":
        return csv_text.write(version, answers, header=bool(form.header), output=chosen, sure=sure)
    if form.kind == "lines":
        return json_lines.write(version, answers, sure)
    if form.kind == "arrow":
        return arrow_answer.write(version, answers, sure)
    return scoring.write(version, answers, output=chosen)
