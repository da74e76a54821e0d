"""What an API process and an inference worker say to each other: fixed binary frames, numbers as they lie in memory.

No pickle: whatever arrives on the socket can at worst be refused. All integers are little-endian.

request   length u64 | what u8 | datatype u8 | key bytes u16 | F u32 | N u64 | key, padded to 8 | matrix, C order
reply     length u64 | status u8 | outputs u8 | padding | seconds f64 | core_s f64 | then a sentence, or per output:
          name bytes u8 | datatype u8 | axes u8 | padding | width u32 | N u64 | name, padded to 8 | values, padded to 8

`length` counts what follows it. The key names a version and the very manifest it was opened with.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from models.proof import Answers
from models.schema import Matrix

LENGTH = struct.Struct("<Q")
_REQUEST = struct.Struct("<BBHIQ")
_REPLY = struct.Struct("<BB6xdd")
_OUTPUT = struct.Struct("<BBBxIQ")
_CODES: Mapping[str, int] = {"float32": 0, "float64": 1, "int64": 2}
_DATATYPES: tuple[type[np.generic], ...] = (np.float32, np.float64, np.int64)
_ALIGNED = 8
_MALFORMED = (struct.error, ValueError, IndexError, OverflowError)


SECONDS = "seconds"
"""What a reply to OPEN holds, [versions, 2]: seconds of a core for a run of each of TRIED_ROWS; 0: not tried."""
TRIED_ROWS = (1, 8)


class What(IntEnum):
    """What a request asks for."""

    PREDICT = 0
    OPEN = 1  # of several versions, a key on each line; who refuses some says a line for each, else SECONDS
    RETIRE = 2  # no API process that says so gives the version to new requests
    SHADOW = 3  # a process is wanted that computes shadows
    GREET = 4  # whether somebody is there; the reply has no outputs


class Status(IntEnum):
    """What became of a request."""

    OK = 0
    REFUSED = 1  # the version cannot be served; the sentence says why
    FAILED = 2  # the session failed on these rows


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the worker reads it."""

    what: What
    key: str
    matrix: Matrix


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: the answers and how long the session ran, or a sentence.

    Attributes:
        core_s: how long it would have run on one core.
    """

    status: Status
    seconds: float = 0.0
    core_s: float = 0.0
    sentence: str = ""
    answers: Answers | None = None


class BadFrame(Exception):
    """The bytes are no frame; the connection is closed."""


def request_bytes(what: What, key: str, matrix: Matrix) -> tuple[bytes, memoryview]:
    """A request, in two parts so that the matrix is not copied."""
    name = key.encode()
    matrix = np.ascontiguousarray(matrix)
    rows, width = matrix.shape
    padded = name + b"\0" * (-len(name) % _ALIGNED)
    head = _REQUEST.pack(what, _CODES[matrix.dtype.name], len(name), width, rows)
    return LENGTH.pack(len(head) + len(padded) + matrix.nbytes) + head + padded, matrix.reshape(-1).view(np.uint8).data


def read_request(frame: bytearray) -> Request:
    """The request in a frame, its length taken off.

    Raises:
        BadFrame: it is none.
    """
    try:
        what, code, name_bytes, width, rows = _REQUEST.unpack_from(frame)
        key = frame[_REQUEST.size : _REQUEST.size + name_bytes].decode()
        start = _REQUEST.size + name_bytes + (-name_bytes % _ALIGNED)
        values = np.frombuffer(frame, _DATATYPES[code], rows * width, start)
        return Request(What(what), key, values.reshape(rows, width))
    except _MALFORMED as error:
        raise BadFrame(str(error)) from None


def reply_bytes(reply: Reply) -> bytes:
    """A reply as it goes over the socket."""
    parts = [reply.sentence.encode()] if reply.answers is None else []
    for name, values in (reply.answers or {}).items():
        parts += _output_parts(name.encode(), np.ascontiguousarray(values))
    head = _REPLY.pack(reply.status, len(reply.answers or {}), reply.seconds, reply.core_s)
    return LENGTH.pack(len(head) + sum(map(len, parts))) + head + b"".join(parts)


def _output_parts(name: bytes, values: npt.NDArray[Any]) -> list[bytes]:
    width = values.shape[1] if values.ndim == 2 else 0
    head = _OUTPUT.pack(len(name), _CODES[values.dtype.name], values.ndim, width, len(values))
    raw = values.tobytes()
    return [head, name, b"\0" * (-len(name) % _ALIGNED), raw, b"\0" * (-len(raw) % _ALIGNED)]


def read_reply(frame: bytes | bytearray) -> Reply:
    """The reply in a frame, its length taken off; its arrays look into the frame.

    Raises:
        BadFrame: it is none.
    """
    try:
        status, count, seconds, core_s = _REPLY.unpack_from(frame)
        if status != Status.OK:
            return Reply(Status(status), seconds, core_s, frame[_REPLY.size :].decode(errors="replace"))
        answers: dict[str, npt.NDArray[Any]] = {}
        place = _REPLY.size
        for _ in range(count):
            name_bytes, code, axes, width, rows = _OUTPUT.unpack_from(frame, place)
            place += _OUTPUT.size
            name = frame[place : place + name_bytes].decode()
            place += name_bytes + (-name_bytes % _ALIGNED)
            values = np.frombuffer(frame, _DATATYPES[code], rows * width if axes == 2 else rows, place)
            answers[name] = values.reshape(rows, width) if axes == 2 else values
            place += values.nbytes + (-values.nbytes % _ALIGNED)
    except _MALFORMED as error:
        raise BadFrame(str(error)) from None
    return Reply(Status.OK, seconds, core_s, answers=answers)
