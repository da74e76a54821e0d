"""scikit-learn and Matplotlib in a process of their own, which imports them while this one imports torch.

`python -m training` begins it. What we ask of these libraries is small, regressions and metrics of arrays and drawings,
so that only a function and its arguments cross, and what it answers; and this process can go on until it wants to know.
In a program that imports us, nothing is begun, and whoever asks imports the library where it is (docs/decisions/0076,
0095).
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, TypeVar

from training.children import Child
from training.collector import uncollected

LIBRARY = (
    "scipy.sparse.linalg",
    "scipy.stats",
    "sklearn.metrics",
    "sklearn.linear_model",
    "sklearn.compose",
    "matplotlib.figure",
    "training.publishing.figures",
)
"""In this order, most of them a tenth of a second or more."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Aside(NamedTuple):
    """The process, and the thread that speaks with it: one question after the other, and nobody else waits."""

    child: Child
    thread: ThreadPoolExecutor


_aside: _Aside | None = None


def begin() -> None:
    """Fork the process, before anything large is imported here; not where one process is wanted, or cannot be forked.

    That is with one thread or one core, among torchrun's processes, and elsewhere than on Linux.
    """
    global _aside  # noqa: PLW0603 - one for the program, like the modules that it spares it
    is_alone = os.environ.get("OMP_NUM_THREADS") == "1" or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if _aside is None and sys.platform == "linux" and not is_alone and len(os.sched_getaffinity(0)) > 1:
        _aside = _Aside(Child(_do, _prepare), ThreadPoolExecutor(1))


def has_begun() -> bool:
    """Whether another process has the libraries, so that this one need not import them."""
    return _aside is not None


def ask(function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> Callable[[], _T]:
    """What a function answers, once it is called for: from the process that has the libraries, which begins now.

    Where there is none the function is called here, when its answer is called for. Its module must be quick to import:
    numpy and the libraries alone.

    Raises:
        LostProcess: when called for, that the process was killed; whatever the function raises is raised then.
    """
    if _aside is None:
        return functools.cache(functools.partial(function, *arguments, **named))
    return _aside.thread.submit(_answer, _aside.child, (function, arguments, named)).result


def asked(function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """The same, called for at once."""
    return ask(function, *arguments, **named)()


def end() -> None:
    """End the process, if there is one."""
    global _aside  # noqa: PLW0603
    if _aside is not None:
        _aside.child.kill()
        _aside.thread.shutdown(cancel_futures=True)
        _aside = None


def _answer(child: Child, question: object) -> Any:
    child.give(question)
    kind, answer = child.hear()
    if kind == "failed":
        raise answer
    return answer


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
