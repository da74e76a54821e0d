"""The network: learned preprocessing in front, members in the middle, the task's outputs behind.

A member is what `fit` trains: it reads the preprocessed matrix and answers raw outputs, which are logits or
standardised targets. `Net` is what is published: it reads the matrix of `Schema.encode` and answers in the table's own
units.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.manifest import Task
from training.network.encoders import Embedding, Preprocessing, unclipped
from training.network.expansions import Expansion
from training.plan import HIDDEN, Activation, NetPlan


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


class LinearMember(nn.Module):
    """A linear model: a weight for each number, and one for each row of the embedding table.

    Shape:
        [N, inputs] -> [N, outputs]
    """

    def __init__(self, weight: Tensor, bias: Tensor, table: Tensor | None, numbers: int = 0) -> None:
        """`weight` is [inputs without the embedded, outputs], `table` [rows of the embedding table, outputs].

        The first `numbers` inputs are numbers that are read as they were before their smooth clipping.
        """
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.table = None if table is None else nn.Parameter(table)
        self.numbers = numbers

    def forward(self, x: Tensor) -> Tensor:
        if self.numbers:
            x = unclipped(x, self.numbers)
        if self.table is None:
            return torch.addmm(self.bias, x, self.weight)
        plain = len(self.weight)
        rows = self.table[x[:, plain:].to(torch.int64)]  # [N, S, outputs]
        return torch.addmm(self.bias, x[:, :plain], self.weight) + rows.sum(1)


class Corrected(nn.Module):
    """A line, and a perceptron that was fitted on what the line leaves: their sum.

    Where a number is beyond nearly all that training showed, the perceptron levels off and the line goes on.

    Shape:
        [N, inputs] -> [N, outputs]
    """

    def __init__(self, line: LinearMember, perceptron: nn.Sequential) -> None:
        super().__init__()
        self.line, self.perceptron = line, perceptron

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.line(x) + self.perceptron(x)
        return answers


class Averaged(nn.Module):
    """Several members as one: the mean of their targets, or of their probabilities, given as log probabilities.

    A single member answers as it is.

    Shape:
        [N, inputs] -> [N, outputs]; of a binary net with one output and several members -> [N, 1], a logit
    """

    def __init__(self, members: Sequence[nn.Module], task: Task, weights: Sequence[float] | None = None) -> None:
        """`weights` say how much each member counts; by default all count alike."""
        super().__init__()
        self.is_one = len(members) == 1
        given = torch.tensor(weights or [1.0] * len(members), dtype=torch.float64)
        given /= given.sum()
        self.line = None if self.is_one else _mean_line(members, given.tolist())
        if self.line is not None:
            members = [member.perceptron if isinstance(member, Corrected) else member for member in members]
        groups = _alike(members)
        stacks = members if self.is_one else [_stacked([members[k] for k in group]) for group in groups]
        self.members = nn.ModuleList(stacks)
        shares = given[[k for group in groups for k in group]]
        self.shares: Tensor
        self.register_buffer("shares", shares.to(torch.float32)[:, None, None])  # [M, 1, 1]
        self.is_regression = task == "regression"

    def forward(self, x: Tensor) -> Tensor:
        answers = [member(x) for member in self.members]
        raw: Tensor = torch.cat(answers) if len(answers) > 1 else answers[0]  # [M, N, outputs]
        if self.is_one:
            return raw  # [N, outputs]
        if self.is_regression:
            mean = (raw * self.shares).sum(0)
            return mean if self.line is None else mean + self.line(x)
        if raw.shape[-1] == 1:
            # log sigmoid by softplus: ONNX has no other form that stays finite for logits beyond 100
            yes, no = self.shares.log() - functional.softplus(-raw), self.shares.log() - functional.softplus(raw)
            return torch.logsumexp(yes, 0) - torch.logsumexp(no, 0)
        return torch.logsumexp(torch.log_softmax(raw, -1) + self.shares.log(), 0)


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


# ------------------------------------------------------------------------------------------------ many members


def _mean_line(members: Sequence[nn.Module], shares: Sequence[float]) -> LinearMember | None:
    """The lines of corrected members as one, each with its member's share; None where there are none.

    All are of one problem: they read the same numbers, clipped or not.
    """
    found = [(one.line, share) for one, share in zip(members, shares, strict=True) if isinstance(one, Corrected)]
    if not found:
        return None
    means = [
        torch.stack([weight.detach() * share for weight, (_, share) in zip(weights, found, strict=True)]).sum(0)
        for weights in zip(*(line.parameters() for line, _ in found), strict=True)
    ]
    weight, bias, *table = means
    return LinearMember(weight, bias, table[0] if table else None, found[0][0].numbers)


def _alike(members: Sequence[nn.Module]) -> list[list[int]]:
    """The places of members that can stand side by side: perceptrons with the same layers, everything else alone."""
    groups: dict[object, list[int]] = {}
    for place, member in enumerate(members):
        groups.setdefault(_form(member) if isinstance(member, nn.Sequential) else place, []).append(place)
    return list(groups.values())


def _form(perceptron: nn.Sequential) -> tuple[object, ...]:
    """Kinds of layers, shapes of weights, and the very expansion, which is shared and not stacked."""
    kinds = tuple(id(layer) if isinstance(layer, Expansion) else type(layer) for layer in perceptron)
    return kinds, tuple(weight.shape for weight in perceptron.parameters())


def _stacked(members: Sequence[nn.Module]) -> nn.Module:
    """Members that are alike as one module, so that the graph has one product per layer: [N, K] -> [M, N, K]."""
    perceptrons = [member for member in members if isinstance(member, nn.Sequential)]
    return _Stack(perceptrons) if perceptrons else _Lifted(members[0])


class _Lifted(nn.Module):
    """One member with a first axis of length 1, as a stack has."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    def forward(self, x: Tensor) -> Tensor:
        return torch.unsqueeze(self.member(x), 0)


class _Stack(nn.Module):
    """M perceptrons of one shape, layer by layer.

    Shape:
        [N, inputs] -> [M, N, outputs]
    """

    def __init__(self, members: Sequence[nn.Sequential]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for same in zip(*members, strict=True):
            first = same[0]
            if isinstance(first, nn.Linear):
                layers.append(_StackedLinear([layer for layer in same if isinstance(layer, nn.Linear)]))
            elif isinstance(first, Embedding):
                layers.append(_StackedEmbedding([layer for layer in same if isinstance(layer, Embedding)]))
            elif not isinstance(first, nn.Dropout):
                layers.append(first)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.layers(x)
        return answers


class _StackedLinear(nn.Module):
    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))  # [M, in, out]
        self.bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))  # [M, 1, out]

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight) + self.bias  # [N, in] or [M, N, in]


class _StackedEmbedding(nn.Module):
    def __init__(self, layers: Sequence[Embedding]) -> None:
        super().__init__()
        self.count, self.plain = len(layers), layers[0].plain
        self.width = layers[0].width - layers[0].plain
        self.table = nn.Parameter(torch.stack([layer.table.detach() for layer in layers]))  # [M, rows, 8]

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table[:, x[:, self.plain :].to(torch.int64)]  # [M, N, S, 8]
        rows = rows.reshape(self.count, -1, self.width)  # not flatten(2): in ONNX that fails for N = 0
        plain = x[:, : self.plain].unsqueeze(0).expand(self.count, -1, -1)
        return torch.cat([plain, rows], 2)
