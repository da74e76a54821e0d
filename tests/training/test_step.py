"""The chain rule written out is autograd's, and the update is that of torch.optim."""

import math

import pytest
import torch
from torch import Tensor, nn

from training.fitting.losses import objective_of
from training.fitting.step import Stepper, _Bfloat16Linear, _Linear
from training.network.expansions import Steps
from training.network.net import ACTIVATIONS, make_member
from training.plan import FitPlan, NetPlan

ROWS, WIDTH = 24, 5
SIZES = [4, 3]


def rows(outputs: int, loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(low, high, (ROWS,), generator=generator) for low, high in ((0, 4), (4, 7))], 1)
    x = torch.cat([torch.randn(ROWS, WIDTH - 2, generator=generator), codes], 1)
    if loss in {"mse", "l1"}:
        return x, torch.randn(ROWS, outputs, generator=generator)
    return x, torch.randint(0, max(outputs, 2), (ROWS,), generator=generator)


def nets_of(plan: NetPlan, outputs: int, count: int) -> list[nn.Sequential]:
    torch.manual_seed(0)
    return [make_member(plan, WIDTH, SIZES, outputs) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        ("mse", 2),
        ("l1", 2),
        ("cross_entropy", 3),
        ("binary_cross_entropy", 1),
        ("probability_l1", 1),
        ("probability_l1", 3),
    ],
)
def test_every_loss_is_derived_as_autograd_does(loss, outputs, count):
    check_gradients(NetPlan(hidden=(6, 5)), loss, outputs, count)


@pytest.mark.parametrize(("loss", "outputs", "shape"), [("mse", 2, (2, 2, ROWS)), ("cross_entropy", 3, (2, 1, ROWS))])
def test_a_step_says_the_loss_of_each_row(loss, outputs, shape):
    nets = nets_of(NetPlan(hidden=(6, 5)), outputs, 2)
    x, y = rows(outputs, loss)
    with torch.no_grad():
        right = [objective_of(loss)(nets[0](x[n : n + 1]), y[n : n + 1]) for n in range(ROWS)]
    step = Stepper(nets, FitPlan(optimizer="sgd"), objective_of(loss), torch.Generator())
    losses = step(x.expand(2, -1, -1), y.expand(2, *y.shape), 1.0)
    assert losses.shape == shape
    torch.testing.assert_close(losses[0].mean(0), torch.stack(right))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_is_derived_as_autograd_does(activation):
    check_gradients(NetPlan(hidden=(6, 5), activation=activation), "mse", 1, 2)


def test_a_linear_net_is_derived_as_autograd_does():
    check_gradients(NetPlan(hidden=()), "cross_entropy", 3, 2)


