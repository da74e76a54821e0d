"""The commands: train and publish plans, or a table that has none; search; reproduce."""

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, validators

from models.errors import AtPlace, RowcastError, shown
from models.manifest import Part, Scores, Task
from models.repository import Repository
from training import plan as plans
from training import progress, recipe
from training.data.rows import table_rows
from training.data.table import COMPRESSED, SUFFIXES
from training.faults import as_sentences, check_that_it_can_be_locked, check_that_it_can_be_written
from training.fitting.checkpoint import EVERY_S, FOLDER, Checkpoint
from training.fitting.distributed import leads
from training.judging.evaluate import MAIN
from training.plan import PLANS, BadPlan, Plan
from training.sentences import hint

DEFAULT_REPOSITORY = Path("models/published")
SERVER = "http://localhost:8000"
_LONGEST_ROW = 4000
"""Characters of an example row that are shown: some hundred features. A command line takes 128 kB of it at most."""

_Flag = Parameter(negative=())
_Whole = Annotated[int, Parameter(converter=lambda _, words: _whole(words[0].value))]

app = App(
    name="python -m training",
    help="Train and publish networks: plans by name or path, tables with --target; every plan that ships by default.",
    version_flags=(),
    suppress_keyboard_interrupt=False,
)


@app.default
def train(
    *sources: str,
    target: Annotated[tuple[str, ...], _Flag] = (),
    name: str | None = None,
    task: Task | None = None,
    drop: Annotated[tuple[str, ...], _Flag] = (),
    kind: Annotated[tuple[str, ...], _Flag] = (),
    epochs: _Whole | None = None,
    seed: _Whole | None = None,
    unpublished: Annotated[bool, _Flag] = False,
    repository: Path | None = None,
    json: Annotated[bool, _Flag] = False,
    checkpoint_s: Annotated[float, Parameter(validator=validators.Number(gte=0))] = EVERY_S,
) -> int:
    """Train and publish.

    Args:
        sources: Plans by name or path, or tables (CSV, TSV, Parquet); without any, every plan that ships.
        target: The column to predict, needed for a table; repeat it for several numbers at once.
        name: The model's name; a table's own is its file's.
        task: What to predict; inferred from the target.
        drop: A column that is no feature; repeat it for more.
        kind: A column's kind where the inferred one is not wanted, like zip=category; repeat it for more.
        epochs: The most passes over the training rows.
        seed: Of every random choice.
        unpublished: Skip what has a version already.
        repository: Where versions are published; ROWCAST_REPOSITORY, or models/published.
        json: Answer with one line of JSON for each version; what is shown meanwhile goes to stderr.
        checkpoint_s: How many seconds of work a kill may cost; the same command goes on from there.
    """
    options = _Options(target, name, task, drop, kind, epochs, seed)
    _check_that_they_are_of_one(sources, options)
    where = Repository(repository or Path(os.environ.get("ROWCAST_REPOSITORY") or DEFAULT_REPOSITORY))
    wanted = [_read_plan(source, options) for source in sources or plans.names()]
    failed = []
    for plan in wanted:
        if unpublished and where.versions(plan.name):
            said = f"{plan.name}: version {where.versions(plan.name)[-1]} is published already"
            print(said, file=sys.stderr if json else sys.stdout)
            continue
        try:
            _train_one(plan, where, checkpoint_s, as_json=json)
        except RowcastError as error:
            names_it = isinstance(error, AtPlace) and error.place == plan.name
            print(error if names_it else f"{plan.name}: {error}", file=sys.stderr)
            failed.append(plan.name)
    if failed and len(wanted) > 1:
        print(f"{len(failed)} of {len(wanted)} failed: {', '.join(failed)}", file=sys.stderr)
    if not failed:
        return 0
    return 1 if len(wanted) > 1 else 2


@app.command
def reproduce(*names: str) -> int:
    """Train the founding systems by their sources' recipes and by ours, and compare; fails where one is worse.

    Args:
        names: Plans that ship; without any, all of them.
    """
    from training import reproduce as reproductions  # noqa: PLC0415 - what training itself has no use for

    return reproductions.reproduce(names)


