"""A table of 20 mixed columns, drawn from a seed: 12 numbers, 6 categories, and one of each with missing values."""

import random
from pathlib import Path
from typing import Any

import polars as pl

NUMBERS = [f"number_{place}" for place in range(12)]
CATEGORIES = [f"category_{place}" for place in range(6)]
HOLES = 0.2

PLAN = """name = "mixed"
target = ["yes"]

[table]
path = "{table}"

[net]
hidden = [64, 64]

[fit]
epochs = 5
members = 1
linear = false
patience = 0
"""


def records(rows: int) -> list[dict[str, Any]]:
    """Rows as a client sends them; the first of them are the same whatever their number."""
    dice = random.Random(2)
    return [_record(dice) for _ in range(rows)]


def _record(dice: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = {name: round(dice.gauss(place, 1 + place), 3) for place, name in enumerate(NUMBERS)}
    row |= {name: f"kind {dice.randrange(3 + 4 * place)}" for place, name in enumerate(CATEGORIES)}
    row["hollow_number"] = None if dice.random() < HOLES else round(dice.uniform(0, 100), 2)
    row["hollow_category"] = None if dice.random() < HOLES else dice.choice(["north", "east", "south", "west"])
    return row


def write_plan(folder: Path) -> Path:
    """A table to train on, and the plan that does."""
    rows = records(4000)
    for row in rows:
        row["yes"] = row["number_0"] + (row["category_0"] == "kind 1") > 0.2
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "mixed.parquet")
    plan = folder / "mixed.toml"
    plan.write_text(PLAN.format(table=folder / "mixed.parquet"))
    return plan
