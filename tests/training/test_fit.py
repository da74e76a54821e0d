import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.fitting.checkpoint import Checkpoint
from training.fitting.course import Course, Diverged, Epoch, useful_share, wave_ends
from training.fitting.device import BFLOAT16_FROM, bfloat16_from
from training.fitting.fit import Job, Member, fit, fit_together
from training.fitting.losses import objective_of
from training.fitting.many import fit_all
from training.network.linear import ask_linear
from training.network.net import make_member
from training.plan import FitPlan, NetPlan, Plan
from training.publishing.publish import digest_weights

XOR = (torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]), torch.tensor([0, 1, 1, 0]))
MSE = objective_of("mse")


def perceptron(hidden: tuple[int, ...] = (16,), outputs: int = 1) -> Callable[[], nn.Sequential]:
    return lambda: make_member(NetPlan(hidden=hidden, activation="tanh"), 2, [], outputs)


def line(rows: int = 200) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return x, x.sum(1, keepdim=True)


def quietly(_: Epoch) -> None: ...


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "probability_l1"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_it_learns_xor(loss, optimizer):
    rate = 0.5 if optimizer == "sgd" else 0.05
    plan = FitPlan(
        optimizer=optimizer, learning_rate=rate, momentum=0.9 if optimizer == "sgd" else 0, epochs=300, batch=0
    )
    net = perceptron(outputs=2 if loss == "cross_entropy" else 1)
    member = fit(plan, net, XOR, XOR, objective_of(loss), report=quietly)
    assert member.validation_loss < 0.05


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_it_learns_a_sum(loss):
    member = fit(
        FitPlan(epochs=60, learning_rate=0.02), perceptron(), line(), line(50), objective_of(loss), report=quietly
    )
    assert member.validation_loss < 0.05


def test_one_seed_gives_one_set_of_weights_and_leaves_torch_as_it_was():
    plan = FitPlan(epochs=3, batch=32, seed=7)
    state = torch.get_rng_state()
    digests = [digest_weights(fit(plan, perceptron(), line(), line(50), MSE, report=quietly).net) for _ in range(2)]
    assert digests[0] == digests[1]
    assert torch.equal(torch.get_rng_state(), state)
    other = fit(plan.model_copy(update={"seed": 8}), perceptron(), line(), line(50), MSE, report=quietly)
    assert digest_weights(other.net) != digests[0]


def test_full_batch_sgd_is_the_textbook_step():
    x, y = line(20)
    plan = FitPlan(optimizer="sgd", learning_rate=0.1, epochs=1, batch=0, schedule="constant", keep="last")
    weight = nn.Linear(2, 1)
    before = weight.weight.detach().clone(), weight.bias.detach().clone()
    fit(plan, lambda: weight, (x, y), (x, y), MSE, report=quietly)
    error = x @ before[0].T + before[1] - y  # [N, 1]
    torch.testing.assert_close(weight.weight.detach(), before[0] - 0.1 * 2 * (error.T @ x) / len(x))
    torch.testing.assert_close(weight.bias.detach(), before[1] - 0.1 * 2 * error.mean(0))


def test_the_training_loss_is_the_mean_over_rows_also_where_the_last_minibatch_is_shorter():
    x, y = line(50)
    y = torch.cat([y, 3 * y], 1)
    net = perceptron(outputs=2)()
    with torch.no_grad():
        right = float(MSE(net(x), y))
    plan = FitPlan(optimizer="sgd", learning_rate=1e-30, epochs=1, batch=32)
    member = fit(plan, lambda: net, (x, y), (x, y), MSE, report=quietly)
    assert member.history[0].train_loss == pytest.approx(right, rel=1e-5)


def test_every_epoch_is_reported_and_kept():
    seen: list[Epoch] = []
    member = fit(FitPlan(epochs=4), perceptron(), line(), line(50), MSE, report=seen.append)
    assert [epoch.number for epoch in seen] == [1, 2, 3, 4]
    assert member.history == tuple(seen)
    assert all(epoch.rows_per_second > 0 for epoch in seen)


def test_the_best_weights_are_kept_and_patience_ends_the_fit():
    train = line()
    opposite = (train[0], -train[1])  # every step makes validation worse
    plan = FitPlan(epochs=50, patience=3, optimizer="sgd", learning_rate=0.05, schedule="constant")
    best = fit(plan, perceptron(()), train, opposite, MSE, report=quietly)
    assert len(best.history) == 4
    assert best.validation_loss == best.history[0].validation_loss
    last = fit(plan.model_copy(update={"keep": "last"}), perceptron(()), train, opposite, MSE, report=quietly)
    assert last.validation_loss == last.history[-1].validation_loss > best.validation_loss


