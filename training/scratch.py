"""A neural network from first principles: multiplication, addition, the chain rule, and nothing else.

The network. A row x of F numbers becomes an answer in layers. Each layer multiplies by its weights W, adds its bias b
and, but for the last, bends the result with an activation f:

    z = h W + b          h is what the layer before answered; for the first layer it is the row itself
    h' = f(z)            relu(z) = max(z, 0), tanh(z), or z itself

Without f, two layers would be one: (x W1) W2 = x (W1 W2). The last z, the scores, becomes predictions p by what the
loss asks for: numbers as they are, probabilities through the sigmoid or the softmax.

The loss L is one number that says how wrong the predictions are on average. Training makes it smaller.

The chain rule. How much L changes with the scores is d = dL/dz, which each loss below knows in one line. From there one
walks back through the layers, and at each

    dL/dW = h^T d        a weight is blamed by how strongly its input spoke
    dL/db = sum of d over the rows
    dL/dh = d W^T        the blame that the layer hands to the one before, which passes it through its f:
    d'    = dL/dh * f'(z)

The step. Every weight moves against its gradient: W <- W - learning_rate * dL/dW. Do that for every minibatch (one
epoch), and epoch after epoch: this is stochastic gradient descent, and all there is.

Tensors are used for their arithmetic alone: no autograd, no modules, no optimizers. The tests hold the trainer of this
project, which uses all of them, against this file.

Shape:
    N rows, F features, K outputs. x: [N, F]. y: [N, K], one-hot rows for `cross_entropy`. W: [inputs, outputs].
    b: [outputs].
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """The coefficients of one layer, or their gradients."""

    weights: Tensor  # [inputs, outputs]
    bias: Tensor  # [outputs]


Coeffs = list[Layer]


class Activation(NamedTuple):
    """f, and its slope f' as a function of the value h = f(z) that it answered."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


class Loss(NamedTuple):
    """From scores to predictions, from predictions to the loss, and the loss's slope along the scores."""

    preds: Callable[[Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]  # (p, y) -> L
    slope: Callable[[Tensor, Tensor], Tensor]  # (p, y) -> dL/dz [N, K]


relu = Activation(lambda z: z.clamp(min=0), lambda h: (h > 0).to(h.dtype))  # the slope at 0 is taken as 0
tanh = Activation(torch.tanh, lambda h: 1 - h**2)
identity = Activation(lambda z: z, torch.ones_like)


def _as_they_are(scores: Tensor) -> Tensor:
    return scores


def _sigmoid(scores: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-scores))


def _softmax(scores: Tensor) -> Tensor:
    exp = torch.exp(scores - scores.max(dim=1, keepdim=True).values)  # less the largest, so that none overflows
    return exp / exp.sum(dim=1, keepdim=True)


def _mean_absolute(p: Tensor, y: Tensor) -> Tensor:
    return (p - y).abs().mean()


# The mean goes over rows and outputs alike, hence numel; cross-entropy has one term per row, hence len.
mse = Loss(_as_they_are, lambda p, y: ((p - y) ** 2).mean(), lambda p, y: 2 * (p - y) / p.numel())
l1 = Loss(_as_they_are, _mean_absolute, lambda p, y: (p - y).sign() / p.numel())
probability_l1 = Loss(_sigmoid, _mean_absolute, lambda p, y: (p - y).sign() * p * (1 - p) / p.numel())
cross_entropy = Loss(
    _softmax,
    lambda p, y: -torch.xlogy(y, p).sum(dim=1).mean(),  # y log p, and 0 where y is 0
    lambda p, y: (p - y) / len(p),  # the slopes of logarithm and softmax cancel to this
)


def train_model(
    coeffs: Coeffs,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    activation: Activation = relu,
    *,
    learning_rate: float,
    epochs: int,
    batch: int = 0,
) -> tuple[Coeffs, list[float]]:
    """The coefficients after some epochs, and the loss on all rows after each; those passed in stay as they are.

    Args:
        coeffs: where to begin, from `init_coeffs`.
        x: [N, F].
        y: [N, K].
        loss: what to make small.
        activation: of every layer but the last.
        learning_rate: how far a step goes along the gradient.
        epochs: how often every row is visited.
        batch: rows per step, in the order they come; 0 is all rows at once.
    """
    losses = []
    for _ in range(epochs):
        coeffs = execute_epoch(coeffs, x, y, loss, activation, learning_rate=learning_rate, batch=batch)
        losses.append(calc_loss(coeffs, x, y, loss, activation))
    return coeffs, losses