def check_gradients(plan: NetPlan, loss: str, outputs: int, count: int) -> None:
    """One plain step of rate 1 moves every weight by autograd's gradient, and reports autograd's loss."""
    nets, twins = nets_of(plan, outputs, count), nets_of(plan, outputs, count)
    x, y = rows(outputs, loss)
    objective = objective_of(loss)
    step = Stepper(nets, FitPlan(optimizer="sgd", learning_rate=1.0), objective, torch.Generator())
    losses = step(x.expand(count, -1, -1), y.expand(count, *y.shape), 1.0).mean((1, 2))
    for k, twin in enumerate(twins):
        right = objective(twin(x), y)
        right.backward()
        assert losses[k].item() == pytest.approx(right.item(), rel=1e-5)
        for (name, moved), weight in zip(nets[k].named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(moved.data, weight.data - weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_smoothed_labels_are_those_of_torch():
    _, y = rows(3, "cross_entropy")
    raw = torch.randn(ROWS, 3, requires_grad=True)
    nn.functional.cross_entropy(raw, y, label_smoothing=0.1).backward()
    _, d = objective_of("cross_entropy").gradients(raw.detach().T[None], y[None], 0.1)
    torch.testing.assert_close(d[0].T, raw.grad)
    logit = torch.randn(ROWS, 1, requires_grad=True)
    both = torch.cat([torch.zeros_like(logit), logit], 1)
    nn.functional.cross_entropy(both, y % 2, label_smoothing=0.1).backward()
    _, d = objective_of("binary_cross_entropy").gradients(logit.detach().T[None], y[None] % 2, 0.1)
    torch.testing.assert_close(d[0].T, logit.grad)


@pytest.mark.parametrize(
    ("plan", "make"),
    [
        (FitPlan(optimizer="sgd", momentum=0.9), lambda own, _: torch.optim.SGD(own, lr=0.01, momentum=0.9)),
        (FitPlan(optimizer="adam"), lambda own, _: torch.optim.Adam(own, lr=0.01)),
        (
            FitPlan(optimizer="adamw", weight_decay=0.1, beta2=0.95),
            lambda own, spared: torch.optim.AdamW(
                [{"params": own, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}],
                lr=0.01,
                betas=(0.9, 0.95),
            ),
        ),
    ],
)
def test_the_update_is_that_of_torch(plan, make):
    (net,), (twin,) = nets_of(NetPlan(hidden=(6,)), 1, 1), nets_of(NetPlan(hidden=(6,)), 1, 1)
    x, y = rows(1, "mse")
    step = Stepper([net], plan, objective_of("mse"), torch.Generator())
    spared = [weight for weight in twin.parameters() if weight.ndim == 1]
    own = [weight for weight in twin.parameters() if weight.ndim > 1]
    optimizer = make(own, spared) if plan.optimizer == "adamw" else make([*own, *spared], [])
    for _ in range(5):
        step(x[None], y[None], 0.01)
        optimizer.zero_grad()
        nn.functional.mse_loss(twin(x), y).backward()
        optimizer.step()
    for got, right in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got.data, right.data, rtol=1e-4, atol=1e-5)


def test_two_that_agree_on_their_gradients_move_as_one_that_has_all_rows():
    (whole,), (half,) = nets_of(NetPlan(hidden=(6,)), 1, 1), nets_of(NetPlan(hidden=(6,)), 1, 1)
    plan, objective = FitPlan(optimizer="sgd"), objective_of("mse")
    x, y = rows(1, "mse")
    others = torch.empty(0)

    def keep(gradient: Tensor) -> None:
        nonlocal others
        others = gradient.clone()

    rest = nets_of(NetPlan(hidden=(6,)), 1, 1)
    Stepper(rest, plan, objective, torch.Generator())(x[None, 1::2], y[None, 1::2], 0.1, keep)
    step = Stepper([half], plan, objective, torch.Generator())
    step(x[None, ::2], y[None, ::2], 0.1, lambda gradient: gradient.add_(others).div_(2))
    Stepper([whole], plan, objective, torch.Generator())(x[None], y[None], 0.1)
    for got, right in zip(half.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(got.data, right.data)


def test_a_step_without_dropout_is_that_of_a_network_that_has_none():
    x, y = rows(1, "mse")
    plan = FitPlan(learning_rate=0.1)
    (dropping,), (plain,) = nets_of(NetPlan(hidden=(6,), dropout=0.5), 1, 1), nets_of(NetPlan(hidden=(6,)), 1, 1)
    steps = [Stepper([net], plan, objective_of("mse"), torch.Generator().manual_seed(0)) for net in (dropping, plain)]
    assert all(step.drops for step in steps)
    steps[0].drops = False
    for step in steps:
        step(x[None], y[None], 0.1)
    assert torch.equal(steps[0].weights, steps[1].weights)
    for step in steps:
        step.drops = True
        step(x[None], y[None], 0.1)
    assert not torch.equal(steps[0].weights, steps[1].weights)


def test_dropout_drops_its_share_makes_up_for_it_and_is_the_same_on_the_way_back():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(400, 400), nn.Dropout(0.25))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(400))
        net[0].bias.zero_()
    step = Stepper([net], FitPlan(optimizer="sgd"), objective_of("mse"), torch.Generator().manual_seed(0))
    x = torch.ones(1, 50, 400)
    step(x, torch.zeros(1, 50, 400), 0.0)
    out = step._layers[1].forward(step._layers[0].forward(x.mT))
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(step._layers[1].backward(torch.ones_like(out)), out)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_way_back_through_a_dropout_is_that_of_autograd_with_the_same_mask(activation):
    plan = NetPlan(hidden=(7, 5), activation=activation, dropout=0.4)
    (net,), (twin,) = nets_of(plan, 1, 1), nets_of(plan, 1, 1)
    x, y = rows(1, "mse")
    step = Stepper([net], FitPlan(optimizer="sgd"), objective_of("mse"), torch.Generator().manual_seed(0))
    step(x[None], y[None], 1.0)
    out = x
    for layer, rule in zip(twin, step._layers, strict=True):
        out = out * rule._mask[0].T if isinstance(layer, nn.Dropout) else layer(out)
    nn.functional.mse_loss(out, y).backward()
    for moved, weight in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(moved.data, weight.data - weight.grad, rtol=1e-4, atol=1e-6)


