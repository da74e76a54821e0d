"""What a run needs only after its fits: it is imported where it is used, or while other processes fit.

scikit-learn and Matplotlib take half as long to import as a small table's networks to fit.
"""

import importlib
from collections.abc import Iterator

from training import aside
from training.collector import uncollected

NEEDED_LATER = (*aside.LIBRARY, "matplotlib.figure", "training.publishing.report")
"""In this order, each a tenth of a second or so: between two of them the other processes are heard."""


def imports() -> Iterator[str]:
    """Import one thing after the other, and say what it was; not what another process has for us."""
    for name in NEEDED_LATER:
        if name in aside.LIBRARY and aside.has_begun():
            continue
        with uncollected():
            importlib.import_module(name)
        yield name
