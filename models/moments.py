"""A moment as the numbers that stand for it in the matrix, `PARTS`, read in UTC.

day: days since 1970-01-01; second: of the day, with its fraction; weekday: 0 is Monday; yearday: 1 to 366.
"""

import re
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

PARTS = ("day", "second", "weekday", "yearday")

_EPOCH = date(1970, 1, 1).toordinal()
_FIRST_DAY, _LAST_DAY = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")

BOUNDS = ((1 - _EPOCH, date.max.toordinal() - _EPOCH), (0, 86_400), (0, 6), (1, 366))
"""The least and the largest value of each part; all but the second are whole numbers. FP32 may round up to 86,400."""

ISO_8601 = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?(Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?"
)
"""The part of ISO 8601 that is read: Python's own reader takes more, and takes other things in other releases."""

_is_iso_8601 = re.compile(ISO_8601).fullmatch


def parts_of(value: object) -> tuple[float, float, float, float]:
    """The parts of a moment: ISO 8601 text, or a date or datetime of Python or numpy.

    Raises:
        TypeError, ValueError, OverflowError: it is no date, no such date, or beyond the years 1 to 9999 in UTC.
    """
    moment = _in_utc(value)
    ordinal = moment.toordinal()  # day 1 is Monday, January 1 of the year 1
    second = moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6
    return ordinal - _EPOCH, second, (ordinal - 1) % 7, ordinal - _new_year(moment.year) + 1


@cache  # the years 1 to 9999
def _new_year(year: int) -> int:
    return date(year, 1, 1).toordinal()


def _in_utc(value: object) -> datetime:
    if isinstance(value, str):
        if not _is_iso_8601(value):
            raise ValueError
        value = datetime.fromisoformat(value)
    elif isinstance(value, np.datetime64):
        value = python_datetimes(np.array([value]))[0]
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - taken as UTC, as documented
    if not isinstance(value, datetime):
        raise TypeError
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def lines_of(values: npt.NDArray[Any]) -> list[npt.NDArray[np.float64]] | None:
    """What `parts_of` says of numpy's moments, of all at once; None where one is beyond the years 1 to 9999."""
    days = values.astype("datetime64[D]")  # coarse, so that no year is too far to compare
    if ((days < _FIRST_DAY) | (days > _LAST_DAY)).any():
        return None
    ordinal = days.astype(np.int64)  # from 1970-01-01, which was a Thursday
    microseconds = (values.astype("datetime64[us]") - days).astype(np.int64)
    second = microseconds // 1_000_000 + microseconds % 1_000_000 / 1e6
    new_year = days.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    is_missing = np.isnat(days)
    parts = (ordinal, second, (ordinal + 3) % 7, ordinal - new_year + 1)
    return [np.where(is_missing, np.nan, part) for part in parts]


def python_datetimes(values: npt.NDArray[Any]) -> list[object]:
    """Moments of numpy as Python's datetimes; None for NaT, and a bare number, which is refused, beyond its years."""
    days = values.astype("datetime64[D]")  # coarse, so that no year is too far to compare
    beyond = (days < _FIRST_DAY) | (days > _LAST_DAY)
    moments: list[object] = np.where(beyond, np.datetime64("NaT"), values).astype("datetime64[us]").tolist()
    return [int(days[row].astype(np.int64)) if beyond[row] else moment for row, moment in enumerate(moments)]
