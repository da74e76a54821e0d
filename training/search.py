"""Many fits on many machines: `python -m training search PLAN --trials 200 --storage URL`.

An Optuna study (Akiba et al. 2019) looks for the network and the recipe with the lowest validation loss. Any number of
identical processes share it through its storage, a journal file or a database: each takes the next trial, learns from
all that have ended, and stops when the trials that were asked for are done. A process that is killed loses its trial
and nothing else: only trials that ended count.
"""

import hashlib
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError

from models.files import replace
from training import recipe
from training.data.source import Source, is_large
from training.faults import as_sentences
from training.fitting.course import Diverged
from training.plan import BadPlan, Plan

STALE_S = 600.0
"""How long a trial may be silent between two epochs before other processes take it for lost."""
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_BEAT = "rowcast:last epoch"
_DAMAGED = "is damaged: a line of it is none of a journal's; name a new file"

Report = Callable[[str], object]


@dataclass(frozen=True)
class Found:
    """What a study has found.

    Attributes:
        study: its name in the storage.
        trials: how many ended.
        loss: the lowest validation loss: 1 - R2 of a regression, the log loss of a classification.
        plan: that reached it.
    """

    study: str
    trials: int
    loss: float
    plan: Plan


def search(plan: Plan, trials: int, storage: str, report: Report = print, *, stale_s: float = STALE_S) -> Found:
    """Take part in a plan's study until so many trials of it have ended, here or elsewhere.

    Args:
        plan: where the search starts, and everything it does not vary.
        trials: of the whole study, those of other processes included.
        storage: a file, which is made, on a disk that all processes see; or a database's URL, such as
            postgresql+psycopg://user:password@host/name; the driver of another database has to be installed.
        report: is told of each trial that ends here, a sentence each.
        stale_s: see STALE_S.

    Raises:
        BadPlan: the storage cannot be opened or is damaged, or no trial came to an end.
        RowcastError: the table is bad, or the disk is full; a trial whose fit diverges is only pruned.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = f"{plan.name}-{_digest(plan, _digest_of_table(plan))}"
    with as_sentences(_without_password(storage)), _opened(storage) as shared:
        study = optuna.create_study(
            storage=shared,
            study_name=name,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=None),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=5),
        )
        while _ended(study) < trials:
            _fail_stale(study, stale_s)
            own = _run(study, plan)
            report(f"{name}: {_ended(study)} of {trials} trials; {_told(study, own)}")
        best, ended = _best(study), _ended(study)
    if best is None or best.value is None:
        raise BadPlan(_without_password(storage), f"no trial of {name} has come to an end; is every fit diverging?")
    return Found(name, ended, best.value, plan_of(plan, best.params))


def plan_of(plan: Plan, values: dict[str, Any]) -> Plan:
    """The plan with a trial's values in it."""
    net = {name: values[name] for name in ("dropout", "activation")}
    net |= {"hidden": (int(values["width"]),) * int(values["depth"]), "activations": None}
    fit = {name: values[name] for name in ("learning_rate", "weight_decay")}
    fields = plan.model_dump()
    return Plan.of(fields | {"net": fields["net"] | net, "fit": fields["fit"] | fit}, plan.name)


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as `Plan.read` reads it, in a folder that is made if it is not there.

    Raises:
        OSError: the disk is full or fails; the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True, exclude={"published"}))
    replace(path, written.encode(), mark=uuid.uuid4().hex)  # other processes of the study may be told to, too


