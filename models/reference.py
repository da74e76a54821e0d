"""What the training rows looked like, in counts: a server compares what it is asked and what it answers with this.

Every feature and every output is cut into a few bins. The bins are of the matrix that `Schema.encode` makes and of the
graph's answers, so counting them needs no look at a request.
"""

from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from models.record import Record

Share = Annotated[float, Field(ge=0, le=1)]


class Bins(Record):
    """How the values of one column are spread.

    Value v is in bin i where i of the edges are at most v; missing ones (NaN) are in a last bin of their own. So there
    are `len(edges) + 2` bins. Of a category the edges lie between the indexes that are told apart.

    Attributes:
        edges: where the bins meet, rising.
        shares: the share of the reference rows in each bin, missing last.
    """

    edges: Annotated[tuple[float, ...], Field(strict=False)]
    shares: Annotated[tuple[Share, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.shares) != len(self.edges) + 2:
            raise ValueError("shares must have one value for each bin and one for missing values")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must rise")
        return self

    def count(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """How many values are in each bin.

        Shape:
            values: [N] -> [len(edges) + 2]
        """
        bins = np.searchsorted(self.edges, values, side="right")
        bins[np.isnan(values)] = len(self.edges) + 1
        return np.bincount(bins, minlength=len(self.edges) + 2)

    def psi(self, counts: npt.NDArray[np.int64]) -> float:
        """The population stability index of these counts against the reference: 0 the same, above 0.25 another world.

        The sum over the bins of (p - q) ln(p / q) (Siddiqi 2006, "Credit Risk Scorecards", chapter 8), where half a
        row is added to each bin: an empty one would be infinitely far.
        """
        total = counts.sum()
        now = (counts + 0.5) / (total + 0.5 * len(counts))
        before = (np.array(self.shares) * total + 0.5) / (total + 0.5 * len(counts))
        return float(((now - before) * np.log(now / before)).sum())


class Reference(Record):
    """The bins of the training rows' features and of the network's answers on rows that trained nothing.

    Attributes:
        rows: how many training rows the features' shares are of.
        features: feature to bins of its (of a datetime, its first) matrix column.
        targets: of a regression, target to bins of its prediction; of a classification empty.
        classes: of a classification, the share of each class among the likeliest ones; of a regression empty.
    """

    rows: Annotated[int, Field(ge=1)]
    features: dict[str, Bins]
    targets: dict[str, Bins] = Field(default_factory=dict)
    classes: Annotated[tuple[Share, ...], Field(strict=False)] = ()
