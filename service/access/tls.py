"""TLS by settings, and a renewed certificate without a restart."""

import contextlib
import logging
import ssl
from pathlib import Path

from service.processes.waking import next_turn
from service.settings import PREFIX, BadSettings, Settings

_LOOK_S = 1.0
_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_log = logging.getLogger(__name__)


def make_context(settings: Settings) -> ssl.SSLContext:
    """What a connection is encrypted with; Python's defaults for servers, which are OpenSSL's good ciphers alone.

    Raises:
        BadSettings: a file is absent, or not what it must be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[settings.tls_minimum]
    context.set_alpn_protocols(["http/1.1"])
    _load(context, settings)
    authority = settings.tls_client_ca
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except OSError as error:  # ssl.SSLError is one
            raise BadSettings(_sentence("TLS_CLIENT_CA", authority, error, "PEM certificates")) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key
    assert certificate is not None
    for name, path in (("TLS_CERTIFICATE", certificate), ("TLS_KEY", key)):
        try:  # OpenSSL does not say which of the two it could not open
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise BadSettings(_sentence(name, path, error, "")) from None
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        beside = f" and {PREFIX}TLS_KEY {str(key)!r}" if key is not None else ""
        what = "a PEM certificate and its own unencrypted key"
        raise BadSettings(_sentence("TLS_CERTIFICATE", certificate, error, what, beside)) from None


def _no_password() -> str:
    """Instead of asking at the terminal, where nobody is."""
    return ""


def _sentence(name: str, path: Path | None, error: Exception, what: str, beside: str = "") -> str:
    place = f"{PREFIX}{name} {str(path)!r}{beside}"
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return f"{place} must be {what}: {getattr(error, 'reason', None) or 'it cannot be read'}"
    return f"{place} cannot be read: {error.strerror}"


class Tls:
    """The context of one process, which takes a renewed certificate for the connections that come after it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._stamp = self._stamp_of_files()

    def context(self) -> ssl.SSLContext:
        """The context, made in the process that listens.

        Raises:
            BadSettings: as `make_context` says.
        """
        self._stamp = self._stamp_of_files()
        self._context = make_context(self._settings)
        return self._context

    async def watch(self) -> None:
        """Load certificate and key again whenever their files change, for ever."""
        while True:
            await next_turn(_LOOK_S)
            self.refresh()

    def refresh(self) -> None:
        """Load them again if they have changed; what does not fit together leaves those that there were."""
        stamp = self._stamp_of_files()
        if self._context is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            make_context(self._settings)  # first elsewhere: a load that fails halfway would spoil what serves
            _load(self._context, self._settings)
        except BadSettings as error:
            _log.error("%s; the certificate that was read before stays", error)
        else:
            _log.info("the certificate was read again")

    def _stamp_of_files(self) -> list[tuple[int, ...]]:
        stamps: list[tuple[int, ...]] = []
        for path in (self._settings.tls_certificate, self._settings.tls_key):
            with contextlib.suppress(OSError):  # it may be away for a moment; what was read stays
                if path is not None:
                    found = path.stat()
                    stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return stamps
