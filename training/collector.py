"""The garbage collector, kept from looking where there is none.

Torch, its exporter and all else that a run imports are a million objects, none of them garbage, and the collector looks
through them again each time that their number has grown by a quarter: it took a third of the time of these imports.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Let the block make objects without a search for garbage among them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