@app.command(name="search")
def find(
    source: str,
    *,
    trials: Annotated[_Whole, Parameter(validator=validators.Number(gte=1))],
    storage: str,
    save: Path | None = None,
    target: Annotated[tuple[str, ...], _Flag] = (),
    name: str | None = None,
    epochs: _Whole | None = None,
) -> int:
    """Search for the best network and recipe, together with every other process that is given the same.

    Args:
        source: A plan by name or path, or a table.
        trials: How many trials the whole study has, those of other processes included.
        storage: A journal file on a disk that all processes see, or a database's URL.
        save: Write the best plan to this file (.toml); train it like any other.
        target: The column to predict, needed for a table.
        name: The model's name.
        epochs: The most passes over the training rows in a trial.
    """
    from training.search import search, write_plan  # noqa: PLC0415 - Optuna, which takes long to import

    plan = _read_plan(source, _Options(target, name, None, (), (), epochs, None))
    if save is not None:
        if save.suffix != ".toml" or save.is_dir():
            raise BadPlan(str(save), "a plan is a file that ends with .toml; save it as one")
        check_that_it_can_be_written(save.parent)
    found = search(plan, trials, storage, lambda sentence: print(sentence, flush=True))
    print(f"{found.study}: {found.trials} trials; best validation loss {found.loss:.4g}")
    if save is not None:
        with as_sentences(str(save)):
            write_plan(found.plan, save)
        print(f"  python -m training {shlex.quote(str(save))}")
    return 0


