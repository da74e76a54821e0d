"""One step of the optimizer: forward, backward by the chain rule, update.

`training/scratch.py` explains the chain rule; here is the same arithmetic, as fast as torch's kernels allow. It is
written out because at these sizes autograd and an optimizer object cost more than the products do
(docs/decisions/0031). `tests/training/test_step.py` holds every rule against autograd and every update against
`torch.optim`.

Read `Stepper.__call__` first: through the layers, back through them, update. Then the rules: each kind of layer has
one, which answers on the way forward and knows the derivative on the way back.

Shape:
    K networks of one shape are moved at once, each by its own minibatch of N rows: one network on a CPU, several on a
    GPU, which a single small network cannot fill.
    weights, gradients: [K, P], one flat line for each network, so that the update is one kernel over all parameters;
        what layers hold are views of it, like [K, outputs, inputs] and [K, outputs]
    between layers: [K, features, N], features before rows. So a bias is added to a line of memory and its gradient is
        the sum of one, a softmax over a few classes works on whole vectors of rows, and narrow products take a third
        of the time (docs/decisions/0064)

Where its products are large and the processor has instructions for it, a hidden layer multiplies bfloat16: the range of
float32 with 8 bits of precision, and sums in float32 (Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning
Training). All else is float32: weights and their updates, since most updates are less than the last of 8 bits
(Micikevicius et al. 2018, Mixed Precision Training, section 3.1), what is elementwise, which bfloat16 makes no quicker,
the last layer and the loss (docs/decisions/0082, 0094).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.fitting.losses import Objective
from training.network.encoders import Embedding
from training.network.expansions import Expansion
from training.network.net import Sine
from training.plan import FitPlan

_MASKS = 1 << 20
"""Numbers in a CPU's store of dropout masks: to draw them anew takes 16 ns each, longer than the products around."""

_aten = torch.ops.aten


