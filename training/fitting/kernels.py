"""Torch's elementwise functions, each called once by one thread before several call it at once.

They are those of Intel's VML, which picks a function's kernel for this processor when it is called first. Where two
threads do that at the same moment, one may take the kernel of the least accuracy: half of a tensor is then off by 3e-4
of itself, in this one call of this process alone (https://github.com/pytorch/pytorch/issues/188792). The same command
then ends with other weights.
"""

import torch

_FUNCTIONS = (
    torch.sqrt, torch.exp, torch.expm1, torch.log, torch.log1p, torch.sin, torch.cos, torch.tanh, torch.erf,
    torch.sigmoid,
)  # fmt: skip


def pick_kernels() -> None:
    """Call each function with one number; where it was done before, nothing changes."""
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for function in _FUNCTIONS:
            function(one)