def test_a_loss_that_is_no_number_is_one_sentence():
    plan = FitPlan(optimizer="sgd", learning_rate=1e30, epochs=5)
    with pytest.raises(Diverged, match=r"^the fit diverged: the .* loss is (nan|inf) in epoch \d; lower fit\."):
        fit(plan, perceptron(()), line(), line(50), MSE, report=quietly)


def test_many_fits_are_the_fits_alone():
    plan = FitPlan(epochs=3, batch=32)
    jobs = [Job.of(plan, perceptron(), line(), line(50), seed) for seed in (0, 1, 2)]
    members = fit_all(jobs, MSE, report=lambda *_: None)
    alone = [fit(plan, perceptron(), line(), line(50), MSE, report=quietly, seed=seed) for seed in (0, 1, 2)]
    digests = [digest_weights(member.net) for member in members if isinstance(member, Member)]
    assert digests == [digest_weights(member.net) for member in alone]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_networks_in_one_loop_learn_what_each_learns_alone(optimizer):
    plan = FitPlan(epochs=3, batch=32, optimizer=optimizer, learning_rate=0.01)
    reported: list[tuple[int, int]] = []
    jobs = [Job.of(plan, perceptron(), line(), line(50), seed) for seed in (0, 1, 2)]
    members = fit_together(jobs, MSE, report=lambda k, epoch: reported.append((k, epoch.number)))
    assert reported == [(k, number) for number in (1, 2, 3) for k in range(3)]
    for seed, member in enumerate(members):
        alone = fit(plan, perceptron(), line(), line(50), MSE, report=quietly, seed=seed)
        for got, right in zip(member.net.parameters(), alone.net.parameters(), strict=True):
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-6)


def test_one_fit_that_diverges_does_not_stop_the_others():
    good, bad = FitPlan(epochs=2), FitPlan(optimizer="sgd", learning_rate=1e30, epochs=2)
    jobs = [Job.of(plan, perceptron(()), line(), line(50), 0) for plan in (good, bad)]
    kinds = [type(result) for result in fit_all(jobs, MSE, report=lambda *_: None)]
    assert kinds == [Member, Diverged]


def test_what_is_far_behind_ends_and_the_others_go_on_as_if_alone():
    plan = FitPlan(epochs=15, batch=32, schedule="coslog4", learning_rate=0.01)
    slower = plan.model_copy(update={"learning_rate": 1e-5})
    jobs = [Job.of(own, perceptron(), line(), line(50), 0, key=str(k)) for k, own in enumerate((plan, slower))]
    quick, slow = fit_all(jobs, MSE, report=lambda *_: None, rivals=["quick", "slow"], rungs={3 / 15: 1.1, 7 / 15: 1.1})
    assert isinstance(quick, Member)
    assert isinstance(slow, Member)
    assert (len(quick.history), len(slow.history)) == (15, 3)
    assert digest_weights(quick.net) == digest_weights(
        fit(plan, perceptron(), line(), line(50), MSE, report=quietly).net
    )


def test_networks_of_one_rival_stand_and_fall_together():
    plan = FitPlan(epochs=15, batch=32, schedule="coslog4", learning_rate=0.01)
    slower = plan.model_copy(update={"learning_rate": 1e-5})
    jobs = [Job.of(own, perceptron(), line(), line(50), 0, key=str(k)) for k, own in enumerate((plan, slower))]
    members = fit_all(jobs, MSE, report=lambda *_: None, rivals=["one", "one"], rungs={3 / 15: 1.1})
    assert [len(member.history) for member in members if isinstance(member, Member)] == [15, 15]


@pytest.mark.parametrize(("rate", "epochs"), [(0.01, 31), (1e-5, 15)])
def test_the_last_wave_is_for_fits_to_which_the_one_before_brought_something(rate, epochs):
    plan = FitPlan(epochs=31, batch=32, schedule="coslog5", learning_rate=rate)
    assert wave_ends(plan) == (1, 3, 7, 15, 31)
    assert len(fit(plan, perceptron(), line(), line(50), MSE, report=quietly).history) == epochs
    patient = plan.model_copy(update={"patience": 0})
    assert len(fit(patient, perceptron(), line(), line(50), MSE, report=quietly).history) == 31


