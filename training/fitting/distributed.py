"""Several processes that fit one network together: `torchrun --nproc-per-node 2 -m training ...`.

Each process (rank) reads the table itself, takes its share of every minibatch, and nothing but gradients crosses, those
of all weights in one buffer (all-reduce, as in Li et al. 2020). The minibatches are those that one process would take,
so the weights are the same up to rounding, however many ranks there are. Rank 0 alone speaks, keeps checkpoints and
publishes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

_T = TypeVar("_T")


@dataclass(frozen=True)
class Team:
    """The ranks of this run, of which this process is one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0

    def own(self, rows: int) -> slice:
        """Which of the rows of a minibatch are this rank's."""
        return slice(self.rank, rows, self.size)

    def share(self, rows: int) -> float:
        """What a rank's mean loss is multiplied by, so that the mean over the ranks is the mean over all rows."""
        return len(range(self.rank, rows, self.size)) * self.size / rows

    def agree(self, gradient: Tensor, share: float) -> None:
        """Make the gradient of this rank's mean loss that of the mean over all ranks' rows; `share` as above."""
        if self.size > 1:
            gradient.mul_(share / self.size) if share else gradient.zero_()  # a mean over no rows is no number
            distributed.all_reduce(gradient)

    def total(self, value: float) -> float:
        """The sum of every rank's value."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            tensor = tensor.cuda()
        distributed.all_reduce(tensor)
        return float(tensor)

    def of_leader(self, value: _T) -> _T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        told: list[_T] = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]


def leads() -> bool:
    """Whether this process speaks, keeps checkpoints and publishes: the only one, or rank 0."""
    return os.environ.get("RANK", "0") == "0"


def is_team() -> bool:
    """Whether torchrun started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def has_own_gpu() -> bool:
    """Whether there is a GPU for this process and for each that torchrun started beside it on this machine."""
    return torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def team() -> Iterator[Team]:
    """This process among those that torchrun started; a team of one without it."""
    if not is_team():
        yield Team()
        return
    if has_own_gpu():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if has_own_gpu() else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
