"""The network: learned preprocessing in front, members in the middle, the task's outputs behind.

A member is what `fit` trains: it reads the preprocessed matrix and answers raw outputs, which are logits or
standardised targets. `Net` is what is published: it reads the matrix of `Schema.encode` and answers in the table's own
units.
"""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.manifest import Task
from models.schema import Matrix
from training.network.averaged import Averaged
from training.network.encoders import Embedding, Preprocessing
from training.network.expansions import Expansion
from training.plan import HIDDEN, Activation, NetPlan

_TOGETHER = 1 << 16  # rows that are answered together


class Sine(nn.Module):
    """sin(x), for what repeats itself (Sitzmann et al. 2020, SIREN)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sine": Sine,
    "identity": nn.Identity,
}


def make_member(
    plan: NetPlan, inputs: int, sizes: list[int], outputs: int, expansion: Expansion | None = None
) -> nn.Sequential:
    """A multilayer perceptron with fresh weights, drawn from torch's global generator.

    Shape:
        [N, inputs] -> [N, outputs]; the last `len(sizes)` inputs are rows of the embedding table
    """
    layers: list[nn.Module] = []
    if expansion is not None:
        layers.append(expansion)
        inputs += expansion.pieces
    if sizes:
        embedding = Embedding(sizes, inputs)
        layers.append(embedding)
        inputs = embedding.width
    hidden = HIDDEN if plan.hidden is None else plan.hidden
    activations = plan.activations or (plan.activation,) * len(hidden)
    for width, activation in zip(hidden, activations, strict=True):
        layers += [_linear(inputs, width, plan), ACTIVATIONS[activation]()]
        if plan.dropout:
            layers.append(nn.Dropout(plan.dropout))
        inputs = width
    return nn.Sequential(*layers, _linear(inputs, outputs, plan))


def _linear(inputs: int, outputs: int, plan: NetPlan) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    if plan.init != "uniform":
        nn.init.normal_(layer.weight, std=1.0 if plan.init == "unit_normal" else inputs**-0.5)
        nn.init.normal_(layer.bias) if plan.init == "unit_normal" else nn.init.zeros_(layer.bias)
    return layer


class Net(nn.Module):
    """The network as it is published: members averaged, calibrated, in the units of the table.

    Shape:
        features: [N, F], N from 0
        regression -> prediction float32 [N, K]
        classification -> probabilities float32 [N, C] and label int64 [N], the likeliest class

    Attributes:
        is_steep: its probabilities are computed in float64, since many are too small for float32.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        members: Sequence[nn.Module],
        task: Task,
        *,
        centre: Tensor | None = None,
        scale: Tensor | None = None,
        temperature: float = 1.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        """`weights` are the members' in the average.

        `centre` and `scale` [K] bring a regression back to the target's units, together or not at all.
        """
        super().__init__()
        self.preprocessing = preprocessing
        self.temperature = temperature
        slopes = None
        if task != "regression" and len(members) == 1 and isinstance(members[0], nn.Sequential):
            members = [_with_all_logits(members[0], temperature)]
        elif task != "regression":
            slopes = torch.tensor([0.0, 1 / temperature])
        self.slopes: Tensor | None
        self.register_buffer("slopes", slopes)
        self.member = Averaged(members, task, weights)
        self.task = task
        self.is_steep = False
        self.centre: Tensor | None
        self.scale: Tensor | None
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.eval()

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        raw: Tensor = self.member(self.preprocessing(features))
        if self.task == "regression":
            return raw if self.scale is None or self.centre is None else raw * self.scale + self.centre
        if self.slopes is not None:  # a binary net has one logit, of the second class
            raw = raw * (self.slopes if raw.shape[-1] == 1 else self.slopes[1])
        probabilities = torch.softmax(raw.double(), -1).float() if self.is_steep else torch.softmax(raw, -1)
        return probabilities, probabilities.argmax(1)  # not -1, of which ONNX Runtime makes [0, C] for no rows


def _with_all_logits(perceptron: nn.Sequential, temperature: float) -> nn.Sequential:
    """The perceptron with a last layer that answers the logits of all classes, calibrated.

    Four nodes of the graph less where a binary net has a logit for the second class alone, one less otherwise.
    """
    *layers, old = perceptron
    assert isinstance(old, nn.Linear)
    weight, bias = old.weight.detach() / temperature, old.bias.detach() / temperature
    if len(bias) == 1:
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    last = nn.Linear(weight.shape[1], len(bias), device="meta")  # draws no random numbers
    last.weight, last.bias = nn.Parameter(weight), nn.Parameter(bias)
    return nn.Sequential(*layers, last)


def answers_of(net: nn.Module, matrix: Matrix) -> dict[str, npt.NDArray[Any]]:
    """The net's outputs by name, computed some rows at a time, since what lies between its layers takes memory.

    Shape:
        matrix: [N, F] -> `prediction` [N, K], or `probabilities` [N, C] and `label` [N]
    """
    parts = []
    with torch.no_grad():
        for start in range(0, max(len(matrix), 1), _TOGETHER):
            answer = net(torch.from_numpy(matrix[start : start + _TOGETHER]))
            parts.append(answer if isinstance(answer, tuple) else (answer,))
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    names = ("prediction",) if len(columns) == 1 else ("probabilities", "label")
    return dict(zip(names, columns, strict=True))