def _run(study: optuna.Study, plan: Plan) -> FrozenTrial:
    """Take the next trial, and say how it ended.

    Where another process has taken it for lost meanwhile, as when this machine slept, it stays so.
    """
    trial = study.ask()
    try:
        loss = _loss(trial, plan)
        state = TrialState.PRUNED if loss is None else TrialState.COMPLETE
        return study.tell(trial, loss, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return study.trials[trial.number]
    except (Exception, KeyboardInterrupt):
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _loss(trial: optuna.Trial, plan: Plan) -> float | None:
    """The validation loss of one trial's network; None where it is hopeless, which its epochs tell early."""
    trial.set_user_attr("process", f"{socket.gethostname()}:{os.getpid()}")
    told = time.time()
    trial.set_user_attr(_BEAT, told)

    def report(event: str | recipe.Step) -> None:
        nonlocal told
        if isinstance(event, str) or event.member != 1:
            return
        trial.report(event.epoch.validation_loss, event.epoch.number)
        if time.time() - told > 1:
            told = time.time()
            trial.set_user_attr(_BEAT, told)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        fitted = recipe.train(plan_of(plan, _suggest(trial)), report)
    except (optuna.TrialPruned, Diverged):  # the second has ended too, and nothing near it is worth a try
        return None
    metrics = fitted.scores["validation"].metrics
    if fitted.data.task != "regression":
        return metrics["log_loss"]
    # of several targets the mean squared error would be that of the one in the smallest unit
    return metrics["mse"] if metrics["r2"] is None else 1 - metrics["r2"]


def _suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "width": trial.suggest_int("width", 32, 512, log=True),
        "depth": trial.suggest_int("depth", 1, 4),
        "activation": trial.suggest_categorical("activation", ["relu", "silu", "gelu"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.05),
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
    }


# ------------------------------------------------------------------------------------------------ the storage


@contextmanager
def _opened(storage: str) -> Iterator[BaseStorage]:
    """The storage, whose connections to a database are closed again.

    Raises:
        BadPlan: it cannot be opened, it is damaged, or a database fails meanwhile.
    """
    opened = _open(storage)
    try:
        yield opened
    except json.JSONDecodeError:
        raise BadPlan(storage, _DAMAGED) from None
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).splitlines()[0][:200]
        raise BadPlan(_without_password(storage), f"fails: {reason}") from None
    finally:
        if isinstance(opened, RDBStorage):
            opened.remove_session()
            opened.engine.dispose()


def _open(storage: str) -> BaseStorage:
    if "://" not in storage:
        path = Path(storage)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(0)
                if file.read(1) not in {b"", b"{"}:  # Optuna would write behind it
                    raise BadPlan(storage, "is no journal of a study; name a new file, or a database by its URL")
            lock = JournalFileOpenLock(str(path))  # by O_EXCL, which works on NFS too
            _cut_torn_line(path, lock)
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        except OSError as error:
            raise BadPlan(storage, f"cannot be opened: {error.strerror or error}") from None
        except (ValueError, LookupError, TypeError, AssertionError):  # no JSON, or none of Optuna's
            raise BadPlan(storage, _DAMAGED) from None
    for is_last in (False, False, False, True):
        try:
            return RDBStorage(storage)
        except Exception as error:  # noqa: BLE001 - each database's driver raises its own
            # of processes that find an empty database at the same moment one makes each table; the others look again
            if isinstance(error, IntegrityError | ProgrammingError) and not is_last:
                time.sleep(random.uniform(0.1, 1))  # noqa: S311 - no secret
                continue
            reason = str(error).splitlines()[0][:200]
            raise BadPlan(_without_password(storage), f"cannot be opened: {reason}") from None
    raise AssertionError("the last try returns or raises")


def _cut_torn_line(path: Path, lock: JournalFileOpenLock) -> None:
    """Take away what a full disk left of a journal's last line: Optuna would write behind it, and read neither."""
    lock.acquire()
    try:
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            os.truncate(path, raw.rfind(b"\n") + 1)
    finally:
        lock.release()


def _without_password(storage: str) -> str:
    scheme, is_url, rest = storage.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if is_url else storage


def _digest_of_table(plan: Plan) -> str:
    """That of the plan's table, which is looked at once, so that a bad one is not said in every trial.

    Raises:
        RowcastError: the table is bad.
    """
    if is_large(plan) and plan.table.path is not None:
        return Source.open(Path(plan.table.path)).sha256
    return recipe.read(plan).sha256


def _digest(plan: Plan, data_sha256: str) -> str:
    """What makes trials comparable: another table is a new study, and so is all of the plan but what is varied."""
    told = plan.model_dump_json(exclude={"published", "about"}) + data_sha256
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _ended(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=_ENDED))


def _fail_stale(study: optuna.Study, stale_s: float) -> None:
    """Fail the trials of processes that died, which else would be taken for running for ever."""
    now = time.time()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        started = trial.datetime_start.timestamp() if trial.datetime_start else now
        if now - trial.user_attrs.get(_BEAT, started) > stale_s:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _best(study: optuna.Study) -> FrozenTrial | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: trial.value if trial.value is not None else float("inf"), default=None)


def _told(study: optuna.Study, trial: FrozenTrial) -> str:
    best = _best(study)
    if trial.state is TrialState.FAIL:
        how = "taken for lost by another process"
    else:
        how = "pruned" if trial.state is TrialState.PRUNED or trial.value is None else f"{trial.value:.4g}"
    return f"trial {trial.number}: {how}" + ("" if best is None else f"; best {best.value:.4g}")
