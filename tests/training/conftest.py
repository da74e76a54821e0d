"""Small tables and short fits that the tests of training share."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mixed() -> pl.DataFrame:
    """300 rows of every kind of column, with missing values, a large category and whole numbers beyond FP32."""
    rng = np.random.default_rng(0)
    n = 300
    size = rng.normal(10, 3, n).round(3)
    color = rng.choice(["red", "green", "blue"], n)
    city = rng.choice([f"city {number}" for number in range(12)], n)
    is_new = rng.random(n) < 0.5
    frame = pl.DataFrame(
        {
            "size": size,
            "color": color,
            "city": city,
            "is_new": is_new,
            "day": np.datetime64("2024-01-01") + rng.integers(0, 300, n).astype("timedelta64[D]"),
            "stamp": 1_700_000_000_000 + rng.integers(0, 10**9, n),
            "price": (2 * size + 5 * (color == "red") + 3 * is_new + rng.normal(0, 0.5, n)).round(3),
            "grade": np.where(size + 2 * (color == "red") > 10, "high", "low"),
        }
    )
    holes = {name: pl.Series(rng.random(n) < 0.1) for name in ("size", "color", "city", "is_new", "day")}
    return frame.with_columns(
        pl.when(hole).then(None).otherwise(pl.col(name)).alias(name) for name, hole in holes.items()
    )
