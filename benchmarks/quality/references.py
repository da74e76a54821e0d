"""A reference trainer on one table: python references.py METHOD TABLE.parquet TASK SEED ANSWERS.npy.

It is fitted on the training and validation rows and answers the test rows: predictions, or probabilities of the classes
in the order of their names. The seconds of the fit alone are printed.
"""

import importlib
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

THREADS = int(os.environ["OMP_NUM_THREADS"])


@dataclass(frozen=True)
class Rows:
    """A table, its targets (class codes of a classification), and the numbers of the rows of two parts."""

    x: pd.DataFrame
    y: np.ndarray
    is_regression: bool
    train: np.ndarray
    validation: np.ndarray
    seed: int


def filled(x, train):
    """Without holes, for those who cannot have any: the median and an indicator, or a category of its own."""
    columns = {}
    for name in x:
        if isinstance(x[name].dtype, pd.CategoricalDtype):
            columns[name] = x[name].cat.add_categories("(missing)").fillna("(missing)")
            continue
        middle = x[name].iloc[train].median()
        columns[name] = x[name].fillna(0.0 if np.isnan(middle) else middle)
        if x[name].iloc[train].isna().any():
            columns[f"{name} is missing"] = x[name].isna().astype("float64")
    return pd.DataFrame(columns)


def categories_of(x):
    return [name for name in x if isinstance(x[name].dtype, pd.CategoricalDtype)]


def encoder_of(x):
    compose, prepare = (importlib.import_module(f"sklearn.{name}") for name in ("compose", "preprocessing"))
    one_hot = prepare.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return compose.make_column_transformer((one_hot, categories_of(x)), remainder=prepare.StandardScaler())


def linear(rows):
    """Ridge with its penalty chosen by cross-validation, or logistic regression; on the training rows."""
    models = importlib.import_module("sklearn.linear_model")
    x = filled(rows.x, rows.train)
    ridge, logistic = models.RidgeCV(np.logspace(-3, 3, 13)), models.LogisticRegression(max_iter=1000)
    model = ridge if rows.is_regression else logistic
    pipeline = importlib.import_module("sklearn.pipeline").make_pipeline(encoder_of(x), model)
    return pipeline.fit(x.iloc[rows.train], rows.y[rows.train]), x


def scikit_learn(rows):
    """Its MLP as it comes, with early stopping on as large a share of the same rows as the others have."""
    neural, prepare = (importlib.import_module(f"sklearn.{name}") for name in ("neural_network", "preprocessing"))
    x, both = filled(rows.x, rows.train), np.concatenate([rows.train, rows.validation])
    options = {"early_stopping": True, "validation_fraction": 0.25, "random_state": rows.seed}
    if rows.is_regression:
        scaled = importlib.import_module("sklearn.compose").TransformedTargetRegressor
        net = scaled(neural.MLPRegressor(**options), transformer=prepare.StandardScaler())
    else:
        net = neural.MLPClassifier(**options)
    pipeline = importlib.import_module("sklearn.pipeline").make_pipeline(encoder_of(x), net)
    return pipeline.fit(x.iloc[both], rows.y[both]), x


def lightgbm(rows):
    library = importlib.import_module("lightgbm")
    x = rows.x.set_axis([f"c{number}" for number in range(rows.x.shape[1])], axis=1)
    kind = library.LGBMRegressor if rows.is_regression else library.LGBMClassifier
    model = kind(n_estimators=2000, n_jobs=THREADS, random_state=rows.seed, verbose=-1)
    stop = library.early_stopping(50, verbose=False)
    judged = [(x.iloc[rows.validation], rows.y[rows.validation])]
    return model.fit(x.iloc[rows.train], rows.y[rows.train], eval_set=judged, callbacks=[stop]), x


def catboost(rows):
    library = importlib.import_module("catboost")
    names = categories_of(rows.x)
    texts = {name: rows.x[name].cat.add_categories("(missing)").fillna("(missing)").astype(str) for name in names}
    x = rows.x.assign(**texts)
    options = {"thread_count": THREADS, "random_seed": rows.seed, "verbose": False, "allow_writing_files": False}
    kind = library.CatBoostRegressor if rows.is_regression else library.CatBoostClassifier
    model = kind(cat_features=names, early_stopping_rounds=50, **options)
    judged = (x.iloc[rows.validation], rows.y[rows.validation])
    return model.fit(x.iloc[rows.train], rows.y[rows.train], eval_set=judged), x


def realmlp(rows):
    """RealMLP-TD with its defaults, one network."""
    library = importlib.import_module("pytabkit")
    x = filled(rows.x, rows.train)
    kind = library.RealMLP_TD_Regressor if rows.is_regression else library.RealMLP_TD_Classifier
    model = kind(n_cv=1, n_refit=0, device="cpu", random_state=rows.seed, n_threads=THREADS, verbosity=0)
    parts = [part for own in (rows.train, rows.validation) for part in (x.iloc[own], rows.y[own])]
    model.fit(*parts, cat_col_names=categories_of(x))
    return model, x


METHODS = {
    "linear": linear,
    "scikit-learn": scikit_learn,
    "lightgbm": lightgbm,
    "catboost": catboost,
    "realmlp": realmlp,
}


def main(method, table, task, seed, answers):
    frame = pd.read_parquet(table)
    part, target = frame.pop("part"), frame.pop("target")
    is_regression = task == "regression"
    y = target.to_numpy() if is_regression else target.astype("category").cat.codes.to_numpy().astype("int64")
    x = frame.apply(lambda column: column if pd.api.types.is_numeric_dtype(column) else column.astype("category"))
    train, validation, test = (np.flatnonzero(part == name) for name in ("train", "validation", "test"))
    wall, cpu = time.perf_counter(), time.process_time()
    model, x = METHODS[method](Rows(x, y, is_regression, train, validation, seed))
    print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}))
    answer = model.predict if is_regression else model.predict_proba
    np.save(answers, np.asarray(answer(x.iloc[test]), dtype=np.float64))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
