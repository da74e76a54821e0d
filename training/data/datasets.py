"""Tables by name: the founding systems' own, generated from a seed, and real ones that come with installed packages.

A generated table says in its column `part` which rows train, validate and test; its test rows are fresh points, as many
as it takes to measure the last digit of a score. A real table has no such column: the plan's split decides.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn import datasets as sklearn_datasets

from models.errors import shown
from training.plan import BadPlan
from training.sentences import hint

PART = "part"
"""The column of a generated table that holds "train", "validation" or "test"."""

Columns = dict[str, npt.NDArray[Any]]


def load(name: str, rows: int | None = None, seed: int = 0) -> pl.DataFrame:
    """A table by its name.

    A generated table is a function of name, rows and seed. Its three parts are drawn independently of each other, so
    that the test rows stay the same whatever the number of the others.

    Args:
        name: one of `names()`.
        rows: of a generated table, for training and validation together; None takes the table's own number.
        seed: of a generated table.

    Raises:
        BadPlan: no table has this name, rows are asked of a table that has its own, are too few for two parts, or the
            package that brings the table is not installed.
    """
    if name in _GENERATED:
        return _generate(_GENERATED[name], name, rows, seed)
    reader = _FIXED.get(name)
    if reader is None:
        raise BadPlan("table.dataset", f"{shown(name)} is not a table{hint(name, names())}")
    if rows is not None:
        raise BadPlan("table.rows", f"{name} has its own rows; only {', '.join(sorted(_GENERATED))} are generated")
    return reader()


def names() -> list[str]:
    """The names that `load` knows, sorted."""
    return sorted([*_GENERATED, *_FIXED])


class _Generated(NamedTuple):
    """How a table is generated: `draw` makes some rows, `rows` is for training and validation together."""

    draw: Callable[[np.random.Generator, int], Columns]
    rows: int
    validation: float  # share of `rows`
    test: int


def _generate(table: _Generated, name: str, rows: int | None, seed: int) -> pl.DataFrame:
    rows = table.rows if rows is None else rows
    validation = round(rows * table.validation)
    if not 0 < validation < rows:
        raise BadPlan("table.rows", f"{name} needs more than {rows} rows for training and validation")
    sizes = {"train": rows - validation, "validation": validation, "test": table.test}
    parts = [
        pl.DataFrame(table.draw(np.random.default_rng((seed, number)), size)).with_columns(pl.lit(part).alias(PART))
        for number, (part, size) in enumerate(sizes.items())
    ]
    return pl.concat(parts)


def _square(rng: np.random.Generator, rows: int) -> Columns:
    x = rng.uniform(-1, 1, rows)
    return {"x": x, "y": x**2}


def _rings(rng: np.random.Generator, rows: int) -> Columns:
    points = rng.uniform(-1, 1, (rows, 2))
    r2 = (points**2).sum(axis=1)
    return {"x1": points[:, 0], "x2": points[:, 1], "ring": np.where(r2 >= 1, 1, np.where(r2 < 0.25, 2, 0))}


def _wave(rng: np.random.Generator, rows: int) -> Columns:
    x = rng.uniform(0, 20, rows)
    return {"x": x, "y": x + 2 * np.sin(x) + rng.normal(0, 1, rows)}


def _moons(rng: np.random.Generator, rows: int) -> Columns:
    points, moon = sklearn_datasets.make_moons(rows, noise=0.05, random_state=int(rng.integers(2**31)))
    return {"x1": points[:, 0], "x2": points[:, 1], "moon": moon}


def _sum(rng: np.random.Generator, rows: int) -> Columns:
    a, b, c = rng.uniform(0, 10, (3, rows))
    return {"a": a, "b": b, "c": c, "total": a + b + c}


_GENERATED = {
    "square": _Generated(_square, 14_000, 4_000 / 14_000, 20_000),
    "rings": _Generated(_rings, 15_000, 1 / 3, 200_000),
    "wave": _Generated(_wave, 375, 0.2, 200_000),
    "moons": _Generated(_moons, 200, 0.2, 20_000),
    "sum": _Generated(_sum, 2_000, 0.2, 20_000),
}


def _three_sums() -> pl.DataFrame:
    """The three rows that the source of `sum` trains on. There is nothing to hold out: they validate as well."""
    rows = {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0], "c": [3.0, 4.0, 5.0], "total": [6.0, 9.0, 12.0]}
    return _train_and_validation(pl.DataFrame(rows), times=1)


def _yields() -> pl.DataFrame:
    """Five fields, three times over, as the source has them; the five validate as well, for lack of a sixth."""
    fields = {
        "temperature": [73.0, 91.0, 87.0, 102.0, 69.0],
        "rainfall": [67.0, 88.0, 134.0, 43.0, 96.0],
        "humidity": [43.0, 64.0, 58.0, 37.0, 70.0],
        "apples": [56.0, 81.0, 119.0, 22.0, 103.0],
        "oranges": [70.0, 101.0, 133.0, 37.0, 119.0],
    }
    return _train_and_validation(pl.DataFrame(fields), times=3)


def _train_and_validation(rows: pl.DataFrame, times: int) -> pl.DataFrame:
    train, validation = pl.lit("train").alias(PART), pl.lit("validation").alias(PART)
    return pl.concat([rows.with_columns(train)] * times + [rows.with_columns(validation)])


def _survival() -> pl.DataFrame:
    """Passengers of the Titanic: name, class, age (missing for two in five), sex, and whether they survived."""
    return _sample("titanic_all.csv")


def _penguins() -> pl.DataFrame:
    """Penguins of three species, measured on three islands; some measurements are missing."""
    return _sample("penguins.csv")


def _auto_mpg() -> pl.DataFrame:
    """Cars of 1970 to 1982 and how many miles they go on a US gallon."""
    origin = {"1": "America", "2": "Europe", "3": "Japan"}
    return _sample("auto-mpg.csv").select(
        "mpg",
        pl.col("cyl").alias("cylinders"),
        pl.col("displ").alias("displacement"),
        pl.col("hp").alias("horsepower"),
        "weight",
        pl.col("accel").alias("acceleration"),
        pl.col("yr").alias("year"),
        pl.col("origin").cast(pl.String).replace_strict(origin).alias("origin"),
    )


def _sample(file: str) -> pl.DataFrame:
    """A CSV file of bokeh-sampledata, whose code, which needs bokeh, is not imported."""
    package = find_spec("bokeh_sampledata")
    if package is None or not package.submodule_search_locations:
        raise BadPlan("table.dataset", f"{file} comes with the package bokeh-sampledata, which is not installed")
    path = Path(package.submodule_search_locations[0]) / "_data" / file
    return pl.read_csv(path, null_values=["NA", "*"], infer_schema_length=None)


def _breast_cancer() -> pl.DataFrame:
    """Cell nuclei of breast masses: 30 measurements, benign or malignant."""
    return _from_sklearn(sklearn_datasets.load_breast_cancer(), "diagnosis")


def _wine() -> pl.DataFrame:
    """Chemical analyses of wines from three growers."""
    return _from_sklearn(sklearn_datasets.load_wine(), "grower")


def _diabetes() -> pl.DataFrame:
    """Patients, and the progression of their diabetes a year on; in the units they were measured in."""
    return _from_sklearn(sklearn_datasets.load_diabetes(scaled=False), "progression")


def _from_sklearn(table: Any, target: str) -> pl.DataFrame:
    frame = pl.DataFrame(table.data, schema=[name.replace(" ", "_") for name in table.feature_names])
    labels = [str(table.target_names[label]) for label in table.target] if "target_names" in table else table.target
    return frame.with_columns(pl.Series(target, labels))


_FIXED: dict[str, Callable[[], pl.DataFrame]] = {
    "auto-mpg": _auto_mpg,
    "breast-cancer": _breast_cancer,
    "diabetes": _diabetes,
    "penguins": _penguins,
    "survival": _survival,
    "three-sums": _three_sums,
    "wine": _wine,
    "yields": _yields,
}