class Stepper:
    """Moves K networks of one shape, each by its own minibatch.

    The networks can be asked at any time: their parameters are views of `weights` from now on.

    Attributes:
        weights: every parameter, [K, P]; those that weight decay spares come last.
        drops: whether the networks' dropout is at work.
    """

    def __init__(
        self,
        nets: Sequence[nn.Sequential],
        plan: FitPlan,
        objective: Objective,
        generator: torch.Generator,
        *,
        bfloat16_from: float = math.inf,
    ) -> None:
        """The networks are perceptrons of `make_member`, on the generator's device; dropout masks come from it.

        A layer of `bfloat16_from` weights or more multiplies bfloat16, unless it is the last.
        """
        self._plan, self._objective = plan, objective
        named = dict(nets[0].named_parameters())
        order = sorted(named, key=lambda name: named[name].ndim <= 1)  # stable: biases go to the end
        sizes = [named[name].numel() for name in order]
        self.weights = named[order[0]].new_empty(len(nets), sum(sizes))
        self._decayed = self.weights[:, : sum(named[name].numel() for name in order if named[name].ndim > 1)]
        self._gradient = torch.zeros_like(self.weights)
        self._mean = torch.zeros_like(self.weights)
        self._square = torch.zeros_like(self.weights) if plan.optimizer != "sgd" else self.weights.new_empty(0)
        self._count = torch.zeros((), device=self.weights.device)
        self._one = torch.ones_like(self._count)  # adding it takes a third of the time of adding 1
        # the kernel of torch.optim.Adam(fused=True), 3 microseconds; the object around it costs 170
        self._adam = functools.partial(
            torch._fused_adam_,
            [self.weights],
            [self._gradient],
            [self._mean],
            [self._square],
            [],
            [self._count],
            beta1=0.9,
            beta2=plan.beta2,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

        slots = {}
        flat = (torch.split(self.weights, sizes, 1), torch.split(self._gradient, sizes, 1))
        for name, weight, gradient in zip(order, *flat, strict=True):
            shape, is_linear = named[name].shape, name.endswith(".weight")
            slot = _Slot(_shaped(weight, shape, is_linear=is_linear), _shaped(gradient, shape, is_linear=is_linear))
            for k, net in enumerate(nets):
                own = net.get_parameter(name)
                slot.weight[k] = own.detach()
                own.data = slot.weight[k]
            slots[name] = slot
        self._masks = masks = _Masks(generator)
        self._layers: list[_Rule] = []
        for number, layer in enumerate(nets[0]):
            is_last = number == len(nets[0]) - 1
            self._layers.append(_rule(layer, number, slots, masks, math.inf if is_last else bfloat16_from))
        for activation, dropout in pairwise(self._layers):
            if isinstance(activation, _Activation) and isinstance(dropout, _Dropout):
                dropout.is_in_place = not activation.needs_out

    @property
    def drops(self) -> bool:
        return self._masks.are_on

    @drops.setter
    def drops(self, drops: bool) -> None:
        self._masks.are_on = drops

    def state(self) -> dict[str, Tensor]:
        """All that a later step depends on beside its minibatch."""
        return {"weights": self.weights, "mean": self._mean, "square": self._square, "count": self._count}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def __call__(
        self, x: Tensor, y: Tensor, rate: float | Tensor, agree: Callable[[Tensor], object] = lambda _: None
    ) -> Tensor:
        """Move every network once against its gradient, and say the losses that it had before.

        The rate is a number, or one on the device, which a step that is captured in a graph reads anew each time.
        `agree` is given the gradients [K, P] before the update: processes that fit together put their mean there.
        Losses are those of each row: whoever wants a mean takes it once for many steps.

        Shape:
            x: [K, N, inputs]; y: [K, N, outputs] of a regression, class codes [K, N] of a classification
            -> [K, 1 or outputs, N]
        """
        x = x.mT
        for layer in self._layers:
            x = layer.forward(x)
        losses, d = self._objective.gradients(x, y, self._plan.label_smoothing)
        for layer in reversed(self._layers):
            d = layer.backward(d)
        agree(self._gradient)
        self._update(rate)
        return losses

    def _update(self, rate: float | Tensor) -> None:
        plan = self._plan
        if plan.optimizer == "sgd":
            self._mean.mul_(plan.momentum).add_(self._gradient)
            if isinstance(rate, Tensor):
                self.weights.sub_(self._mean * rate)
            else:
                self.weights.sub_(self._mean, alpha=rate)
            return
        if plan.optimizer == "adamw" and plan.weight_decay:
            self._decayed.mul_(1 - rate * plan.weight_decay)
        self._count.add_(self._one)
        self._adam(lr=rate)


@dataclass(frozen=True)
class _Slot:
    """Where a parameter of the K networks and its gradient stand: views [K, ...] of the flat buffers."""

    weight: Tensor
    gradient: Tensor


def _shaped(flat: Tensor, shape: torch.Size, *, is_linear: bool) -> Tensor:
    """Numbers [K, P] as parameters [K, ...].

    Of a linear layer's matrix the longer side lies in lines of memory, which a product writes in whole vectors: the
    gradient of 100 x 30 weights by 250 rows takes 21 microseconds so and 31 otherwise, of 100 x 2 by 1,000 44 and 113.
    """
    if is_linear and shape[0] > shape[1]:
        return flat.view(len(flat), shape[1], shape[0]).mT
    return flat.view(len(flat), *shape)


# ------------------------------------------------------------------------------------------------ the chain rule


class _Rule:
    """A layer that remembers what the way back needs, and forgets it there.

    The next product is then written where those tensors stood, in a core's own cache: 7% of a step of `rings`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """What the layer answers."""
        raise NotImplementedError

    def backward(self, d: Tensor) -> Tensor:
        """Keep the gradients of the layer's weights; answer the derivative by its input, which the first has not."""
        raise NotImplementedError


def _rule(layer: nn.Module, number: int, slots: dict[str, _Slot], masks: "_Masks", bfloat16_from: float) -> _Rule:
    prefix = f"{number}."
    match layer:
        case nn.Linear():
            kind = _Bfloat16Linear if layer.weight.numel() >= bfloat16_from else _Linear
            return kind(slots[prefix + "weight"], slots[prefix + "bias"], is_first=number == 0)
        case Embedding():
            return _Embedding(layer.plain, slots[prefix + "table"])
        case nn.Dropout():
            return _Dropout(layer.p, masks)
        case Expansion():
            return _Activation(lambda x: layer(x.mT).mT, lambda d, _x, _out: d)  # the first: nobody asks for d
        case _:
            # the way back of tanh and sigmoid reads what they answered, so dropout must not write over it. That of a
            # ReLU reads its sign alone: where a mask has made the answer 0, what comes back is 0 as well
            return _Activation(*_DERIVATIVES[type(layer)], needs_out=isinstance(layer, nn.Tanh | nn.Sigmoid))


class _Linear(_Rule):
    """z = W x + b for the rows x as columns; W is [outputs, inputs], as nn.Linear has it."""

    def __init__(self, weight: _Slot, bias: _Slot, *, is_first: bool) -> None:
        self._weight, self._gradient, self._is_first = weight.weight, weight.gradient, is_first
        self._bias, self._bias_gradient = bias.weight.unsqueeze(2), bias.gradient  # [K, outputs, 1], [K, outputs]
        self._transposed = self._weight.mT  # [K, inputs, outputs]

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return torch.bmm(self._weight, x).add_(self._bias)

    def backward(self, d: Tensor) -> Tensor:
        torch.bmm(d, self._x.mT, out=self._gradient)
        torch.sum(d, 2, out=self._bias_gradient)
        del self._x
        return d if self._is_first else torch.bmm(self._transposed, d)


class _Bfloat16Linear(_Linear):
    """The same out of products of numbers that are rounded to bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        self._x, self._rounded = x.bfloat16(), self._weight.bfloat16()
        return torch.bmm(self._rounded, self._x).float().add_(self._bias)

    def backward(self, d: Tensor) -> Tensor:
        torch.sum(d, 2, out=self._bias_gradient)
        rounded = d.bfloat16()
        if self._gradient.stride(2) == 1:
            self._gradient.copy_(torch.bmm(rounded, self._x.mT))
        else:  # as it lies in memory
            self._gradient.mT.copy_(torch.bmm(self._x, rounded.mT))
        del self._x
        return d if self._is_first else torch.bmm(self._rounded.mT, rounded).float()


class _Embedding(_Rule):
    """Row numbers, the last columns, become rows of the table."""

    def __init__(self, plain: int, table: _Slot) -> None:
        self._plain, self._table = plain, table
        self._k = torch.arange(len(table.weight), device=table.weight.device)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT  # [K, N, inputs]
        self._rows = x[..., self._plain :].to(torch.int64)
        return torch.cat([x[..., : self._plain], self._table.weight[self._k, self._rows].flatten(2)], 2).mT

    def backward(self, d: Tensor) -> Tensor:
        d = d[:, self._plain :].mT.reshape(*self._rows.shape, -1)
        self._table.gradient.zero_()
        self._table.gradient.index_put_((self._k, self._rows), d, accumulate=True)
        return d  # by row numbers there is nothing to derive


class _Dropout(_Rule):
    """Some numbers become 0, and the others larger, so that their expected sum stays.

    Attributes:
        is_in_place: nobody reads the input any more, so the answer takes its place: what a step touches should stay in
            a core's own cache.
    """

    def __init__(self, share: float, masks: "_Masks") -> None:
        self._share, self._masks = share, masks
        self.is_in_place = False
        masks.prepare(share)

    def forward(self, x: Tensor) -> Tensor:
        if not self._masks.are_on:
            return x
        self._mask = self._masks.draw(x.shape, self._share)
        return x.mul_(self._mask) if self.is_in_place else x * self._mask

    def backward(self, d: Tensor) -> Tensor:
        return d.mul_(self._mask) if self._masks.are_on else d


class _Activation(_Rule):
    """A function of each number.

    Attributes:
        needs_out: whether the way back reads what was answered.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], derivative: Callable[..., Tensor], *, needs_out: bool = False
    ) -> None:
        self._function, self._derivative, self.needs_out = function, derivative, needs_out

    def forward(self, x: Tensor) -> Tensor:
        self._x, self._out = x, self._function(x)
        return self._out

    def backward(self, d: Tensor) -> Tensor:
        x, out = self._x, self._out
        del self._x, self._out
        return self._derivative(d, x, out)


