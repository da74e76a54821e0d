"""The forms in which requests of one turn of the event loop are read and answered at once: service/http/same_turn.py.

What a form does not read, or may not, is no error here: the request is read again by what reads everything.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import orjson

from models.proof import Answers
from models.repository import Version
from models.schema import Matrix
from service.wire import number_rows, oip, oip_answer, oip_row, oip_signature, plain, record_rows
from service.wire.oip_signature import CLASS, PACKED

MOST_FEW_ROWS = 64
"""Of plain requests that are read and written together; those of more rows are read one by one, or their texts would
leave the cache before they are looked at again."""

_LONGEST_AROUND = 1000  # bytes beside the numbers: whoever knows a form keeps them
_JSON = b"content-type: application/json\r\n"
_OF_NUMBERS = b" \t\r\n0123456789+-.eE,"
_IN_NUMBERS = b" \t\r0123456789+-.eE"
_DATA = re.compile(rb'"data"\s*:\s*\[\Z')
_DATA_LIST = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[')


class TurnForm:
    """How rows come and answers go, of requests that are alike.

    Attributes:
        headers: of an answer, those that say what it is.
        rows: of each request.
    """

    headers = _JSON
    rows: int

    def read(self, body: bytes) -> tuple[Any, str] | None:
        """A line for `matrix`, and the id that comes back with the answer; None for a body that is read otherwise.

        Raises:
            orjson.JSONDecodeError: it is no JSON.
        """
        raise NotImplementedError

    def together(self, bodies: Sequence[bytes]) -> Matrix | None:  # noqa: ARG002 - one by one, where nothing is known
        """The matrix of bodies that were all written as the last one was; None where that is not known of one."""
        return None

    def matrix(self, lines: Sequence[Any]) -> Matrix:
        """The matrix of lines, [N, F], N from 1 and `rows` for each.

        Raises:
            ValueError, RowcastError: one of them is no row.
        """
        return lines[0] if len(lines) == 1 else np.concatenate(lines)

    def write(self, answers: Answers) -> list[bytes]:
        """The body of each request's answer, for one without id.

        Raises:
            ModelFailed: one of them cannot be written.
        """
        raise NotImplementedError

    def with_id(self, text: bytes, request_id: str) -> bytes:
        """What `write` wrote, for a request that has an id; called where `read` gave one."""
        raise NotImplementedError


class _Numbers(TurnForm):
    """Rows in JSON. Around their numbers stands the same in request after request, so these are read all at once."""

    def __init__(self, version: Version, rows: int = 1, between_rows: bytes = b"") -> None:
        self.rows, self._between_rows = rows, between_rows
        self._version, self._schema = version, version.schema
        self._width = len(version.schema.columns)
        self._before, self._after = b"\0", b""  # what stood before and after the numbers of the last request
        self._between = b""  # what stands between the numbers of two; empty where that is not known

    def numbers_of(self, body: bytes) -> bytes | None:
        """The text of as many numbers as a row has, where they stand in what is known, and of nothing else."""
        if body.startswith(self._before) and body.endswith(self._after):
            text = body[len(self._before) : -len(self._after)]
            if text.count(b",") == self._width - 1 and not text.translate(None, _OF_NUMBERS):
                return text
        return None

    def learn(self, body: bytes) -> None:
        """Have what stands around the last list of a body known: it is the row, which was read, and flat."""
        start = body.rfind(b"[") + 1
        self._know(body, start, body.find(b"]", start))

    def _know(self, body: bytes, start: int, end: int) -> None:
        if start + len(body) - end <= _LONGEST_AROUND:
            self._before, self._after = body[:start], body[end:]
            between = b"%b\n%b" % (self._after, self._before)
            self._between = between if between.count(b"\n") == 1 else b""

    def together(self, bodies: Sequence[bytes]) -> Matrix | None:
        """What stands between numbers is looked at for all bodies at once.

        They are joined by newlines, of which none has one; so where there is one less than bodies, each in the middle
        of what ends one known body and begins the next, all bodies are known but for what is left. Of that, commas,
        brackets and newlines must be where so many rows of so many numbers have them, and all else part of numbers.
        """
        before, after, between, rows = self._before, self._after, self._between, self.rows * len(bodies)
        text = b"\n".join(bodies)
        if not (between and text.startswith(before) and text.endswith(after)):
            return None
        inside = text[len(before) : -len(after)]
        flat = inside.replace(between, b",\n")
        is_between = len(inside) - len(flat) == (len(bodies) - 1) * (len(between) - 2)
        if not is_between or flat.translate(None, _IN_NUMBERS) != self._structure(len(bodies)):
            return None
        if self.rows > 1:
            length, each = len(flat), len(self._between_rows) - 1
            flat = flat.replace(self._between_rows, b",")
            if length - len(flat) != (rows - len(bodies)) * each:  # there is something in between
                return None
        numbers = number_rows.floats(b"[%b]" % flat)
        if numbers is None or len(numbers) != rows * self._width:
            return None
        return self._schema.encode_floats(numbers.reshape(rows, self._width))

    def _structure(self, bodies: int) -> bytes:
        """What is left of bodies, joined, when all that is part of a number or blank is taken away."""
        row = b"," * (self._width - 1)
        return (b"%b%b,\n" % (row, (b"],[" + row) * (self.rows - 1)) * bodies)[:-2]


class _OneRow(_Numbers):
    """One row. One that is read by itself may have more than numbers."""

    def matrix(self, lines: Sequence[Any]) -> Matrix:
        if set(map(type, lines)) == {bytes}:
            numbers = number_rows.floats(b"[%b]" % b",".join(lines))
            if numbers is not None and len(numbers) == len(lines) * self._width:
                matrix = self._schema.encode_floats(numbers.reshape(len(lines), self._width))
                if matrix is not None:
                    return matrix
        lists = [orjson.loads(b"[%b]" % line) if type(line) is bytes else line for line in lines]
        if any(len(line) != self._width for line in lists):
            raise ValueError("a row has no numbers")
        return self._schema.stack(lists)


class PlainRows(_OneRow):
    """`{"instances": [[5.1, 3.5]]}`, or a record."""

    def read(self, body: bytes) -> tuple[Any, str] | None:
        text = self.numbers_of(body)
        if text is not None:
            return text, ""
        found = record_rows.read(body, self._version)
        if found is not None:
            line = found[1].line()
        else:
            row = plain.only_row(orjson.loads(body))
            line = self._schema.line_of(row)
            if line is row is not None and self._schema.is_all_numbers:
                self.learn(body)
        return None if line is None else (line, "")

    def write(self, answers: Answers) -> list[bytes]:
        return plain.write_rows(self._version, answers)


class PlainFewRows(_Numbers):
    """`{"instances": [[5.1, 3.5], [4.9, 3.0]]}`, always so many rows of numbers, with always the same around them."""

    @staticmethod
    def around(body: bytes) -> tuple[bytes, ...] | None:
        """What stands around the numbers of a body; None for one that has more than rows."""
        found = number_rows.AROUND.fullmatch(body)
        return None if found is None else found.group("before", "between", "after")

    @classmethod
    def of(cls, version: Version, body: bytes, rows: int) -> Self | None:
        """The form of requests like this one, which was read; None where it has more than numbers."""
        around = number_rows.AROUND.fullmatch(body)
        if around is None or not version.schema.is_all_numbers:
            return None
        form = cls(version, rows, around["between"])
        form._know(body, around.end("before"), around.start("after"))
        return None if form.together([body]) is None else form

    def read(self, body: bytes) -> tuple[Any, str] | None:
        matrix = self.together([body])
        return None if matrix is None else (matrix, "")

    def write(self, answers: Answers) -> list[bytes]:
        return plain.write_few(self._version, answers, self.rows)


class PlainManyRows(TurnForm):
    """The same, of more rows."""

    def __init__(self, version: Version, rows: int) -> None:
        self._version, self.rows = version, rows

    @classmethod
    def of(cls, version: Version, body: bytes, rows: int) -> Self | None:
        """The form of requests like this one, which was read; None where it has more than numbers."""
        form = cls(version, rows)
        return None if not version.schema.is_all_numbers or form.read(body) is None else form

    def read(self, body: bytes) -> tuple[Any, str] | None:
        found = number_rows.read(body)
        matrix = None if found is None or len(found[1]) != self.rows else found[1].matrix(self._version.schema)
        return None if matrix is None else (matrix, "")

    def write(self, answers: Answers) -> list[bytes]:
        return plain.write_many(self._version, answers, self.rows)


class OipRows(_OneRow):
    """One row of the Open Inference Protocol in JSON."""

    def read(self, body: bytes) -> tuple[Any, str] | None:
        text = self.numbers_of(body)
        if text is not None:
            return text, ""
        found = oip_row.line_of(orjson.loads(body), self._version)
        if found is None:
            return None
        request_id, line = found
        is_packed = self._schema.is_all_numbers and body.count(b'"data"') == 1
        if not request_id and is_packed and _DATA.search(body, 0, body.rfind(b"[") + 1):
            self.learn(body)
        return line, request_id

    def write(self, answers: Answers) -> list[bytes]:
        return oip_row.write_rows(self._version, answers)

    def with_id(self, text: bytes, request_id: str) -> bytes:
        return oip_row.with_id(self._version, text, request_id)


class OipBinaryRows(TurnForm):
    """Rows of the Open Inference Protocol as raw bytes, behind a JSON that is always the same."""

    def __init__(self, version: Version, asked: oip.Request, rows: int, head: bytes, wanted: Sequence[str]) -> None:
        self._version, self.rows, self._head, self._outputs = version, rows, head, wanted
        self._length = len(head) + np.dtype("<f4").itemsize * rows * len(version.schema.columns)
        answer, json_bytes = oip_answer.write(version, asked, _zeros(version, rows))
        self._answer_head = answer[:json_bytes]
        self.headers = b"inference-header-content-length: %d\r\ncontent-type: application/octet-stream\r\n" % (
            len(self._answer_head)
        )

    @classmethod
    def of(cls, version: Version, body: bytes, head_bytes: int) -> Self | None:
        """The form of requests like this one, which was read; None where one has more than rows of numbers."""
        if head_bytes > _LONGEST_AROUND:
            return None
        schema = version.schema
        asked = oip.read(body, str(head_bytes))
        outputs = asked.wanted or [oip.Wanted(name) for name in oip_signature.outputs_by_name(version)]
        is_bare = not asked.id and asked.parameters.keys() <= {"binary_data_output"}
        if not is_bare or len(asked.inputs) != 1 or not schema.is_all_numbers or schema.datatype != "FP32":
            return None
        (tensor,) = asked.inputs
        is_packed = (tensor.name, tensor.datatype, len(tensor.shape)) == (PACKED, "FP32", 2)
        if not is_packed or not tensor.shape[0] or not isinstance(tensor.data, memoryview):
            return None
        for one in outputs:
            is_binary = asked.binary if one.binary is None else one.binary
            if not is_binary or one.classification or one.name == CLASS:
                return None
        return cls(version, asked, tensor.shape[0], body[:head_bytes], [one.name for one in outputs])

    def read(self, body: bytes) -> tuple[Any, str] | None:
        if len(body) != self._length or not body.startswith(self._head):
            return None
        return body[len(self._head) :], ""

    def matrix(self, lines: Sequence[Any]) -> Matrix:
        matrix: Matrix = np.frombuffer(b"".join(lines), np.float32).reshape(len(lines) * self.rows, -1)
        if np.isinf(matrix).any():
            raise ValueError("a number is infinite")
        return matrix

    def write(self, answers: Answers) -> list[bytes]:
        checked = oip_answer.checked(self._version, answers)
        requests = len(next(iter(checked.values()))) // self.rows
        texts = [self._answer_head] * requests
        for name in self._outputs:
            raw = checked[name].tobytes()
            size = len(raw) // requests
            texts = [text + raw[number * size : (number + 1) * size] for number, text in enumerate(texts)]
        return texts


class OipManyRows(TurnForm):
    """Rows of the Open Inference Protocol in JSON: a flat list of numbers, and around it always the same."""

    def __init__(self, version: Version, asked: oip.Request, before: bytes, after: bytes) -> None:
        self._version, self._before, self._after = version, before, after
        self._asked, self.rows = replace(asked, inputs=()), asked.inputs[0].shape[0]

    @staticmethod
    def begin(asked: oip.Request, body: bytes, version: Version) -> int | None:
        """Where the list begins in a body; None where there is more than that, or another form is asked for."""
        schema, inputs = version.schema, asked.inputs
        if len(inputs) != 1 or asked.id or asked.parameters or any(one.binary for one in asked.wanted):
            return None
        (tensor,) = inputs
        is_packed = (tensor.name, tensor.datatype, len(tensor.shape)) == (PACKED, schema.datatype, 2)
        if not is_packed or 0 in tensor.shape or not schema.is_all_numbers:
            return None
        found = _DATA_LIST.search(body)
        is_only = found is not None and body.count(b'"data"') == 1 and b"\\" not in body
        return found.end() if found is not None and is_only else None

    @classmethod
    def of(cls, version: Version, body: bytes, begin: int) -> Self | None:
        """The form of requests like this one; None where its list is not flat, or there is much beside it."""
        end = body.find(b"]", begin)
        if b"[" in body[begin:end] or begin + len(body) - end > _LONGEST_AROUND:
            return None
        return cls(version, oip.read(body, None), body[:begin], body[end:])

    def read(self, body: bytes) -> tuple[Any, str] | None:
        if not body.startswith(self._before) or not body.endswith(self._after):
            return None
        inside = body[len(self._before) : -len(self._after)]
        numbers = None if b"[" in inside else number_rows.floats(b"[%b]" % inside)
        if numbers is None or len(numbers) != self.rows * len(self._version.schema.columns):
            return None
        matrix = self._version.schema.encode_floats(numbers.reshape(self.rows, -1))
        return None if matrix is None else (matrix, "")

    def write(self, answers: Answers) -> list[bytes]:
        rows, total = self.rows, len(next(iter(answers.values())))
        parts = ({name: values[at : at + rows] for name, values in answers.items()} for at in range(0, total, rows))
        return [oip_answer.write(self._version, self._asked, part)[0] for part in parts]


def _zeros(version: Version, rows: int) -> Answers:
    """An answer to so many rows."""
    if version.manifest.classes is None:
        return {"prediction": np.zeros((rows, len(version.manifest.targets)), np.float32)}
    probabilities = np.zeros((rows, len(version.manifest.classes)), np.float32)
    return {"probabilities": probabilities, "label": np.zeros(rows, np.int64)}


@dataclass(frozen=True, slots=True)
class LastRequest:
    """What is known of a connection's last request, as far as it says in which form the next one may come.

    Attributes:
        rows: how many it has.
        is_oip: it is one of the Open Inference Protocol, else a plain one.
        oip_length: how many bytes of its body are JSON, as its header says, if raw bytes follow.
        begin: where its numbers begin, if it is many rows in JSON of the Open Inference Protocol, see `OipManyRows`.
    """

    version: Version
    body: bytes
    rows: int
    is_oip: bool
    oip_length: str | None
    begin: int | None

    def key(self) -> tuple[str, Any]:
        """The same for all that come in one form."""
        if self.rows > 1 and not self.is_oip:
            return self.version.key, (self.rows, PlainFewRows.around(self.body) if self.rows <= MOST_FEW_ROWS else None)
        end = self.begin if self.oip_length is None else int(self.oip_length)
        return self.version.key, self.is_oip if end is None else self.body[:end]

    def form(self) -> TurnForm | None:
        """That form; None where there is none."""
        version, body = self.version, self.body
        if self.rows > 1 and not self.is_oip:
            return (PlainFewRows if self.rows <= MOST_FEW_ROWS else PlainManyRows).of(version, body, self.rows)
        if self.begin is not None:
            return OipManyRows.of(version, body, self.begin)
        if self.oip_length is None:
            return OipRows(version) if self.is_oip else PlainRows(version)
        return OipBinaryRows.of(version, body, int(self.oip_length))
