"""Who asks, and whether it may: called once per request, as soon as its headers are there."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from service.access.keys import ANYBODY, Client, Keyring, Scope
from service.access.limits import Limits, Rate
from service.problems import Forbidden
from service.processes.waking import next_turn
from service.settings import Settings

_LOOK_S = 1.0  # how often the file of keys is looked at: one call to the kernel

_MODEL = re.compile(r"/v[12](?:/repository)?/models/(?!(?<=/v2/models/)stats$)([^/:]+)")
_ADMIN = re.compile(r"/v2/repository/models/[^/]+/(un)?load|/admin(/.*)?|/shutdown")
_CHANGING = frozenset({"PUT", "PATCH", "DELETE"})  # whatever path it is: a prediction is never asked so


@dataclass(slots=True)
class Caller:
    """Who asks.

    Attributes:
        address: where it comes from.
        client: the one whose key the request carries; `ANYBODY` as long as that is not known, or no keys are asked for.
        headers: what its answer says of its limit; None where it has none.
    """

    address: str
    client: Client = ANYBODY
    headers: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """The client's name, else its address."""
        return self.client.name or self.address


def scope_of(method: str, path: str) -> Scope:
    """The scope that a request needs."""
    if path == "/metrics":
        return "metrics"
    return "admin" if method in _CHANGING or _ADMIN.fullmatch(path) else "predict"


def model_of(path: str) -> str | None:
    """The model that a path names, if it names one."""
    match = _MODEL.match(path)
    return match[1] if match else None


class Gate:
    """Keys and limits as one process applies them."""

    def __init__(self, settings: Settings, limits: Path) -> None:
        """Read the keys; `limits` is the table that `Limits.make` made.

        Raises:
            BadSettings: the file of keys is wrong.
        """
        self._keys = Keyring(settings.api_keys_file, settings.api_key)
        self._limits = Limits(limits)
        self._rate = None if settings.rate_limit is None else Rate.of(settings.rate_limit, settings.rate_burst)
        self._proxies = settings.proxies
        self.needs_key = self._keys.is_needed
        self.looks = 0
        """How often keys were seen to have changed, or one to be over: who has no limit stays admitted until then."""

    def admit(self, caller: Caller, headers: Mapping[bytes, bytes], scope: Scope, model: str | None) -> None:
        """Let a request pass if it may ask for this, and take a token from its client's bucket.

        `model` is the one that is asked, if that is known.

        Raises:
            Unauthorized, KeyExpired: as `Keyring.find` says.
            Forbidden: the key is not for this.
            RateLimited: too many requests.
        """
        if self.needs_key:
            client = caller.client = self._keys.find(headers)
            if scope not in client.scopes:
                raise Forbidden("scope", scope)
            if model is not None:
                client.check_model(model)
        rate = caller.client.rate or self._rate
        if rate is not None:
            left = self._limits.spend(_bucket(caller), rate)
            caller.headers = {"ratelimit-policy": rate.policy, "ratelimit": f'"requests";r={left}'}

    def blame(self, caller: Caller) -> None:
        """Count a request without a right key against its address, and one that its key is not for against its client.

        Raises:
            RateLimited: too many of them.
        """
        rate = caller.client.rate or self._rate
        if rate is not None:
            self._limits.spend(_bucket(caller), rate)

    def address(self, headers: Mapping[bytes, bytes], peer: tuple[str, int] | None) -> str:
        """Where a request comes from: its peer, or whom a proxy that is trusted says to have sent it."""
        address = peer[0] if peer is not None else "unknown"
        if not self._proxies or not self._is_proxy(address):
            return address
        for hop in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            try:
                address = str(ipaddress.ip_address(hop.strip()))
            except ValueError:  # what a client wrote itself, before any proxy that is trusted
                return address
            if not self._is_proxy(address):
                return address
        return address

    def _is_proxy(self, address: str) -> bool:
        try:
            there = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = there.ipv4_mapped if isinstance(there, ipaddress.IPv6Address) else None
        return any((mapped or there) in network for network in self._proxies)

    async def watch(self) -> None:
        """Read the keys again whenever their file changes, for ever."""
        while True:
            await next_turn(_LOOK_S)
            self.looks += self._keys.refresh()


def _bucket(caller: Caller) -> str:
    """The name of a client's bucket; a key's and an address's never are the same."""
    return "key " + caller.client.name if caller.client.name else "address " + _network_of(caller.address)


@lru_cache(maxsize=4096)
def _network_of(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 one: a single client has 2^64 of these."""
    try:
        there = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(there, ipaddress.IPv4Address):
        return address
    if there.ipv4_mapped is not None:
        return str(there.ipv4_mapped)
    return str(ipaddress.ip_network((int(there), 64), strict=False))
