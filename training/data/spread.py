"""Some of many rows, evenly spread."""

import numpy as np
import numpy.typing as npt


def spread(rows: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` rows, evenly spread over all."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))
