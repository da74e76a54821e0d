"""A line of the log as JSON."""

import json
import logging
from datetime import UTC, datetime


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
