"""`python -m service`: serve every published model. `ROWCAST_*` variables say how; see service/settings.py.

`python -m service serve` is how SageMaker starts an image; see service/platforms.py.
"""

import signal

if __name__ == "__main__":  # first of all: what comes while the rest is imported waits for the supervisor to read it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})

import logging
import os
import socket
import sys

from service.platforms import as_settings
from service.process import BAD_SETTINGS, CANNOT_SERVE, start_logging
from service.settings import BadSettings, Settings, read_settings
from service.supervisor import supervise


def main() -> int:
    """The exit status: 0 served and ended, 1 failed, 2 settings, 3 cannot start."""
    try:
        os.environ.update(as_settings(os.environ, sys.argv[1:]))
        settings = read_settings()
    except BadSettings as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is set up by the settings
        return BAD_SETTINGS
    start_logging(settings.log_level)
    reason = port_is_taken(settings)
    if reason is not None:
        logging.getLogger("service").error(reason)
        return CANNOT_SERVE
    return supervise(settings)


def port_is_taken(settings: Settings) -> str | None:
    """Why the port cannot be listened on; None when it can. LitServe would leave its processes behind."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            return f"port {settings.port} of {settings.host} cannot be listened on: {error.strerror}; set ROWCAST_PORT"
    return None


if __name__ == "__main__":
    sys.exit(main())
