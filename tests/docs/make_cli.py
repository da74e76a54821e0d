"""Writes docs/reference/cli.md from the commands themselves: `python -m tests.docs.make_cli`."""

import re
from pathlib import Path

from service.commands.app import app as service
from training.command import app as training

PAGE = Path(__file__).parents[2] / "docs/reference/cli.md"

HEAD = """\
# The command line

Two modules of the checkout are commands: `python -m service` serves, looks after a repository, predicts files and
measures a server; `python -m training` trains and publishes. `--help` behind any of them says what stands here.

Results go to stdout: tables on a terminal, the same without colors or cut lines elsewhere, and with `--json` one JSON
document. Errors are one sentence on stderr that names the place and what to do.

| exit status | of `python -m service` | of `python -m training` |
|---|---|---|
| 0 | done; a server that drained | everything was published |
| 1 | not well: a damaged version, answers that failed, requests cut off | some of several plans failed |
| 2 | asked wrongly, or a setting is wrong | asked wrongly, or the one plan failed |
| 3 | cannot be done here: a port in use, nothing to serve, clients too slow | |
| 130 | Ctrl-C | Ctrl-C |
| 141 | nobody reads the output any more, like a `head` that had enough | the same |

A shell completes the commands of the service, under an alias: `eval "$(python -m service completion bash)"`.
"""


def page() -> str:
    """What the page says."""
    return "\n".join((HEAD, _commands_of(service), _commands_of(training)))


def _commands_of(app) -> str:
    text = app.generate_docs(heading_level=2)
    # cyclopts puts the words that started Python after a name that has several words itself
    text = re.sub(r"^(python -m \w+.*?) -m [\w.]+", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"## Table of Contents\n\n( *- .*\n)+\n", "", text)
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # they follow
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
