"""Publishers that die and publishers that race, in processes of their own: `python publishers.py <what> <root>`.

A separate program, since the tests' own process may have threads, and one that has must not fork.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from models import files
from models import repository as code
from models.repository import Repository
from tests.models import sample


def kill_at_every_step(root: Path) -> None:
    """Publish a second version and be killed at the first line of code it executes, at the second, and so on.

    Prints, for each kill: the line, the versions left, and the number that the next publish gets.
    """
    os.fsync = lambda _: None  # most of the time, and without a meaning here: a kill is no power cut
    template = Repository(root / "template")
    template.publish("house", sample.fill)
    step = 0
    finished = False
    while not finished:
        step += 1
        repository = Repository(root / str(step))
        shutil.copytree(template.root, repository.root)
        before = sample.bytes_below(repository.root / "house/1")
        given, told = os.pipe()
        child = os.fork()
        if child == 0:
            _die_at(step, told)
            repository.publish("house", sample.fill)
            os._exit(0)
        os.close(told)
        status = os.waitpid(child, 0)[1]
        line = os.read(given, 100).decode() or "end"
        os.close(given)
        finished = os.waitstatus_to_exitcode(status) == 0
        assert finished or os.waitstatus_to_exitcode(status) == -signal.SIGKILL

        left = _versions_that_open(repository)
        assert sample.bytes_below(repository.root / "house/1") == before, line
        number = repository.publish("house", sample.fill)
        assert _versions_that_open(repository) == [*left, number], line
        entries = sorted(path.name for path in (repository.root / "house").iterdir())
        assert entries == [".last", ".lock", *map(str, [*left, number])], (line, entries)
        print(line, left, number)  # noqa: T201


def _die_at(step: int, told: int) -> None:
    """Be killed just before the step-th line from now on, in the contract's code or in what fills the draft."""
    steps = 0

    def count(frame, event, argument):  # noqa: ARG001 - the signature of a trace function
        nonlocal steps
        if frame.f_code.co_filename not in (code.__file__, files.__file__, sample.__file__):
            return None
        if event == "line":
            steps += 1
            if steps == step:
                os.write(told, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return count

    sys.settrace(count)


def publish_together(root: Path, publishers: int, each: int) -> None:
    """Publish from several processes at once. Prints the numbers that each was given."""

    def publish(_: int) -> str:
        return " ".join(str(Repository(root).publish("house", sample.fill)) for _ in range(each))

    _at_once(publishers, publish)


def label_together(root: Path, setters: int, each: int) -> None:
    """Set labels of one model from several processes at once. Prints how many each has set."""

    def label(setter: int) -> str:
        for i in range(each):
            Repository(root).set_label("house", f"label-{setter}-{i}", 1)
        return str(each)

    _at_once(setters, label)


def _at_once(processes: int, work: Callable[[int], str]) -> None:
    """Work in several processes, which start when all are there, and print what each says."""
    gate, opened = os.pipe()
    results = []
    for process in range(processes):
        result, told = os.pipe()
        if os.fork() == 0:
            os.close(opened)
            os.read(gate, 1)  # until the last writer closes it
            os.write(told, work(process).encode())
            os._exit(0)
        os.close(told)
        results.append(result)
    os.close(opened)
    for result in results:
        print(os.read(result, 1000).decode())  # noqa: T201


def _versions_that_open(repository: Repository) -> list[int]:
    return [repository.open("house", number).number for number in repository.versions("house")]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["kill", root]:
            kill_at_every_step(Path(root))
        case ["race", root, publishers, each]:
            publish_together(Path(root), int(publishers), int(each))
        case ["label", root, setters, each]:
            label_together(Path(root), int(setters), int(each))
