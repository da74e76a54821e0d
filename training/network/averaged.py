"""Many networks as one: their average, with those of one shape side by side, for few large products in the graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.manifest import Task
from training.network.encoders import Embedding
from training.network.expansions import Expansion
from training.network.linear import Corrected, LinearMember


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
