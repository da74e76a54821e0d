"""`python -m service`: serve every published model. `ROWCAST_*` variables say how; see service/settings.py.

`python -m service serve` is how SageMaker starts an image, see service/app/platforms.py; with another word behind it,
it is a command of service/commands/app.py.
"""

import signal
import sys

if __name__ == "__main__" and sys.argv[1:] in ([], ["serve"]):
    # first of all: what comes while the rest is imported waits for the supervisor to read it
    ends = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})

import errno
import importlib.metadata
import logging
import os
import socket

from service.app.platforms import as_settings
from service.processes.process import BAD_SETTINGS, CANNOT_SERVE, start_logging
from service.settings import BadSettings, Settings, read_settings
from service.supervisor import supervise


def main() -> int:
    """Serve, or run the command that is asked for; the exit status."""
    if sys.argv[1:] in ([], ["serve"]):
        return serve()
    from service.commands import app  # noqa: PLC0415 - the server starts without what commands need

    return app.main()


def serve() -> int:
    """The exit status: 0 served and ended, 1 failed, 2 settings, 3 cannot start."""
    try:
        os.environ.update(as_settings(os.environ, is_serve=bool(sys.argv[1:])))
        settings = read_settings()
        check_files(settings)
    except BadSettings as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is set up by the settings
        return BAD_SETTINGS
    start_logging(settings.log_level, settings.log_format)
    reason = port_is_taken(settings.host, settings.port)
    if reason is None and settings.metrics_port is not None:
        reason = port_is_taken(settings.host, settings.metrics_port, "ROWCAST_METRICS_PORT")
    if reason is not None:
        logging.getLogger("service").error(reason)
        return CANNOT_SERVE
    return supervise(settings)


def check_files(settings: Settings) -> None:
    """Read what the settings name, so that a mistake stops the start and not the first process that needs it.

    Raises:
        BadSettings: a file of keys or certificates is wrong.
    """
    if settings.api_keys_file is not None:
        from service.access.keys import read_keys  # noqa: PLC0415 - this process stays small

        read_keys(settings.api_keys_file)
    if settings.tls_certificate is not None:
        from service.access.tls import make_context  # noqa: PLC0415

        make_context(settings)
    if settings.tracing == "otlp":
        try:
            importlib.metadata.version("opentelemetry-exporter-otlp-proto-http")
        except importlib.metadata.PackageNotFoundError:
            raise BadSettings(
                "ROWCAST_TRACING is otlp, and OpenTelemetry is not there: install the group otel"
            ) from None


def port_is_taken(host: str, port: int, setting: str = "ROWCAST_PORT") -> str | None:
    """Why the port cannot be listened on; None when it can. LitServe would leave its processes behind."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        if error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:  # a kernel without IPv6
            setting = "ROWCAST_HOST"
        return f"port {port} of {host} cannot be listened on: {error.strerror}; set {setting}"
    return None


if __name__ == "__main__":
    sys.exit(main())
