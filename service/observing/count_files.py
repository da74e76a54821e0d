"""The files in which a process keeps its counts: numbers by the names of their series, mapped, so that they outlive it.

Their format is that of prometheus_client, whose own writer never gives up a series: a version that had come and gone
took 15 kB of the files of each slot, and 75 kB of each process. Here the series of versions that are gone are given up
together: what is left goes to a new file in the old one's place, so a reader sees one or the other. Four bytes of the
head for which that format has no use count how often this was done.
"""

import json
import logging
import mmap
import os
import struct
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import mmap_key

HEAD = struct.Struct("<ii")
"""How many bytes are used, and how often series were given up."""
LENGTH = struct.Struct("<i")
_VALUE = struct.Struct("<dd")  # and when it was set, for which nothing here has a use

_ROOM = {"histogram": 2**20, "counter": 2**18, "gauge_max": 2**16, "gauge_livesum": 2**16, "gauge_liveall": 2**16}
"""Bytes of the files of a slot, by kind: enough for 60 versions; more are mapped as they come."""

Whose = tuple[str, str]
"""Model and version of a series; empty where it has none."""

log = logging.getLogger(__name__)


def make_room(folder: Path, slot: str) -> None:
    """Take the room of the slot's files from the disk now: a mapped page for which none is left kills the process."""
    for kind, size in _ROOM.items():
        path = folder / f"{kind}_{slot}.db"
        if not path.exists():
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)


class CountFile:
    """One file of a slot. One thread of one process at a time writes to it; every process of the server may read it.

    Attributes:
        keys: the names of the series of each model and version.
    """

    def __init__(self, path: Path, room: int) -> None:
        """Go on with what it holds; one that is not there is made."""
        self._path, self._room = path, room
        self._open()

    def _open(self) -> None:
        with self._path.open("a+b") as file:
            if not file.tell():
                file.truncate(self._room)
            self._map = mmap.mmap(file.fileno(), 0)
        used, self._given_up = HEAD.unpack_from(self._map)
        self._used: int = used or HEAD.size
        self._places: dict[str, int] = {}
        self.keys: dict[Whose, list[str]] = {}
        place = HEAD.size
        while place < self._used:
            (length,) = LENGTH.unpack_from(self._map, place)
            start = place + LENGTH.size
            value = value_place(start, length)
            self._know(self._map[start : start + length].decode(), value)
            place = value + _VALUE.size

    def read(self, key: str) -> float:
        """A series' value, 0 for a new one."""
        value, _ = _VALUE.unpack_from(self._map, self._place(key))
        return float(value)

    def write(self, key: str, value: float) -> None:
        """Set a series' value."""
        _VALUE.pack_into(self._map, self._place(key), value, 0.0)

    def forget(self, gone: Collection[Whose]) -> None:
        """Give up the series of models and versions."""
        if self.keys.keys().isdisjoint(gone):
            return
        kept = [(key, self._places[key]) for whose, keys in self.keys.items() if whose not in gone for key in keys]
        entries = b"".join([_entry(key, self._map[place : place + _VALUE.size]) for key, place in kept])
        used = HEAD.size + len(entries)
        size = self._room
        while size < used:
            size *= 2
        beside = self._path.with_suffix(".new")
        try:
            with beside.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
                file.write(HEAD.pack(used, self._given_up + 1) + entries)
        except OSError as error:  # the disk is full: another time
            log.warning("the counts of versions that are gone could not be given up: %s", error.strerror)
            beside.unlink(missing_ok=True)
            return
        beside.replace(self._path)
        self._map.close()
        self._open()

    def _place(self, key: str) -> int:
        place = self._places.get(key)
        if place is not None:
            return place
        entry = _entry(key, bytes(_VALUE.size))
        end = self._used + len(entry)
        if end > len(self._map):
            size = len(self._map)
            while size < end:
                size *= 2
            with self._path.open("r+b") as file:
                file.truncate(size)
                self._map.close()
                self._map = mmap.mmap(file.fileno(), 0)
        self._map[self._used : end] = entry
        self._used = end
        HEAD.pack_into(self._map, 0, end, self._given_up)  # last: a reader looks no further
        self._know(key, end - _VALUE.size)
        return end - _VALUE.size

    def _know(self, key: str, place: int) -> None:
        labels = json.loads(key)[2]
        self._places[key] = place
        self.keys.setdefault((labels.get("model", ""), labels.get("version", "")), []).append(key)


def value_place(start: int, length: int) -> int:
    """Where the value of a series lies whose name has `length` bytes from `start` on."""
    return start + length + 8 - (length + LENGTH.size) % 8


def _entry(key: str, value: bytes) -> bytes:
    name = key.encode()
    return LENGTH.pack(len(name)) + name.ljust(value_place(0, len(name))) + value


class SlotFiles:
    """The files of this process's slot. Its methods may be called from several threads."""

    def __init__(self, folder: Callable[[], Path], slot: Callable[[], str]) -> None:
        """Open none yet; both are asked whenever one is needed."""
        self._folder, self._slot = folder, slot
        self._files: dict[Path, CountFile] = {}
        self.lock = threading.Lock()  # a page is made in a thread, and a version's first page makes its series

    def of(self, kind: str) -> CountFile:
        """The file of a kind of metrics."""
        path = self._folder() / f"{kind}_{self._slot()}.db"
        if path not in self._files:
            self._files[path] = CountFile(path, _ROOM[kind])
        return self._files[path]

    def whose(self) -> set[Whose]:
        """All that have series, also those of a process that was there before in this slot."""
        with self.lock:
            return {whose for kind in _ROOM for whose in self.of(kind).keys}

    def forget(self, gone: Collection[Whose]) -> None:
        """Give up the series of models and versions."""
        with self.lock:
            for kind in _ROOM:
                self.of(kind).forget(gone)


def value_class(folder: Callable[[], Path], slot: Callable[[], str]) -> type:
    """What prometheus_client keeps each number of its metrics in: the files of a slot, which it has as `files`."""
    slots = SlotFiles(folder, slot)

    class Value:
        _multiprocess = True
        files = slots

        def __init__(  # noqa: PLR0917 - as prometheus_client hands them over
            self,
            kind: str,
            metric: str,
            name: str,
            labels: list[str],
            values: list[str],
            what: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            self._key = mmap_key(metric, name, labels, values, what)
            with slots.lock:
                self._file = slots.of(f"gauge_{multiprocess_mode}" if kind == "gauge" else kind)
                self._value = self._file.read(self._key)

        def inc(self, amount: float) -> None:
            with slots.lock:
                self._value += amount
                self._file.write(self._key, self._value)

        def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002 - of the mode "mostrecent"
            with slots.lock:
                self._value = value
                self._file.write(self._key, value)

        def get(self) -> float:
            return self._value

        def set_exemplar(self, exemplar: object) -> None:
            """There are none."""

        def get_exemplar(self) -> None:
            return None

    return Value
