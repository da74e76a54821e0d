"""Work that a GPU repeats without Python between its kernels: CUDA graphs.

A small network's kernels take a few microseconds each, less than Python takes to ask for the next one. A graph is asked
for once and runs them all.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.fitting.step import Stepper

_WARM = 3
"""Runs before the capture, as PyTorch's notes on CUDA graphs ask for: libraries choose their kernels in the first."""


class Graph:
    """A function of tensors of one shape, captured once.

    It has to do the same work each time and must not ask the device for a number. What it answers stands in one place
    and is overwritten by the next run.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        device: torch.device,
        *,
        moves: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        """Capture what the function does with inputs like these on a device.

        Args:
            function: takes the inputs.
            inputs: their like, and shape, is what it will be given.
            device: the GPU.
            moves: what it changes beside its answer; as it was before, once it is captured.
            generator: where its random numbers come from; so is this.
        """
        self._inputs = [tensor.clone() for tensor in inputs]
        before = [tensor.clone() for tensor in moves]
        drawn = None if generator is None else generator.get_state()
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM):
                function(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        if generator is not None:
            self._graph.register_generator_state(generator)
        with torch.cuda.stream(aside):  # torch.cuda.graph would collect garbage first, 30 ms each time
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._answer = function(*self._inputs)
            finally:
                self._graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(aside)
        for tensor, was in zip(moves, before, strict=True):
            tensor.copy_(was)
        if generator is not None and drawn is not None:
            generator.set_state(drawn)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function answers, until it is run again."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._answer


class GraphedStep:
    """A stepper on a GPU, with a graph for each size of minibatch, with dropout and without."""

    def __init__(self, step: Stepper, generator: torch.Generator) -> None:
        """Dropout masks come from the generator, which is the stepper's own."""
        self._step, self._generator = step, generator
        self._rate = step.weights.new_zeros(())
        self._graphs: dict[tuple[torch.Size, bool], Graph] = {}

    def __call__(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """As the stepper's own."""
        self._rate.fill_(rate)
        kind = (x.shape, self._step.drops)
        graph = self._graphs.get(kind)
        if graph is None:
            moves = list(self._step.state().values())
            graph = Graph(self._again, (x, y), x.device, moves=moves, generator=self._generator)
            self._graphs[kind] = graph
        return graph(x, y).clone()

    def _again(self, x: Tensor, y: Tensor) -> Tensor:
        return self._step(x, y, self._rate)