def test_a_net_that_expands_its_numbers_steps_as_on_expanded_rows():
    x, y = rows(1, "mse")
    expansion = Steps(x, WIDTH - 2, 2, 4)
    torch.manual_seed(0)
    whole = make_member(NetPlan(hidden=(6,)), WIDTH, SIZES, 1, expansion)
    torch.manual_seed(0)
    rest = nn.Sequential(*list(make_member(NetPlan(hidden=(6,)), WIDTH, SIZES, 1, expansion))[1:])
    plan = FitPlan(optimizer="sgd")
    Stepper([whole], plan, objective_of("mse"), torch.Generator())(x[None], y[None], 0.1)
    Stepper([rest], plan, objective_of("mse"), torch.Generator())(expansion(x)[None], y[None], 0.1)
    for got, right in zip(whole.parameters(), rest.parameters(), strict=True):
        torch.testing.assert_close(got.data, right.data)


@pytest.mark.parametrize(("hidden", "sizes"), [((40, 30), []), ((30, 40), []), ((40, 30), SIZES)])
def test_large_layers_in_bfloat16_learn_what_they_learn_in_float32(hidden, sizes):
    x, y = rows(3, "cross_entropy")
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    losses = []
    for bfloat16_from in (math.inf, 0.0):
        torch.manual_seed(0)
        nets = [make_member(NetPlan(hidden=hidden), WIDTH, sizes, 3) for _ in range(2)]
        step = Stepper(nets, FitPlan(), objective_of("cross_entropy"), torch.Generator(), bfloat16_from=bfloat16_from)
        inputs = x.expand(2, -1, -1), y.expand(2, -1)
        losses.append(torch.stack([step(*inputs, 0.01).mean((1, 2)) for _ in range(60)]))
        assert {weight.dtype for net in nets for weight in net.parameters()} == {torch.float32}
    assert not torch.equal(*losses)
    assert losses[1][-1].max() < 0.7 * losses[1][0].min()
    torch.testing.assert_close(*losses, rtol=0.03, atol=0.003)


def test_layers_of_fewer_weights_and_the_last_one_stay_float32():
    (net,) = nets_of(NetPlan(hidden=(8, 40, 50)), 60, 1)
    step = Stepper([net], FitPlan(), objective_of("mse"), torch.Generator(), bfloat16_from=2000)
    kinds = [type(rule) for rule in step._layers if isinstance(rule, _Linear)]
    assert kinds == [_Linear, _Linear, _Bfloat16Linear, _Linear]


@pytest.mark.parametrize("outputs", [30, 50])  # either side of the matrix lies in lines of memory
def test_a_layer_in_bfloat16_answers_and_derives_in_float32_what_its_rounded_numbers_say(outputs):
    torch.manual_seed(0)
    layer = nn.Linear(40, outputs)
    stepper = Stepper(
        [nn.Sequential(nn.Identity(), layer, nn.ReLU(), nn.Linear(outputs, 1))],
        FitPlan(optimizer="sgd"),
        objective_of("mse"),
        torch.Generator(),
        bfloat16_from=0,
    )
    rule = stepper._layers[1]
    x, d = torch.randn(1, 40, ROWS), torch.randn(1, outputs, ROWS)
    rounded = [tensor.bfloat16().float() for tensor in (layer.weight.detach(), x[0], d[0])]
    weight, some_x, some_d = rounded
    z, before = rule.forward(x), rule.backward(d)
    assert z.dtype == before.dtype == torch.float32
    close = {"rtol": 0.01, "atol": 0.02}  # what a product answers is rounded as well
    torch.testing.assert_close(z[0], weight @ some_x + layer.bias.detach()[:, None], **close)
    torch.testing.assert_close(before[0], weight.T @ some_d, **close)
    torch.testing.assert_close(rule._gradient[0], some_d @ some_x.T, rtol=0.01, atol=0.1)
    torch.testing.assert_close(rule._bias_gradient[0], d[0].sum(1))