def execute_epoch(
    coeffs: Coeffs,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    activation: Activation = relu,
    *,
    learning_rate: float,
    batch: int = 0,
) -> Coeffs:
    """The coefficients after one step per minibatch."""
    size = batch or len(x)
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        gradients = calc_gradients(coeffs, x[rows], y[rows], loss, activation)
        coeffs = update_coeffs(coeffs, gradients, learning_rate)
    return coeffs


def calc_loss(coeffs: Coeffs, x: Tensor, y: Tensor, loss: Loss, activation: Activation = relu) -> float:
    """How wrong the predictions are, averaged over the rows."""
    return float(loss.value(calc_preds(coeffs, x, loss, activation), y))


def calc_preds(coeffs: Coeffs, x: Tensor, loss: Loss, activation: Activation = relu) -> Tensor:
    """The predictions [N, K]: numbers or probabilities, as the loss has them."""
    return loss.preds(_scores(coeffs, calc_hidden(coeffs, x, activation)))


def update_coeffs(coeffs: Coeffs, gradients: Coeffs, learning_rate: float) -> Coeffs:
    """One step downhill."""
    return [
        Layer(layer.weights - learning_rate * slope.weights, layer.bias - learning_rate * slope.bias)
        for layer, slope in zip(coeffs, gradients, strict=True)
    ]


def init_coeffs(widths: Sequence[int], seed: int = 0) -> Coeffs:
    """Fresh coefficients in float64: weights from N(0, 1) / sqrt(inputs), so that sums stay of size 1; biases zero.

    Args:
        widths: of all layers, inputs first: (3, 10, 10, 1) is three features, two hidden layers, one output.
        seed: one seed, one network.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        Layer(
            torch.randn(inputs, outputs, generator=generator, dtype=torch.float64) / inputs**0.5,
            torch.zeros(outputs, dtype=torch.float64),
        )
        for inputs, outputs in pairwise(widths)
    ]


def model_accuracy(coeffs: Coeffs, x: Tensor, y: Tensor, loss: Loss, activation: Activation = relu) -> float:
    """The share of rows whose class is right: the likelier of two at 0.5, the likeliest of several."""
    preds = calc_preds(coeffs, x, loss, activation)
    if preds.shape[1] == 1:
        return float(((preds > 0.5) == (y > 0.5)).double().mean())
    return float((preds.argmax(dim=1) == y.argmax(dim=1)).double().mean())


def calc_hidden(coeffs: Coeffs, x: Tensor, activation: Activation = relu) -> list[Tensor]:
    """What every layer is given: the rows, then the hidden values of each layer in turn. The way forward."""
    hidden = [x]
    for layer in coeffs[:-1]:
        hidden.append(activation.value(hidden[-1] @ layer.weights + layer.bias))
    return hidden


def _scores(coeffs: Coeffs, hidden: list[Tensor]) -> Tensor:
    last = coeffs[-1]
    return hidden[-1] @ last.weights + last.bias


def calc_gradients(coeffs: Coeffs, x: Tensor, y: Tensor, loss: Loss, activation: Activation = relu) -> Coeffs:
    """How the loss changes with every coefficient, layer by layer as the coefficients are. The way back."""
    hidden = calc_hidden(coeffs, x, activation)
    d = loss.slope(loss.preds(_scores(coeffs, hidden)), y)  # [N, K]
    gradients = []
    for layer, h in zip(reversed(coeffs), reversed(hidden), strict=True):
        gradients.append(Layer(h.T @ d, d.sum(dim=0)))
        d = (d @ layer.weights.T) * activation.slope(h)  # at the rows themselves nobody asks for it any more
    return gradients[::-1]
