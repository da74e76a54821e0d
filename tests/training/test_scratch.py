"""The network from first principles: by hand, against autograd, and learning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import scratch
from training.scratch import Layer, cross_entropy, identity, l1, mse, probability_l1, relu, tanh

torch_activations = {relu: torch.relu, tanh: torch.tanh, identity: lambda z: z}
torch_losses = {
    mse: torch.nn.functional.mse_loss,
    l1: torch.nn.functional.l1_loss,
    probability_l1: lambda z, y: (torch.sigmoid(z) - y).abs().mean(),
    cross_entropy: torch.nn.functional.cross_entropy,
}


def by_hand():
    """Three features, two hidden neurons, one output; one row."""
    coeffs = [
        Layer(exactly([[0.2, -0.3], [0.4, 0.1], [-0.5, 0.2]]), exactly([-0.4, 0.2])),
        Layer(exactly([[-0.3], [-0.2]]), exactly([0.1])),
    ]
    return coeffs, exactly([[1.0, 0.0, 1.0]]), exactly([[1.0]])


def test_the_example_by_hand_goes_forward_to_0_08():
    coeffs, x, y = by_hand()
    row, hidden = scratch.calc_hidden(coeffs, x)
    preds = scratch.calc_preds(coeffs, x, mse)

    assert row.tolist() == [[1, 0, 1]]
    # 1(0.2) + 0(0.4) + 1(-0.5) - 0.4 = -0.7, which relu makes 0;  1(-0.3) + 0(0.1) + 1(0.2) + 0.2 = 0.1
    assert_close(hidden, [[0.0, 0.1]])
    # 0(-0.3) + 0.1(-0.2) + 0.1
    assert_close(preds, [[0.08]])
    # 0.08 - 1
    assert_close(preds - y, [[-0.92]])
    # (-0.92)^2
    assert scratch.calc_loss(coeffs, x, y, mse) == pytest.approx(0.8464)


def test_the_example_by_hand_goes_back_to_every_gradient():
    coeffs, x, y = by_hand()
    first, last = scratch.calc_gradients(coeffs, x, y, mse)

    # the score: dL/dz = 2(-0.92) = -1.84
    assert_close(last.bias, [-1.84])
    # its weights: times the hidden values 0 and 0.1
    assert_close(last.weights, [[0.0], [-0.184]])
    # the hidden values: -1.84(-0.3) = 0.552 and -1.84(-0.2) = 0.368; the first neuron is silent, so it takes no blame
    assert_close(first.bias, [0.0, 0.368])
    # its weights: times the features 1, 0, 1
    assert_close(first.weights, [[0.0, 0.368], [0.0, 0.0], [0.0, 0.368]])


def test_the_example_by_hand_takes_one_step():
    coeffs, x, y = by_hand()
    after = scratch.execute_epoch(coeffs, x, y, mse, learning_rate=0.001)

    # each coefficient less 0.001 of its gradient
    assert_close(after[0].weights, [[0.2, -0.300368], [0.4, 0.1], [-0.5, 0.199632]])
    assert_close(after[0].bias, [-0.4, 0.199632])
    assert_close(after[1].weights, [[-0.3], [-0.199816]])
    assert_close(after[1].bias, [0.10184])
    # hidden 0.199632 - 0.300368 + 0.199632 = 0.098896, so 0.098896(-0.199816) + 0.10184
    assert_close(scratch.calc_preds(after, x, mse), [[0.0820789969]], within=1e-10)
    assert scratch.calc_loss(after, x, y, mse) < scratch.calc_loss(coeffs, x, y, mse)


def exactly(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def assert_close(got, right, within=1e-14):
    torch.testing.assert_close(got, exactly(right), rtol=0, atol=within)


@st.composite
def problems(draw):
    """A network of any depth, rows, and targets that suit the loss."""
    seed = draw(st.integers(0, 2**31))
    loss = draw(st.sampled_from(list(torch_losses)))
    rows, features = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    outputs = draw(st.integers(2 if loss is cross_entropy else 1, 4))
    hidden = draw(st.lists(st.integers(1, 6), max_size=4))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=generator, dtype=torch.float64)
    y = torch.randn(rows, outputs, generator=generator, dtype=torch.float64)
    if loss is cross_entropy:
        y = torch.nn.functional.one_hot(y.argmax(dim=1), outputs).double()
    if loss is probability_l1:
        y = (y > 0).double()
    coeffs = scratch.init_coeffs([features, *hidden, outputs], seed)
    coeffs = [Layer(w, torch.randn(b.shape, generator=generator, dtype=torch.float64)) for w, b in coeffs]
    return coeffs, x, y, loss, draw(st.sampled_from(list(torch_activations)))


@settings(max_examples=300)
@given(problems())
def test_the_chain_rule_by_hand_is_what_autograd_finds(problem):
    coeffs, x, y, loss, activation = problem
    variables = [Layer(*(tensor.clone().requires_grad_() for tensor in layer)) for layer in coeffs]
    h = x
    for weights, bias in variables[:-1]:
        h = torch_activations[activation](h @ weights + bias)
    right = torch_losses[loss](h @ variables[-1].weights + variables[-1].bias, y)
    right.backward()

    assert scratch.calc_loss(coeffs, x, y, loss, activation) == pytest.approx(float(right.detach()), abs=1e-9)
    for got, layer in zip(scratch.calc_gradients(coeffs, x, y, loss, activation), variables, strict=True):
        torch.testing.assert_close(got.weights, layer.weights.grad, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got.bias, layer.bias.grad, rtol=1e-6, atol=1e-6)


@given(problems(), st.integers(1, 8))
@settings(max_examples=50)
def test_an_epoch_is_one_step_per_minibatch(problem, batch):
    coeffs, x, y, loss, activation = problem
    after = scratch.execute_epoch(coeffs, x, y, loss, activation, learning_rate=0.1, batch=batch)
    for rows in torch.arange(len(x)).split(batch):
        slopes = scratch.calc_gradients(coeffs, x[rows], y[rows], loss, activation)
        coeffs = scratch.update_coeffs(coeffs, slopes, 0.1)
    for got, right in zip(after, coeffs, strict=True):
        torch.testing.assert_close(got, right)


def test_training_leaves_the_coefficients_it_began_with():
    coeffs, x, y = by_hand()
    scratch.train_model(coeffs, x, y, mse, learning_rate=0.1, epochs=3)
    assert_close(coeffs[1].weights, [[-0.3], [-0.2]])


def test_one_seed_is_one_network():
    for one, other in zip(scratch.init_coeffs([3, 4, 1], 7), scratch.init_coeffs([3, 4, 1], 7), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_learns_exclusive_or_which_no_line_can():
    x, y = exactly([[0, 0], [0, 1], [1, 0], [1, 1]]), exactly([[0], [1], [1], [0]])
    coeffs = scratch.init_coeffs([2, 8, 8, 1], seed=0)
    coeffs, losses = scratch.train_model(coeffs, x, y, mse, tanh, learning_rate=0.1, epochs=1000)
    assert losses[-1] < 0.05 < losses[0]
    assert scratch.model_accuracy(coeffs, x, y, mse, tanh) == 1.0


def test_it_learns_or_by_the_error_of_its_probabilities():
    x, y = exactly([[0, 0], [0, 1], [1, 0], [1, 1]]), exactly([[0], [1], [1], [1]])
    coeffs = scratch.init_coeffs([2, 10, 10, 1], seed=0)
    coeffs, losses = scratch.train_model(coeffs, x, y, probability_l1, learning_rate=2.0, epochs=300)
    assert losses[-1] < 0.05 < losses[0]
    assert scratch.model_accuracy(coeffs, x, y, probability_l1) == 1.0


def test_the_likeliest_of_several_classes_is_the_answer():
    x = exactly([[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 3, 4]])
    y = exactly([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    as_it_is = [Layer(exactly([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), exactly([0, 0, 0]))]
    assert scratch.model_accuracy(as_it_is, x, y, cross_entropy) == 0.75


def test_scores_beyond_what_exp_can_hold_give_a_finite_loss():
    one = [Layer(exactly([[2000, -2000]]), exactly([0, 0]))]
    x, y = exactly([[1]]), exactly([[1, 0]])
    assert scratch.calc_loss(one, x, y, cross_entropy) == 0.0
