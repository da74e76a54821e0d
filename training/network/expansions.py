"""Numbers told in more columns than one, so that a network of few layers can bend sharply where they matter.

An expansion is the first layer of a member. It holds quantiles of the training rows and no weights, so what it answers
for a training row is computed once for the whole fit.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.onnx  # before processes are forked: each would import it when it is first asked of, as torch does not
from torch import Tensor, nn

_ROWS = 100_000
"""Rows that quantiles are taken from; more move them by less than the bins are wide."""
_FREQUENCY = 0.1


class Expansion(nn.Module):
    """The matrix with more columns made of its numbers.

    Shape:
        x: [..., N, width] -> [..., N, width + pieces]; the numbers are the first columns, the embedded codes the last

    Attributes:
        pieces: columns that are added.
    """

    def __init__(self, plain: int, columns: list[int]) -> None:
        """`plain` columns stand before the codes; each of `columns` is the number that one piece is made of."""
        super().__init__()
        self.plain, self.pieces = plain, len(columns)
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # ONNX Runtime copies a line at once, and a column number by number
            numbers = x.transpose(-2, -1).index_select(-2, self.columns).transpose(-2, -1)
        else:
            numbers = x.index_select(-1, self.columns)
        pieces = self.bent(numbers)
        has_codes = x.shape[-1] > self.plain
        return torch.cat([x[..., : self.plain], pieces, x[..., self.plain :]] if has_codes else [x, pieces], -1)

    def bent(self, numbers: Tensor) -> Tensor:
        """What is made of the numbers: [..., pieces] -> [..., pieces]."""
        raise NotImplementedError


class Steps(Expansion):
    """How far a number is through each interval between its quantiles: 0 before it, 1 behind it.

    A number x in bins of edges b becomes clip((x - b_t) / (b_{t+1} - b_t), 0, 1) for each t: the piecewise-linear
    encoding of Gorishniy et al. 2022, section 3.2.1, so that the layer behind it is a piecewise-linear function of each
    number with bends at the quantiles. Where most rows have one value, the quantiles are those of the other rows.
    Columns of fewer than three distinct quantiles have no bends to offer.
    """

    def __init__(self, train: Tensor, numbers: int, embedded: int, bins: int) -> None:
        """`train` [N, width] is the preprocessed matrix; its first columns are numbers, the last embedded codes."""
        rows = train[:: -(-len(train) // _ROWS), :numbers].cpu().numpy().astype(np.float64)
        edges = [_edges(rows[:, k], bins) for k in range(numbers)]
        uneven = [k for k in range(numbers) if len(edges[k]) > 2]
        super().__init__(train.shape[1] - embedded, [k for k in uneven for _ in edges[k][1:]])
        self.starts: Tensor
        self.slopes: Tensor
        lows = np.concatenate([edges[k][:-1] for k in uneven]) if uneven else np.empty(0)
        widths = np.concatenate([np.diff(edges[k]) for k in uneven]) if uneven else np.empty(0)
        self.register_buffer("starts", torch.tensor(lows, dtype=torch.float32))
        self.register_buffer("slopes", torch.tensor(1 / widths.clip(min=1e-6), dtype=torch.float32))

    def bent(self, numbers: Tensor) -> Tensor:
        return ((numbers - self.starts) * self.slopes).clamp(0, 1)


def _edges(values: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """Distinct quantiles, at most `bins` + 1; of a column that is mostly one value, that value and the others' ones."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    if 2 * len(edges) > bins:
        return edges
    distinct, rows = np.unique(values, return_counts=True)
    if len(distinct) < 3:
        return distinct
    most = distinct[rows.argmax()]
    return np.unique(np.append(np.quantile(values[values != most], np.linspace(0, 1, bins)), most))


class Waves(Expansion):
    """Cosines of each number, of low random frequencies and any phase, so that the layer behind it bends smoothly.

    cos(2 pi (w x + b)) with w from N(0, 0.1^2) and b uniform: RealMLP's numeric embedding at its first step (Holzmüller
    et al. 2024, section 3 and table A.1). RealMLP goes on to learn w and b and a small layer for each number; here they
    stay as drawn and the first layer of the network reads them all.
    """

    def __init__(self, train: Tensor, numbers: int, embedded: int, waves: int) -> None:
        """`train` [N, width] is the preprocessed matrix; its first columns are numbers, the last embedded codes."""
        super().__init__(train.shape[1] - embedded, [k for k in range(numbers) for _ in range(waves)])
        self.frequencies: Tensor
        self.phases: Tensor
        generator = torch.Generator().manual_seed(0)
        turns = torch.randn(self.pieces, generator=generator) * _FREQUENCY
        self.register_buffer("frequencies", turns * (2 * torch.pi))
        self.register_buffer("phases", torch.rand(self.pieces, generator=generator) * (2 * torch.pi))

    def bent(self, numbers: Tensor) -> Tensor:
        return torch.cos(numbers * self.frequencies + self.phases)
