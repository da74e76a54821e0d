"""scikit-learn in a process of its own, which imports it while this one imports torch: each takes a second.

`python -m training` begins it. What we ask of the library is small, regressions and metrics of arrays, so that only a
function and its arguments cross, and what it answers. In a program that imports us, nothing is begun, and whoever asks
imports the library where it is (docs/decisions/0076).
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from training.children import Child
from training.collector import uncollected

LIBRARY = ("scipy.sparse.linalg", "scipy.stats", "sklearn.metrics", "sklearn.linear_model", "sklearn.compose")
"""In this order, each a tenth of a second or more."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_aside: Child | None = None


def begin() -> None:
    """Fork the process, before anything large is imported here; not where one process is wanted, or cannot be forked.

    That is with one thread or one core, among torchrun's processes, and elsewhere than on Linux.
    """
    global _aside  # noqa: PLW0603 - one for the program, like the modules that it spares it
    is_alone = os.environ.get("OMP_NUM_THREADS") == "1" or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if _aside is None and sys.platform == "linux" and not is_alone and len(os.sched_getaffinity(0)) > 1:
        _aside = Child(_do, _prepare)


def has_begun() -> bool:
    """Whether another process has the library, so that this one need not import it."""
    return _aside is not None


def asked(function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """What a function answers, from the process that has the library, or from this one where there is none.

    Its module must be quick to import: numpy and the library alone.

    Raises:
        LostProcess: the process was killed; whatever the function raises is raised.
    """
    if _aside is None:
        return function(*arguments, **named)
    _aside.give((function, arguments, named))
    kind, answer = _aside.hear()
    if kind == "failed":
        raise answer
    told: _T = answer
    return told


def end() -> None:
    """End the process, if there is one."""
    global _aside  # noqa: PLW0603
    if _aside is not None:
        _aside.kill()
        _aside = None


def _prepare() -> None:
    # the library would import pandas where it is there, a fifth of the whole, for frames: none comes here
    sys.modules["pandas"] = None  # type: ignore[assignment]
    with uncollected():
        for name in LIBRARY:
            importlib.import_module(name)
    del sys.modules["pandas"]


def _do(task: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], _: object) -> Any:
    function, arguments, named = task
    return function(*arguments, **named)


def _forget() -> None:
    global _aside  # noqa: PLW0603
    _aside = None  # the line is the parent's


os.register_at_fork(after_in_child=_forget)
