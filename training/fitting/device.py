"""Where fits compute, on how many threads and in which precision.

Nothing here is chosen by a plan: the size of the work and the machine decide.
"""

import contextlib
import math
from collections.abc import Iterator

import torch

from training.fitting.distributed import has_own_gpu

WORTH_A_GPU_S = 5.0
"""Seconds of one core for a candidate's fits from which a GPU is quicker than a few cores (docs/decisions/0062)."""

BFLOAT16_FROM = 4_000_000
"""Multiplications of a product from which bfloat16 is quicker (docs/decisions/0094): smaller ones wait for oneDNN."""


def choose_device(seconds: float = math.inf) -> torch.device:
    """CUDA where there is a GPU and fits of so many seconds of one core are worth its start, else the CPU."""
    return torch.device("cuda" if seconds >= WORTH_A_GPU_S and has_own_gpu() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def bfloat16_from(device: torch.device, rows: int) -> float:
    """Weights of a layer from which minibatches of so many rows take less time in bfloat16; infinite where none do.

    A CPU without instructions for it would emulate them; a GPU has TF32 (docs/decisions/0062).
    """
    has_instructions = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16")
    return BFLOAT16_FROM / rows if has_instructions else math.inf


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute on so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def fast_arithmetic(device: torch.device) -> Iterator[None]:
    """No denormals on a CPU, products in TF32 on a GPU, within the block.

    Denormals are numbers too near to zero for float32's full precision. Adam's moments of dead units shrink to such
    numbers, of which each takes a CPU hundreds of cycles; so they count as zero. TF32 keeps 10 bits of each factor and
    sums in float32: half of a wide network's time, and losses agree (docs/decisions/0062).
    """
    precision = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's own generators begin at the seed within the block, and go on afterwards as if it had not been."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
