"""What every part of a version is that is JSON: frozen, and read without any leniency."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Fields as they are specified and no others; nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
