"""Many fits: in one process or in several the same weights, and nobody is left behind, however it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.server.groups import control_group
from training.children import LostProcess
from training.fitting.checkpoint import FOLDER, Checkpoint
from training.fitting.course import Diverged, Epoch, useful_share
from training.fitting.fit import Job, Member
from training.fitting.loops import Loop
from training.fitting.losses import objective_of
from training.fitting.many import WORTH_A_MOVE_S, WORTH_S, fit_all
from training.fitting.processes import Workers, beside, cores, elsewhere, most_processes
from training.later import imports
from training.network.net import make_member
from training.plan import FitPlan, NetPlan, Plan
from training.publishing.publish import digest_weights

ROOT = Path(__file__).parents[2]
MSE = objective_of("mse")
LONG = FitPlan(epochs=120, batch=5, patience=0)
COSLOG = FitPlan(epochs=15, batch=5, schedule="coslog4", learning_rate=0.01)
pytestmark = pytest.mark.skipif(
    os.name != "posix" or len(os.sched_getaffinity(0)) < 2, reason="this machine has one core for us"
)


_others: set[int] = set()
"""Children of this process that tests before have left, as libraries have theirs."""


@pytest.fixture(autouse=True)
def _two_processes() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("a GPU's context is in this process, and beside one nothing is forked")
    _others.clear()
    _others.update(children())
    torch.set_num_threads(2)


def perceptron(hidden: tuple[int, ...] = (16, 16)) -> Callable[[], nn.Sequential]:
    return lambda: make_member(NetPlan(hidden=hidden, activation="tanh", dropout=0.1), 2, [], 1)


def line(rows: int = 300) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return x, x.sum(1, keepdim=True)


def jobs_of(plan: FitPlan, count: int) -> list[Job]:
    """Each learns at half the rate of the one before; three are worth a process."""
    rates = [0.01 / 2**k for k in range(count)]
    plans = [plan.model_copy(update={"learning_rate": rate}) for rate in rates]
    return [Job.of(own, perceptron(), line(), line(50), k, key=str(k)) for k, own in enumerate(plans)]


def test_three_fits_are_worth_a_process():
    loops = [Loop(jobs_of(COSLOG, 3), [number], MSE, lambda *_: None, None) for number in range(3)]
    assert sum(loop.seconds for loop in loops) > WORTH_S


def children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [child for word in path.read_text().split() if (child := int(word)) not in _others]


def fitted_by(threads: int, **options: object) -> tuple[list[str], list[int], set[tuple[int, int, float]]]:
    """The weights, how many epochs each fit had, and what was reported."""
    torch.set_num_threads(threads)
    seen: list[tuple[int, int, float]] = []

    def report(number: int, epoch: Epoch) -> None:
        seen.append((number, epoch.number, epoch.validation_loss))

    members = fit_members(jobs_of(COSLOG, 5), report, **options)
    assert len(set(seen)) == len(seen)
    for number, member in enumerate(members):  # of one fit, in their order
        assert [epoch for own, epoch, _ in seen if own == number] == [epoch.number for epoch in member.history]
    return [digest_weights(member.net) for member in members], [len(one.history) for one in members], set(seen)


def fit_members(jobs: list[Job], report: Callable[[int, Epoch], object] = lambda *_: None, **options) -> list[Member]:
    members = fit_all(jobs, MSE, report=report, **options)
    return [member for member in members if isinstance(member, Member)]


def test_processes_fit_the_weights_that_one_process_fits():
    assert fitted_by(2) == fitted_by(1)


def test_the_odd_one_of_long_fits_is_begun_first_and_ended_by_whoever_is_idle():
    loops = [Loop(jobs_of(LONG, 3), [number], MSE, lambda *_: None, None) for number in range(3)]
    assert all(loop.seconds > WORTH_A_MOVE_S for loop in loops)
    done = [0, 0, 0]

    def report(number: int, epoch: Epoch) -> None:
        assert number != 1 or done[2] >= 60 or done[0] == 120
        done[number] = epoch.number

    in_two = [digest_weights(one.net) for one in fit_members(jobs_of(LONG, 3), report)]
    assert done == [120] * 3
    torch.set_num_threads(1)
    assert in_two == [digest_weights(one.net) for one in fit_members(jobs_of(LONG, 3))]


def test_an_odd_one_that_diverges_in_its_first_half_is_not_begun_again():
    bad = Job.of(LONG.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30}), perceptron(()), line(), line(), 0)
    seen: list[int] = []
    results = fit_all([*jobs_of(LONG, 2), bad], MSE, report=lambda number, _: seen.append(number))
    assert [type(result) for result in results] == [Member, Member, Diverged]
    assert seen.count(2) == 1


def test_rivals_are_compared_and_ended_as_in_one_process():
    options = {"rivals": list("abcde"), "rungs": {3 / 15: 3.0, 7 / 15: 1.3}}
    in_two = fitted_by(2, **options)
    assert in_two == fitted_by(1, **options)
    assert len(set(in_two[1])) == 3  # some ended at each rung, and some went on


RIVALS = {"rivals": list("abc"), "rungs": {3 / 15: 1.2, 7 / 15: 1.1}}
"""Of three the first learns fastest, and is alone before its last wave."""


def three_rivals() -> list[Job]:
    rates = (0.01, 1e-5, 1e-6)
    plans = [COSLOG.model_copy(update={"learning_rate": rate}) for rate in rates]
    return [Job.of(own, perceptron(), line(), line(50), k, key=str(k)) for k, own in enumerate(plans)]


def three_others(number: int) -> list[Job]:
    """They would learn until the last epoch."""
    assert number == 0
    return [Job.of(COSLOG, perceptron(), line(), line(50), k, key=f"other {k}") for k in (7, 8, 9)]


def test_others_follow_one_that_is_alone_for_as_long_as_it_was_worth_it():
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        members = fit_members(three_rivals(), others=three_others, **RIVALS)
        lengths = [len(member.history) for member in members]
        assert lengths[1] < 15
        assert lengths[2] < 15
        assert lengths[3:] == [round(15 * useful_share(COSLOG, members[0].history))] * 3
        found.append([digest_weights(member.net) for member in members])
    assert found[0] == found[1]


def test_nobody_follows_one_of_two():
    options = {"rivals": list("abc"), "rungs": {3 / 15: 1000.0}}
    assert len(fit_members(three_rivals(), others=three_others, **options)) == 3


def test_nobody_follows_one_that_diverges():
    bad = Job.of(FitPlan(optimizer="sgd", learning_rate=1e30, epochs=2), perceptron(()), line(), line(50), 0)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        (result,) = fit_all([bad], MSE, report=lambda *_: None, rivals="a", others=three_others)
        assert isinstance(result, Diverged)


def test_those_that_follow_go_on_from_their_checkpoints(tmp_path: Path):
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test")
    checkpoint = Checkpoint(tmp_path / FOLDER, every_s=0)
    checkpoint.open(plan, "0" * 64, "cpu")

    def stop(number: int, epoch: Epoch) -> None:
        if number >= 3 and epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_members(three_rivals(), stop, others=three_others, checkpoint=checkpoint, **RIVALS)
    assert any("other" in path.name for path in (tmp_path / FOLDER).glob("*/*.pt"))
    seen: list[int] = []
    options = {"others": three_others, **RIVALS}
    resumed = fit_members(three_rivals(), lambda n, _: seen.append(n), checkpoint=checkpoint, **options)
    whole = fit_members(three_rivals(), **options)
    assert len(seen) < sum(len(member.history) for member in whole)
    assert [digest_weights(one.net) for one in resumed] == [digest_weights(one.net) for one in whole]


def test_a_loop_goes_on_from_where_another_stands():
    def loop() -> Loop:
        return Loop(jobs_of(COSLOG, 1), [0], MSE, lambda *_: None, None)

    whole, first, second, third = (loop() for _ in range(4))
    whole.advance(1.0)
    first.advance(3 / 15)
    second.go_on_from(first.standing())
    assert second.loss == first.loss
    second.advance(7 / 15)
    third.go_on_from(second.standing())
    third.advance(1.0)
    third_again = loop()
    third_again.go_on_from(third.standing())
    for other in (third, third_again):
        assert digest_weights(other.results[0].net) == digest_weights(whole.results[0].net)
        losses = [[epoch.validation_loss for epoch in one.results[0].history] for one in (other, whole)]
        assert losses[0] == losses[1]


def test_threads_that_computed_before_the_fork_are_not_waited_for():
    big = torch.randn(1500, 1500)
    (big @ big).relu_().sum()  # on two threads of this process
    np.linalg.inv(big.numpy())
    assert len(fit_members(jobs_of(COSLOG, 4))) == 4
    assert torch.get_num_threads() == 2


def test_a_fit_that_diverges_in_a_process_does_not_stop_the_others():
    bad = Job.of(FitPlan(optimizer="sgd", learning_rate=1e30, epochs=2), perceptron(()), line(), line(50), 0)
    jobs = [*jobs_of(COSLOG, 3)[:3], bad]
    results = fit_all(jobs, MSE, report=lambda *_: None)
    assert [type(result) for result in results] == [Member, Member, Member, Diverged]
    assert str(results[3]).startswith("the fit diverged: the ")


def test_what_is_to_be_done_meanwhile_is_done_in_part_or_whole_and_ended_with_the_fits():
    has_begun = threading.Event()

    def count():
        for number in range(1_000_000_000):
            yield number
            has_begun.set()

    chores = count()
    fit_members(jobs_of(COSLOG, 3), lambda *_: has_begun.wait(60), meanwhile=chores)
    first = next(chores)
    assert 0 < first < 1_000_000_000
    assert next(chores) == first + 1


def test_a_chore_that_fails_is_raised():
    has_begun = threading.Event()

    def chores():
        has_begun.set()
        raise ImportError("no such module")
        yield

    with pytest.raises(ImportError, match="no such module"), beside(chores()):
        assert has_begun.wait(60)


def test_whoever_is_asked_to_stop_leaves_no_process():
    def report(_: int, epoch: Epoch) -> None:
        assert len(children()) == 2
        if epoch.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_all(jobs_of(COSLOG.model_copy(update={"epochs": 100_000}), 4), MSE, report=report)
    assert children() == []


@pytest.mark.parametrize(
    ("number", "told"), [(signal.SIGKILL, "was killed by SIGKILL, as"), (signal.SIGTERM, "was killed by SIGTERM;")]
)
def test_a_process_that_is_killed_is_one_sentence(number, told):
    def report(_: int, epoch: Epoch) -> None:
        if epoch.number == 3 and len(children()) == 2:
            os.kill(children()[0], number)

    with pytest.raises(LostProcess, match=f"^a process of this run {told}.* OMP_NUM_THREADS=1"):
        fit_all(jobs_of(COSLOG.model_copy(update={"epochs": 100_000}), 4), MSE, report=report)
    assert children() == []


def test_what_a_task_raises_is_raised_here():
    def do(task: str, _: object) -> None:
        raise MemoryError(f"{task} is too large")

    tasks = iter(["this"])
    torch.set_num_threads(1)
    with pytest.raises(MemoryError, match=r"^this is too large$"), Workers(1, do) as workers:
        workers.run(lambda _: next(tasks, None), lambda _: None, lambda _: None)
    assert children() == []


def test_each_process_keeps_checkpoints_and_goes_on_from_them(tmp_path: Path):
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test")
    checkpoint = Checkpoint(tmp_path / FOLDER, every_s=0)
    checkpoint.open(plan, "0" * 64, "cpu")

    far = set()

    def stop(number: int, epoch: Epoch) -> None:
        if epoch.number >= 6:
            far.add(number)
        if len(far) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_members(jobs_of(COSLOG, 4), stop, checkpoint=checkpoint)
    assert len(list((tmp_path / FOLDER).glob("*/*.pt"))) >= 2
    seen: list[int] = []
    resumed = fit_members(jobs_of(COSLOG, 4), lambda _, epoch: seen.append(epoch.number), checkpoint=checkpoint)
    whole = fit_members(jobs_of(COSLOG, 4))
    assert len(seen) < 4 * 15
    assert [digest_weights(one.net) for one in resumed] == [digest_weights(one.net) for one in whole]


def test_a_disk_that_takes_nothing_is_told_by_the_processes(tmp_path: Path):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test")
    checkpoint = Checkpoint(tmp_path / FOLDER, every_s=0)
    checkpoint.open(plan, "0" * 64, "cpu")
    fit_members(jobs_of(COSLOG, 3), checkpoint=checkpoint)
    assert checkpoint.trouble is not None
    assert checkpoint.trouble.startswith("no checkpoint could be kept in ")


def test_one_thread_is_one_process_and_no_more_than_there_are_cores():
    torch.set_num_threads(1)
    assert most_processes() == 1
    torch.set_num_threads(1000)
    assert most_processes() == cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota_us", "expected"), [(90_000, 1), (200_000, 2)])
def test_a_container_that_is_given_a_part_of_the_cores_uses_no_more(quota_us, expected):
    """As with `docker run --cpus 0.9` and Kubernetes' limits, on a machine of more cores."""
    count = "import torch; import training.__main__ as m; print(torch.get_num_threads(), m.cores())"
    named = {name: value for name, value in os.environ.items() if name not in {"OMP_NUM_THREADS", "POLARS_MAX_THREADS"}}
    with control_group("cpu", "cpu.cfs_quota_us", "cpu.max") as group:
        group.most.write_text(str(quota_us) if "quota" in group.most.name else f"{quota_us} 100000")
        words = [*group.before, sys.executable, "-c", count]
        said = subprocess.run(words, cwd=ROOT, env=named, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(expected)] * 2


