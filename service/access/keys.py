"""API keys: a file of names, digests and scopes, and finding whose key a request carries.

A key is 32 random bytes, so its digest is a plain SHA-256. Slow hashes (scrypt, argon2) make guessing dear where a
secret can be guessed; 2^256 keys cannot, and a slow hash would cost each request milliseconds.

Comparing takes the same time whatever is right about a key. The key as it came is digested first, which takes a time
that depends on its length alone, and then the digest is looked up. How long the lookup takes may depend on how much
of the digest is as in the file; but nobody can choose a key by its digest, and who knew the whole digest would still
need a key that gives it. So nothing needs to be remembered between requests, and a digest with its lookup takes
0.3 µs however many keys there are (docs/decisions/0022-keys-and-limits.md).
"""

import hashlib
import logging
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from service.access.limits import Rate
from service.problems import Forbidden, KeyExpired, Unauthorized
from service.settings import PREFIX, BadSettings

Scope = Literal["predict", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

LONGEST_KEY = 512
"""Bytes; what is longer is no key of ours and is not digested."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever holds a key.

    Attributes:
        name: as the log and the limits know it; empty where no key is asked for.
        models: those that it may ask; None for all.
        expires: from when on its key is none, in Unix time; None for never.
        rate: how fast it may ask; None for as fast as anybody.
        may_be_urgent: its requests may go before others.
    """

    name: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    expires: float | None = None
    rate: Rate | None = None
    may_be_urgent: bool = False

    def check_model(self, model: str) -> None:
        """Let it pass if it may ask this model.

        Raises:
            Forbidden: it may not.
        """
        if not self.may_ask(model):
            raise Forbidden("model", model)

    def may_ask(self, model: str) -> bool:
        """Whether it may ask this model."""
        return self.models is None or model in self.models


ANYBODY = Client("", frozenset(SCOPES), may_be_urgent=True)
"""The client of a server without keys."""


class Key(BaseModel):
    """One `[[key]]` of the file; docs/how-to/securing.md describes it to those who write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    models: frozenset[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]] | None = None
    expires: AwareDatetime | None = None
    rate_limit: Annotated[float | None, Field(ge=0.001, le=1_000_000)] = None
    rate_burst: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    urgent: bool = False

    def client(self) -> Client:
        """The one who holds it."""
        expires = None if self.expires is None else self.expires.timestamp()
        rate = None if self.rate_limit is None else Rate.of(self.rate_limit, self.rate_burst)
        return Client(self.name, self.scopes, self.models, expires, rate, self.urgent)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Key] = []


def read_keys(path: Path) -> dict[bytes, Client]:
    """The clients of a file of keys, by the digests of their keys.

    Raises:
        BadSettings: it cannot be read, or is no such file; the sentence never shows what is in it.
    """
    place = f"{PREFIX}API_KEYS_FILE {str(path)!r}"
    try:
        file = _File.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise BadSettings(f"{place} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{place} is no TOML: {_reason(error)}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        number, *rest = [*fault["loc"][1:], ""]
        what = f"key {number + 1}" + f", {rest[0]}" * bool(rest[0]) if isinstance(number, int) else str(fault["loc"][0])
        raise BadSettings(f"{place}: {what}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from None
    clients: dict[bytes, Client] = {}
    for key in file.key:
        digest = bytes.fromhex(key.sha256)
        if digest in clients:
            raise BadSettings(f"{place}: the keys of {clients[digest].name!r} and {key.name!r} are the same")
        if key.rate_burst is not None and key.rate_limit is None:
            raise BadSettings(f"{place}: the key of {key.name!r} has a rate_burst and no rate_limit")
        clients[digest] = key.client()
    return clients


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is not UTF-8"


class Keyring:
    """The keys of a server: those of a file, read again whenever it changes, and the one key of the settings."""

    def __init__(self, path: Path | None, single: SecretStr | None) -> None:
        """Read the file.

        Raises:
            BadSettings: as `read_keys` says.
        """
        self._path = path
        self._single: dict[bytes, Client] = {}
        if single is not None:
            digest = hashlib.sha256(single.get_secret_value().encode()).digest()
            self._single[digest] = Client("default", frozenset(SCOPES), may_be_urgent=True)
        self._stamp = self._stamp_of_file()
        self._clients = self._single if path is None else read_keys(path) | self._single
        self.is_needed = path is not None or single is not None
        self._refreshed = time.time()

    def refresh(self) -> bool:
        """Read the file again if it has changed; one that is wrong leaves the keys that there were.

        Returns whether somebody who had a key before may have none by now.
        """
        before, self._refreshed = self._refreshed, time.time()
        expiries = [client.expires for client in self._clients.values() if client.expires is not None]
        return self._read_again() or any(before < expires <= self._refreshed for expires in expiries)

    def _read_again(self) -> bool:
        stamp = self._stamp_of_file()
        if self._path is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._clients = read_keys(self._path) | self._single
        except BadSettings as error:
            _log.error("%s; the keys that were read before stay", error)
        else:
            _log.info("the keys were read again: %d", len(self._clients))
        return True

    def _stamp_of_file(self) -> tuple[int, ...] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def find(self, headers: Mapping[bytes, bytes]) -> Client:
        """Whose key a request carries.

        Raises:
            Unauthorized: it carries none, or one that is nobody's.
            KeyExpired: it was somebody's once.
        """
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if len(given) > LONGEST_KEY:
            raise Unauthorized
        client = self._clients.get(hashlib.sha256(given).digest())
        if client is None:
            raise Unauthorized
        if client.expires is not None and time.time() >= client.expires:
            raise KeyExpired(datetime.fromtimestamp(client.expires, UTC).isoformat())
        return client


def make_key() -> tuple[str, str]:
    """A new key and its digest. The key begins as its like do elsewhere, for those who search for secrets."""
    key = "rowcast_" + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()