def main(words: list[str] | None = None) -> int:
    """Run the command, and give its exit status.

    0, 1 where some of several plans failed, 2 where the one plan failed or was asked for wrongly, 130 for Ctrl-C, and
    141 where nobody reads the output any more, as of `| head -1`.
    """
    try:
        return int(app(words, exit_on_error=False, result_action="return_value") or 0)
    except CycloptsError:  # it has printed its sentence
        return 2
    except RowcastError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing more was published", file=sys.stderr)
        return 130
    except BrokenPipeError:
        print("nobody reads the output any more; nothing more was published", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 141


def _whole(word: str) -> int:
    """A whole number; cyclopts would round 1.5.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"must be a whole number, got {shown(word)}") from None


# ------------------------------------------------------------------------------------------------ what to train


@dataclass(frozen=True)
class _Options:
    """What the command line says beyond the source; it goes before what a plan says."""

    target: tuple[str, ...]
    name: str | None
    task: Task | None
    drop: tuple[str, ...]
    kind: tuple[str, ...]
    epochs: int | None
    seed: int | None


def _check_that_they_are_of_one(sources: Sequence[str], options: _Options) -> None:
    """Refuse what is meant of one table where all plans that ship would be trained, and one name for several models.

    Raises:
        BadPlan: it is so.
    """
    of_one = {name: getattr(options, name) for name in ("target", "name", "task", "drop", "kind")}
    given = next((name for name, value in of_one.items() if value), None)
    if not sources and given:
        raise BadPlan(f"--{given}", "say of which table, like my.csv --target price")
    if len(sources) > 1 and options.name:
        raise BadPlan("--name", f"{len(sources)} models cannot all be {options.name}; train one at a time")


def _read_plan(source: str, options: _Options) -> Plan:
    """The plan that a word of the command line names: a table, a plan's file, or a plan that ships."""
    path = Path(source)
    if "://" in source:
        raise BadPlan(source, "is an address; download the table first, and name its file")
    if path.is_dir() and path.suffix != ".toml":
        raise BadPlan(source, "is a folder; name a file")
    if path.suffix == ".toml":
        plan = Plan.read(path).model_dump(exclude_unset=True)
    elif source in plans.names():
        plan = Plan.read(PLANS / f"{source}.toml").model_dump(exclude_unset=True)
    elif path.suffix.lower() in SUFFIXES + COMPRESSED or path.is_file():  # who reads it says what is no table
        if not options.target:
            raise BadPlan(source, "say what to predict: --target COLUMN")
        plan = {"name": _model_name(path), "target": options.target, "table": {"path": source}}
    else:
        known = hint(source, plans.names())
        raise BadPlan(
            source, f"is no plan that ships, no plan's file (.toml) and no table ({', '.join(SUFFIXES)}){known}"
        )
    return Plan.of(_with(plan, options), source)


def _with(plan: dict[str, Any], options: _Options) -> dict[str, Any]:
    given = {"target": options.target, "name": options.name, "task": options.task}
    table, fit = dict(plan["table"]), dict(plan.get("fit", {}))
    if options.drop:
        table["drop"] = (*table.get("drop", ()), *options.drop)
    if options.kind:
        table["kinds"] = table.get("kinds", {}) | dict(_kind(word) for word in options.kind)
    fit |= {key: value for key, value in (("epochs", options.epochs), ("seed", options.seed)) if value is not None}
    return plan | {key: value for key, value in given.items() if value} | {"table": table, "fit": fit}


def _kind(word: str) -> tuple[str, str]:
    column, equals, kind = word.rpartition("=")
    if not equals:
        raise BadPlan("--kind", f"write COLUMN=KIND, like zip=category, got {word}")
    return column, kind


def _model_name(path: Path) -> str:
    """The file's name made fit for a path and a URL."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")[:100] or "table"


# ------------------------------------------------------------------------------------------------ one plan


def _train_one(plan: Plan, repository: Repository, checkpoint_s: float, *, as_json: bool) -> None:
    if not leads():
        recipe.follow(plan)
        return
    check_that_it_can_be_written(repository.root)
    check_that_it_can_be_written(repository.root / plan.name)  # a file may stand there
    check_that_it_can_be_locked(repository.root)
    start = time.perf_counter()
    shown_on = sys.stderr if as_json else sys.stdout
    checkpoint = Checkpoint(repository.root / FOLDER, checkpoint_s)
    try:
        with as_sentences(str(repository.root)), progress.shown(plan.name, shown_on) as report:
            fitted, number = recipe.run(plan, repository, report, checkpoint)
    except KeyboardInterrupt:
        if checkpoint.folder is not None:
            kept = f"the same command goes on from the checkpoint in {checkpoint.folder}"
            print(f"{plan.name}: {kept}", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    print((_line if as_json else _summary)(fitted, number, seconds), flush=True)


def _line(fitted: recipe.Fitted, number: int, seconds: float) -> str:
    """What a program wants to know of a version."""
    scores = {part: scored.model_dump(mode="json") for part, scored in fitted.scores.items()}
    facts = {"model": fitted.plan.name, "version": number, "task": fitted.data.task, "seconds": round(seconds, 3)}
    told = {"notes": fitted.notes, "warnings": fitted.warnings}
    return json.dumps(facts | {"scores": scores} | told, ensure_ascii=False)


def _summary(fitted: recipe.Fitted, number: int, seconds: float) -> str:
    name, task = fitted.plan.name, fitted.data.task
    rows = " + ".join(f"{len(part.y):,} {of}" for of, part in fitted.parts.items())
    part: Part = "test" if "test" in fitted.scores else "validation"
    row = json.dumps({"instances": table_rows(fitted.parts["train"].frame, fitted.schema, most=1)}, ensure_ascii=False)
    ask = f"{SERVER}/v1/models/{name}:predict -H 'Content-Type: application/json' -d {shlex.quote(row)}"
    if len(row) > _LONGEST_ROW:
        ask = f"{SERVER}/v1/models/{name}"  # whose answer has an example row, too
    return "\n".join(
        (
            f"{name}/{number}: {task} of {', '.join(fitted.data.targets)}; {rows} rows; {seconds:.1f} s",
            f"  {part} {_compared(fitted.scores[part], MAIN[task])}",
            f"  curl {ask}",
        )
    )


def _compared(scores: Scores, metric: str) -> str:
    """Like "accuracy 0.9825 (majority 0.6140, linear 0.9737)"."""
    baselines = ", ".join(f"{name} {_figure(values[metric])}" for name, values in scores.baselines.items())
    return f"{metric} {_figure(scores.metrics[metric])} ({baselines})"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
