"""What every part of a version is that is JSON: frozen, and read without any leniency."""

import json
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import BadVersion


class Record(BaseModel):
    """Fields as they are specified and no others; nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class RecordFile(Record):
    """A record that is a file of a version, named `FILE`, which is `A_WHAT`."""

    FILE: ClassVar[str]
    A_WHAT: ClassVar[str]

    def to_json(self) -> bytes:
        """The bytes of the file; floats come back exactly."""
        return (json.dumps(self.model_dump(), ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, raw: bytes, place: str) -> Self:
        """Read the bytes of the file; `place` names the version in errors.

        Raises:
            BadVersion: they are none.
        """
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"][:300]
            raise BadVersion(place, f"{cls.FILE} is not {cls.A_WHAT}: {reason}; publish it again") from None
