"""What a run needs only after its fits: it is imported where it is used, or while other processes fit.

scikit-learn and Matplotlib take half as long to import as a small table's networks to fit.
"""

import importlib
from collections.abc import Iterator

from training import aside
from training.collector import uncollected


def imports() -> Iterator[str]:
    """Import one thing after the other, and say what it was; nothing where another process has it for us.

    Each takes a tenth of a second or so: between two of them the other processes are heard.
    """
    for name in () if aside.has_begun() else aside.LIBRARY:
        with uncollected():
            importlib.import_module(name)
        yield name
