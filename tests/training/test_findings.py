"""Importances, explanations, and what the report and the manifest make of them."""

import numpy as np
import polars as pl
import pytest

from models.features import NumberFeature
from models.repository import Repository
from models.schema import Schema
from models.shapley import FILE, Background
from training import recipe
from training.judging.explain import explain_rows
from training.judging.importance import measure_importances
from training.plan import Plan

THREE = Schema(features=tuple(NumberFeature(name=name) for name in ("a", "b", "c")), datatype="FP64")


def additive(matrix):
    """3 a + b^2, and nothing of c."""
    return {"prediction": (3 * matrix[:, :1] + matrix[:, 1:2] ** 2)}


def two_classes(matrix):
    p = 1 / (1 + np.exp(-4 * matrix[:, 0]))
    probabilities = np.stack([1 - p, p], axis=1)
    return {"probabilities": probabilities, "label": probabilities.argmax(1)}


def test_importance_is_what_the_answers_lose_without_the_feature():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4000, 3))
    y = additive(matrix)["prediction"] + rng.normal(0, 0.5, (4000, 1))
    a, b, c = measure_importances("regression", THREE, additive, matrix, y)
    assert [a.feature, b.feature, c.feature] == ["a", "b", "c"]
    shares = {"a": (3 * matrix[:, 0]).var() / y.var(), "b": (matrix[:, 1] ** 2).var() / y.var()}
    assert a.low < 2 * shares["a"] < a.high  # shuffled, a term's variance is lost twice
    assert b.low < 2 * shares["b"] < b.high
    assert (c.low, c.value, c.high) == (0, 0, 0)
    assert a.high - a.low < 0.2


def test_importance_of_a_classification_is_in_nats():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3000, 3))
    y = (rng.random(3000) < two_classes(matrix)["probabilities"][:, 1]).astype(np.int64)
    first, second, _ = measure_importances("binary", THREE, two_classes, matrix, y)
    assert first.feature == "a"
    assert first.low > 1
    assert second.value == pytest.approx(0, abs=1e-12)


def test_the_interval_of_an_importance_narrows_with_the_rows():
    rng = np.random.default_rng(0)
    widths = []
    for rows in (30, 3000):
        matrix = rng.normal(size=(rows, 3))
        y = additive(matrix)["prediction"] + rng.normal(0, 0.5, (rows, 1))
        first = measure_importances("regression", THREE, additive, matrix, y)[0]
        widths.append(first.high - first.low)
    assert widths[0] > 4 * widths[1]


def test_explanations_of_an_additive_network_are_its_terms():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(100, 3))
    background = Background(rows=[dict(zip("abc", row, strict=True)) for row in rng.normal(size=(8, 3)).tolist()])
    base = THREE.encode(background.rows)
    lowest, middle, highest = explain_rows(THREE, additive, matrix, background)
    assert lowest.answer < middle.answer < highest.answer
    for one in (lowest, middle, highest):
        row = matrix[one.row]
        terms = [3 * (row[0] - base[:, 0].mean()), row[1] ** 2 - (base[:, 1] ** 2).mean(), 0]
        np.testing.assert_allclose(one.explanation.values[:, 0], terms, atol=1e-9)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    folder = tmp_path_factory.mktemp("findings")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 3))
    frame = pl.DataFrame({name: x[:, number] for number, name in enumerate("abc")}).with_columns(
        price=pl.Series(3 * x[:, 0] + x[:, 1] ** 2 + rng.normal(0, 0.3, 800)),
        side=pl.Series(np.where(x[:, 0] + rng.normal(0, 0.5, 800) > 0, "<up>", "down")),
    )
    where = Repository(folder / "published")
    for target, dropped in (("price", "side"), ("side", "price")):
        path = folder / f"{target}.csv"
        frame.drop(dropped).write_csv(path)
        fit = {"epochs": 20, "members": 1}
        plan = Plan.of({"name": target, "target": [target], "table": {"path": str(path)}, "fit": fit}, "test")
        recipe.run(plan, where)
    return where


@pytest.mark.parametrize("name", ["price", "side"])
def test_a_version_says_how_sure_it_is_and_what_it_rests_on(repository: Repository, name):
    version = repository.open(name, 1)
    manifest = version.manifest
    assert (manifest.intervals is None) == (name == "side")
    assert (manifest.prediction_sets is None) == (name == "price")
    assert manifest.importances[0].feature == "a"
    assert manifest.importances[0].low > 0
    background = Background.from_json(version.read(FILE), str(version))
    assert len(background.rows) == 32
    assert version.schema.encode(background.rows).shape == (32, 3)


@pytest.mark.parametrize("name", ["price", "side"])
def test_the_model_card_shows_it(repository: Repository, name):
    folder = repository.open(name, 1).folder / "report"
    page = (folder / "index.html").read_text()
    assert '<figcaption id="importance">' in page
    for said in ("<h2>How sure</h2>", "measured on test", "<h2>Why</h2>", ">adds<"):
        assert said in page
    assert "<up>" not in page
    if name == "side":
        assert "the probability of &lt;up&gt;" in page
