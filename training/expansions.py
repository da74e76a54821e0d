"""Numbers told in more columns than one, so that a network of few layers can bend sharply where they matter.

An expansion is the first layer of a member. It holds quantiles of the training rows and no weights, so what it answers
for a training row is computed once for the whole fit.
"""

import numpy as np
import torch
from torch import Tensor, nn

_ROWS = 100_000
"""Rows that quantiles are taken from; more move them by less than the bins are wide."""


class Expansion(nn.Module):
    """Beside every number, how far it is through each interval between its quantiles: 0 before it, 1 behind it.

    A number x in bins of edges b becomes clip((x - b_t) / (b_{t+1} - b_t), 0, 1) for each t: the piecewise-linear
    encoding of Gorishniy et al. 2022, section 3.2.1, so that the layer behind it is a piecewise-linear function of each
    number with bends at the quantiles. Columns of fewer than three distinct quantiles have no bends to offer.

    Shape:
        x: [..., width] -> [..., width + pieces]; the numbers are the first columns, the embedded codes the last

    Attributes:
        pieces: columns that are added.
    """

    def __init__(self, train: Tensor, numbers: int, embedded: int, bins: int) -> None:
        """`train` [N, width] is the preprocessed matrix; its first columns are numbers, the last embedded codes."""
        super().__init__()
        rows = train[:: -(-len(train) // _ROWS), :numbers].cpu().numpy().astype(np.float64)
        edges = [np.unique(np.quantile(rows[:, k], np.linspace(0, 1, bins + 1))) for k in range(numbers)]
        bent = [k for k in range(numbers) if len(edges[k]) > 2]
        columns = [k for k in bent for _ in edges[k][1:]]
        self.plain = train.shape[1] - embedded
        self.pieces = len(columns)
        self.columns: Tensor
        self.starts: Tensor
        self.slopes: Tensor
        lows = np.concatenate([edges[k][:-1] for k in bent]) if bent else np.empty(0)
        widths = np.concatenate([np.diff(edges[k]) for k in bent]) if bent else np.empty(0)
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64))
        self.register_buffer("starts", torch.tensor(lows, dtype=torch.float32))
        self.register_buffer("slopes", torch.tensor(1 / widths.clip(min=1e-6), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        pieces = ((x.index_select(-1, self.columns) - self.starts) * self.slopes).clamp(0, 1)
        return torch.cat([x[..., : self.plain], pieces, x[..., self.plain :]], -1)
