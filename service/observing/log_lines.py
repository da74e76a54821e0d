"""A line of the log, as text or as JSON. The time is that of the access log's lines: UTC, and says so."""

import json
import logging
from datetime import UTC, datetime


class TextLines(logging.Formatter):
    """A log record as text: time, level, logger, message; the traceback of an error in the lines below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002 - logging's
        """When it was logged."""
        return moment(record.created)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        facts = {
            "time": moment(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts)  # not orjson: a message may hold lone surrogates


def moment(when: float) -> str:
    """A Unix time as text: ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
