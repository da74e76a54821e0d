"""The command line: which commands there are, and what becomes of an error. docs/reference/cli.md is made from it."""

import os
import sys
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from models.errors import RowcastError
from service.commands import bench, keys, predict, versions
from service.commands.output import NotWell
from service.processes import process

EPILOGUE = (
    "Exit status: 0 done; 1 it was done and something is not well (a damaged version, answers that failed); "
    "2 asked wrongly, or settings are wrong; 3 it cannot be done here (nothing to serve, clients too slow to measure); "
    "130 Ctrl-C; 141 nobody reads the output, as of | head -1."
)

NOBODY_READS = 141
"""As shells say it of a program that the broken pipe's signal ended; the trainer's commands end so, too."""

app = App(
    name="python -m service",
    help="Serve published models, look after them, predict files, measure a server.",
    help_epilogue=EPILOGUE,
    version_flags=(),
    suppress_keyboard_interrupt=False,
)
app.command(versions.app, name="models")
app.command(predict.predict)
app.command(bench.bench)
app.command(keys.key)


@app.command
def serve() -> int:
    """Serve every published model; so does `python -m service` alone. `ROWCAST_*` variables say how."""
    raise AssertionError("service/__main__.py serves before it comes here")


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], *, name: Annotated[str, Parameter()] = "rowcast") -> None:
    """Print what completes this command in a shell: eval "$(python -m service completion bash)".

    Args:
        shell: Whose.
        name: The alias of `python -m service` that is completed; it is defined as well.
    """
    sys.stdout.write(f"alias {name}='python -m service'\n" + app.generate_completion(prog_name=name, shell=shell))


def main(words: list[str] | None = None) -> int:
    """Run the command; the exit status. Every error is one sentence on stderr."""
    try:
        status = _status_of(words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return NOBODY_READS
    return status


def _status_of(words: list[str] | None) -> int:
    try:
        return int(app(words, exit_on_error=False, result_action="return_value") or 0)
    except CycloptsError:  # it has printed its sentence
        return process.BAD_SETTINGS
    except NotWell as error:
        say(str(error))
        return process.FAILED
    except RowcastError as error:
        say(str(error))
        return process.CANNOT_SERVE if isinstance(error, bench.CannotMeasure) else process.BAD_SETTINGS
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"{error.filename or 'the system'}: {error.strerror or error}")
        return process.BAD_SETTINGS
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def say(sentence: str) -> None:
    """One line for a person, on stderr."""
    if sentence:
        sys.stderr.write(sentence + "\n")