_DERIVATIVES: dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    nn.ReLU: (torch.relu_, lambda d, _, out: _aten.threshold_backward.grad_input(d, out, 0, grad_input=d)),
    nn.Tanh: (torch.tanh, lambda d, _, out: _aten.tanh_backward.grad_input(d, out, grad_input=d)),
    nn.Sigmoid: (torch.sigmoid, lambda d, _, out: _aten.sigmoid_backward.grad_input(d, out, grad_input=d)),
    nn.GELU: (torch.nn.functional.gelu, lambda d, x, _: _aten.gelu_backward.grad_input(d, x, grad_input=d)),
    nn.SiLU: (torch.nn.functional.silu, lambda d, x, _: _aten.silu_backward.grad_input(d, x, grad_input=d)),
    Sine: (torch.sin, lambda d, x, _: d.mul_(torch.cos(x))),
    nn.Identity: (lambda x: x, lambda d, _x, _out: d),
}
"""What an activation answers, and how it changes a derivative d on the way back, given its input x and its answer out.

ReLU, tanh and sigmoid need their answer, the others their input. The result stands in the place of d: at these sizes an
operator takes as long as the memory that it touches, and nobody else reads what a product has just written.
"""


class _Masks:
    """Dropout masks: 0 for what is dropped, 1 / (1 - share) for what stays.

    On a CPU each mask is cut at a random place out of a store that is drawn once.

    Attributes:
        are_on: whether anything is dropped.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.are_on = True
        self._generator = generator
        self._stores: dict[float, Tensor] = {}
        self._start = torch.zeros((), dtype=torch.int64)  # drawn in its place, which is quicker than torch.randint

    def prepare(self, share: float) -> None:
        """Draw the store before anything else is drawn, so that a fit that is resumed has the same one."""
        if self._generator.device.type == "cpu" and share not in self._stores:
            self._stores[share] = self._fresh([_MASKS], share)

    def draw(self, shape: torch.Size, share: float) -> Tensor:
        size, store = shape.numel(), self._stores.get(share)
        if store is None or 2 * size > _MASKS:
            return self._fresh(list(shape), share)
        start = int(self._start.random_(_MASKS - size, generator=self._generator))
        return store.narrow(0, start, size).view(shape)

    def _fresh(self, shape: list[int], share: float) -> Tensor:
        kept = torch.empty(shape, device=self._generator.device).bernoulli_(1 - share, generator=self._generator)
        return kept.div_(1 - share)