def test_work_elsewhere_leaves_its_files_by_the_end_of_the_block(tmp_path: Path):
    with elsewhere(lambda: (tmp_path / "made").write_text(str(os.getpid()))):
        assert len(children()) == 1
    assert int((tmp_path / "made").read_text()) != os.getpid()
    assert children() == []


def test_what_work_elsewhere_raises_is_raised_at_the_end_of_the_block(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"), elsewhere((tmp_path / "nowhere").read_text):
        (tmp_path / "block").touch()
    assert (tmp_path / "block").exists()
    with pytest.raises(LostProcess, match="SIGKILL"), elsewhere(lambda: os.kill(os.getpid(), signal.SIGKILL)):
        pass
    assert children() == []


def test_what_is_imported_later_is_there():
    assert all(name in sys.modules for name in imports())


def test_a_small_table_is_fitted_before_anything_else_is_imported(tmp_path: Path):
    """Not a line of it is solved first: to import what solves takes as long as the fits."""
    x = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    np.savetxt(tmp_path / "t.csv", np.c_[x, x.sum(1)], delimiter=",", header="a,b,y", comments="")
    said = subprocess.run(
        [sys.executable, "-c", FITTED_FIRST, str(tmp_path / "t.csv")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["False", "True"]


FITTED_FIRST = """
import sys
from training import recipe
from training.plan import Plan

seen = []
fit = {"epochs": 1, "folds": 2}
plan = Plan.of({"name": "m", "target": ["y"], "table": {"path": sys.argv[1]}, "fit": fit}, "test")
recipe.train(plan, lambda event: isinstance(event, recipe.Step) and seen.append("sklearn" in sys.modules))
print(seen[0], "sklearn" in sys.modules)
"""
