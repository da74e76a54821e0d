"""The founding systems through the real trainer: it takes the steps of `scratch.py`, and our recipes learn."""

import numpy as np
import pytest
import torch

from training import recipe, scratch
from training.fitting.fit import fit
from training.fitting.losses import objective_of
from training.network.net import make_member
from training.plan import PLANS, FitPlan, NetPlan, Plan
from training.reproduce import bar_of
from training.scratch import Layer


def of(name, **fit):
    """A plan that ships, with a shorter fit."""
    plan = Plan.read(PLANS / f"{name}.toml")
    return plan.model_copy(update={"fit": plan.fit.model_copy(update=fit)})


@pytest.mark.parametrize("batch", [0, 7])
@pytest.mark.parametrize(
    ("loss", "activation", "hidden", "outputs"),
    [
        ("mse", "relu", (10,), 2),
        ("mse", "identity", (4, 3), 1),
        ("l1", "tanh", (6, 5), 1),
        ("probability_l1", "relu", (10, 10), 1),
        ("cross_entropy", "tanh", (8, 8, 8), 3),
        ("cross_entropy", "relu", (), 2),
    ],
)
def test_the_trainer_takes_the_steps_of_first_principles(loss, activation, hidden, outputs, batch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    y = torch.randn(20, outputs, generator=generator)
    codes = y.argmax(1) if loss == "cross_entropy" else (y[:, 0] > 0).long() if loss == "probability_l1" else y
    plan = FitPlan(
        optimizer="sgd", learning_rate=0.1, epochs=5, batch=batch, shuffle=False, schedule="constant", keep="last"
    )
    net = make_member(NetPlan(hidden=hidden, activation=activation), 3, [], outputs)
    before = coeffs_of(net)

    after = fit(plan, lambda: net, (x, codes), (x, codes), objective_of(loss), report=lambda _: None)

    right, losses = scratch.train_model(
        before,
        x.double(),
        one_hot(codes, outputs) if loss == "cross_entropy" else codes.reshape(20, -1).double(),
        getattr(scratch, loss),
        getattr(scratch, activation),
        learning_rate=0.1,
        epochs=5,
        batch=batch,
    )
    for got, layer in zip(coeffs_of(after.net), right, strict=True):
        torch.testing.assert_close(got.weights, layer.weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.bias, layer.bias, rtol=1e-5, atol=1e-6)
    assert [epoch.validation_loss for epoch in after.history] == pytest.approx(losses, rel=1e-5)


def coeffs_of(net):
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    return [Layer(layer.weight.detach().T.double().clone(), layer.bias.detach().double().clone()) for layer in layers]


def one_hot(codes, outputs):
    return torch.nn.functional.one_hot(codes, outputs).double()


@pytest.mark.parametrize("name", ["square", "moons", "sum", "yields"])
def test_a_founding_system_reaches_its_bar(name):
    fitted = recipe.train(of(name))
    bar = bar_of(name, fitted)
    figure, limit = bar.measure(fitted), bar.limit(fitted)
    assert figure >= limit if bar.higher_is_better else figure <= limit


def test_a_sixth_of_the_members_already_comes_near_the_noise_of_the_wave():
    fitted = recipe.train(of("wave", members=2, averaged=1, epochs=100))
    assert fitted.scores["test"].metrics["mse"] < 1.2
    assert fitted.scores["test"].baselines["linear"]["mse"] > 2.5


def test_a_seventh_of_the_epochs_already_finds_the_rings():
    fitted = recipe.train(of("rings", epochs=20, members=1, averaged=1))
    assert fitted.scores["test"].metrics["accuracy"] > 0.985
    assert fitted.scores["test"].rows == 200_000


def test_no_line_separates_the_moons():
    plan = of("moons")
    line, net = plan.published
    straight, bent = (
        recipe.train(
            plan.model_copy(update={"net": one.net, "fit": one.fit.model_copy(update={"epochs": 30, "batch": 8})})
        )
        for one in (line, net)
    )
    assert straight.scores["test"].metrics["accuracy"] < 0.9
    assert bent.scores["test"].metrics["accuracy"] >= straight.scores["test"].metrics["accuracy"] - 0.01


def test_a_network_without_activation_is_no_better_than_a_line():
    plan = of("square")
    without = next(one for one in plan.published if one.net.activation == "identity")
    assert without.figure == 0.0877
    fitted = recipe.train(
        plan.model_copy(update={"net": without.net, "fit": FitPlan(epochs=20, members=1, linear=False)})
    )
    y = fitted.parts["test"].y
    assert fitted.scores["test"].metrics["mse"] == pytest.approx(float(np.var(y)), rel=0.02)


def test_a_sum_is_right_outside_the_cube_it_was_trained_on():
    fitted = recipe.train(of("sum"))
    answers = fitted.predict(fitted.schema.encode([{"a": 100, "b": -50, "c": 7}]))
    assert answers["prediction"][0, 0] == pytest.approx(57, abs=0.01)


@pytest.mark.parametrize("name", ["survival", "penguins"])
def test_a_table_with_categories_and_holes_is_learned(name):
    fitted = recipe.train(of(name, epochs=20, members=1, averaged=1))
    of_net, of_line = fitted.scores["test"].metrics, fitted.scores["test"].baselines
    assert of_net["accuracy"] > of_line["majority"]["accuracy"] + 0.1
    assert of_net["log_loss"] < of_line["majority"]["log_loss"]


def test_the_bar_of_a_real_table_is_a_linear_model_and_the_chance_of_its_test_rows():
    fitted = recipe.train(of("wine", epochs=20, members=1, averaged=1))
    bar = bar_of("wine", fitted)
    test = fitted.scores["test"]
    linear = test.baselines["linear"]["log_loss"]
    assert bar.measure(fitted) == test.metrics["log_loss"]
    assert linear < bar.limit(fitted) < linear + 0.2