@pytest.mark.parametrize(
    ("schedule", "ends", "loss", "drops"),
    [
        ("coslog5", True, 0.7, False),
        ("coslog4", True, 0.7, False),
        ("coslog5", True, 0.9, True),
        ("coslog5", False, 0.7, True),
        ("cosine", True, 0.7, True),
    ],
)
def test_the_last_wave_has_no_dropout_after_a_steep_one_where_it_ends(schedule, ends, loss, drops):
    plan = FitPlan(epochs=31, schedule=schedule, dropout_ends=ends)
    before, steep = wave_ends(plan)[-3:-1] if schedule != "cosine" else (7, 15)
    course, seen = Course(plan), []
    for number in range(1, 32):
        seen.append(course.drops)
        course.take(Epoch(number, 1.0, 1.0 if number <= before else loss, 1.0), torch.zeros(1))
    assert seen == [True] * steep + [drops] * (31 - steep)


@pytest.mark.parametrize(("fourth", "fifth", "epochs"), [(0.02, 0.06, 63), (0.02, 0.04, 31), (0.005, 0.06, 15)])
def test_each_of_the_last_two_waves_is_to_be_earned_by_the_one_before(fourth, fifth, epochs):
    plan = FitPlan(epochs=63, schedule="coslog6", patience=100)
    assert wave_ends(plan) == (1, 3, 7, 15, 31, 63)
    course = Course(plan)
    for number in range(1, 64):
        if course.is_over:
            break
        loss = 1.0 - 0.1 * sum(number >= end for end in (3, 7))
        loss *= (1 - fourth if number >= 15 else 1.0) * (1 - fifth if number >= 31 else 1.0)
        course.take(Epoch(number, 1.0, loss, 1.0), torch.zeros(1))
    assert len(course.history) == epochs


@pytest.mark.parametrize(("steep_at", "ends_at"), [(15, 15), (31, 31), (7, 63)])
def test_dropout_ends_with_the_first_steep_wave_behind_which_there_is_one_to_be_earned(steep_at, ends_at):
    course, seen = Course(FitPlan(epochs=63, schedule="coslog6", dropout_ends=True)), []
    for number in range(1, 64):
        seen.append(course.drops)
        course.take(Epoch(number, 1.0, 0.7 if number >= steep_at else 1.0, 1.0), torch.zeros(1))
    assert seen == [True] * ends_at + [False] * (63 - ends_at)


def test_a_wave_that_brings_nothing_ends_the_fit_and_was_not_worth_it():
    train = line()
    opposite = (train[0], -train[1])  # every step makes validation worse
    plan = FitPlan(epochs=30, schedule="coslog4", optimizer="sgd", learning_rate=0.05)
    member = fit(plan, perceptron(()), train, opposite, MSE, report=quietly)
    assert wave_ends(plan) == (2, 6, 14, 30)
    assert len(member.history) == 6
    assert useful_share(plan, member.history) == 1 / 15
    whole = fit(plan, perceptron(()), train, line(50), MSE, report=quietly)
    assert useful_share(plan, whole.history) == 1.0
    assert (
        len(fit(plan.model_copy(update={"patience": 0}), perceptron(()), train, opposite, MSE, report=quietly).history)
        == 30
    )


def test_a_linear_model_is_found_at_once():
    x, y = line()
    net = ask_linear(x.numpy(), y.numpy(), [], "regression", outputs=1, strength=1e-6)()
    torch.testing.assert_close(net(x), y, atol=1e-4, rtol=0)


def test_a_linear_model_has_a_weight_for_each_category():
    x = torch.tensor([[0.0, 0], [0, 1], [0, 2], [0, 3]]).repeat(50, 1)  # one number, one embedded feature
    y = torch.tensor([1.0, 5, -2, 0]).repeat(50)[:, None]
    net = ask_linear(x.numpy(), y.numpy(), [4], "regression", outputs=1, strength=1e-6)()
    torch.testing.assert_close(net(x), y, atol=1e-3, rtol=0)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_binary_linear_model_has_as_many_logits_as_its_net(outputs):
    x, y = line()
    net = ask_linear(x.numpy(), (y[:, 0] > 0).long().numpy(), [], "binary", outputs=outputs)()
    assert net(x).shape == (200, outputs)
    assert ((net(x)[:, -1:] > 0) == (y > 0)).float().mean() > 0.97


