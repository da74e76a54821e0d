"""Torch's elementwise functions are called by one thread before several call them: see training/fitting/kernels.py."""

from pathlib import Path
from typing import Any

import polars as pl
from torch.utils._python_dispatch import TorchDispatchMode

from training import recipe
from training.fitting.kernels import _FUNCTIONS
from training.plan import Plan


class FirstCalls(TorchDispatchMode):
    """How many numbers each function was given when it was called first, by its name and their type."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[tuple[str, str], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in {function.__name__ for function in _FUNCTIONS}:
            self.numbers.setdefault((name, str(args[0].dtype)), args[0].numel())
        return func(*args, **(kwargs or {}))


def test_a_run_calls_each_function_with_one_number_first(tmp_path: Path):
    frame = pl.DataFrame({"x": [number / 7 for number in range(60)], "c": list("abc") * 20})
    frame.with_columns(y=pl.col("x") ** 2, t=pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(60))).write_parquet(
        tmp_path / "t.parquet"
    )
    plan = Plan.of(
        {"name": "m", "target": ["y"], "table": {"path": str(tmp_path / "t.parquet")}, "fit": {"epochs": 1}}, "test"
    )
    with FirstCalls() as calls:
        recipe.train(plan)
    assert ("sqrt", "torch.float32") in calls.numbers
    assert set(calls.numbers.values()) == {1}
