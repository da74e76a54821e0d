"""Where this process keeps its counts: in files that are named after its slot ("api-0"), not after its id.

A process that takes a dead one's place goes on with its files, so no counter goes down, and there are at most five
files for each slot.
"""

import os
from pathlib import Path

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from service.observing.count_files import make_room, value_class

_slot = "main"


def counts_folder() -> Path:
    """Where all processes of this server write their counts."""
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


values.ValueClass = value_class(counts_folder, lambda: _slot)


def use_slot(slot: str) -> None:
    """Write from now on to the files of this slot, going on from what they hold.

    A process calls this as it starts. Of the processes alive, no two may have one slot.
    """
    global _slot  # noqa: PLW0603 - which files this process writes to is a fact about the process
    _slot = slot
    make_room(counts_folder(), slot)


def forget_process(slot: str) -> None:
    """Drop what only a living process has, its rows in flight. The parent calls this when a slot's process died."""
    mark_process_dead(slot)  # type: ignore[no-untyped-call]  # has no annotations