def test_a_linear_model_of_as_many_classes_as_rows_allow_is_solved_for_without_a_word():
    x, _ = line(40)
    codes = np.arange(40) % 24
    assert ask_linear(x.numpy(), codes, [], "multiclass", outputs=24)()(x).shape == (40, 24)  # warnings are errors


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "folds", "members"),
    [
        (30, 32, 64, 5, 1),
        (2_000, 64, 64, 5, 1),
        (2_001, 64, 48, 3, 1),
        (20_000, 256, 22, 4, 1),
        (100_000, 256, 10, 4, 1),
        (600_000, 2048, 8, 1, 1),
        (10**8, 4096, 1, 1, 1),
    ],
)
def test_the_number_of_rows_decides_what_the_plan_leaves_open(rows, batch, epochs, folds, members):
    plan = FitPlan().for_rows(rows)
    assert (plan.batch, plan.epochs, plan.folds, plan.members, plan.averaged) == (
        batch,
        epochs,
        folds,
        members,
        members,
    )
    assert FitPlan(folds=1).for_rows(1_000).members == 8
    said = FitPlan(batch=0, epochs=7, folds=1, members=2, averaged=1)
    assert said.for_rows(rows) == said


@pytest.mark.parametrize(("optimizer", "hidden"), [("sgd", (8, 8)), ("adamw", (8, 8)), ("adamw", (8, 400, 400))])
def test_a_fit_that_is_resumed_ends_with_the_same_weights(tmp_path, optimizer, hidden):
    plan = FitPlan(epochs=6, batch=32, learning_rate=0.01, optimizer=optimizer)
    make = lambda: make_member(NetPlan(hidden=hidden, dropout=0.2), 2, [], 1)  # noqa: E731
    whole = fit(plan, make, line(), line(50), MSE, report=quietly)

    checkpoint = Checkpoint(tmp_path, every_s=0)
    checkpoint.open(Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test"), "0" * 64, "cpu")

    def stop(epoch: Epoch) -> None:
        if epoch.number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(plan, make, line(), line(50), MSE, report=stop, checkpoint=checkpoint)
    seen: list[int] = []
    resumed = fit(plan, make, line(), line(50), MSE, report=lambda e: seen.append(e.number), checkpoint=checkpoint)
    assert seen == [4, 5, 6]
    assert digest_weights(resumed.net) == digest_weights(whole.net)
    assert [epoch.validation_loss for epoch in resumed.history] == [epoch.validation_loss for epoch in whole.history]


def test_a_fit_whose_dropout_has_ended_is_resumed_without_it(tmp_path):
    plan = FitPlan(epochs=31, batch=32, learning_rate=0.01, schedule="coslog5", dropout_ends=True)
    make = lambda: make_member(NetPlan(hidden=(8, 8), dropout=0.2), 2, [], 1)  # noqa: E731
    whole = fit(plan, make, line(), line(50), MSE, report=quietly)
    losses = [epoch.validation_loss for epoch in whole.history]
    assert min(losses[:15]) < 0.8 * min(losses[:7])  # steep, so that nothing is dropped from the 16th epoch on
    dropping = fit(plan.model_copy(update={"dropout_ends": False}), make, line(), line(50), MSE, report=quietly)
    same = [a.train_loss == b.train_loss for a, b in zip(whole.history, dropping.history, strict=False)]
    assert same[:16] == [True] * 15 + [False]

    checkpoint = Checkpoint(tmp_path, every_s=0)
    checkpoint.open(Plan.of({"name": "m", "target": ["y"], "table": {"path": "t"}}, "test"), "0" * 64, "cpu")

    def stop(epoch: Epoch) -> None:
        if epoch.number == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(plan, make, line(), line(50), MSE, report=stop, checkpoint=checkpoint)
    resumed = fit(plan, make, line(), line(50), MSE, report=quietly, checkpoint=checkpoint)
    assert digest_weights(resumed.net) == digest_weights(whole.net)


def test_bfloat16_is_for_processors_that_have_instructions_for_it():
    has_instructions = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    assert bfloat16_from(torch.device("cpu"), 250) == (BFLOAT16_FROM / 250 if has_instructions else math.inf)
    assert bfloat16_from(torch.device("cuda"), 250) == math.inf


def test_when_one_fit_fails_the_others_end_with_their_epoch():
    torch.set_num_threads(2)  # two fits at a time
    epochs: list[int] = []

    def report(number: int, _: Epoch) -> None:
        epochs.append(number)
        if len(epochs) == 6:
            raise KeyboardInterrupt

    jobs = [Job.of(FitPlan(epochs=2000, patience=0), perceptron(), line(), line(50), seed) for seed in range(8)]
    with pytest.raises(KeyboardInterrupt):
        fit_all(jobs, MSE, report=report)
    assert len(epochs) < 2000
