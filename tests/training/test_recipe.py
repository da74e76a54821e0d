from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.csv_file import BadTable
from models.proof import prove
from models.repository import Repository
from training import recipe
from training.network.encoders import Embedding
from training.plan import FEW_ROWS, BadPlan, Plan
from training.publishing.export import ONNX, OnnxSession
from training.publishing.publish import digest_weights
from training.recipe import Step

SHORT = {"epochs": 30, "members": 2, "batch": 32}


def plan_of(frame: pl.DataFrame, folder: Path, *target: str, **fields: dict) -> Plan:
    path = folder / "table.csv"
    frame.write_csv(path)
    fit = SHORT | fields.pop("fit", {})
    return Plan.of({"name": "m", "target": target, "table": {"path": str(path)}, "fit": fit, **fields}, "test")


def test_a_table_becomes_a_version_that_opens_and_proves_itself(mixed: pl.DataFrame, tmp_path: Path):
    heard: list[str | Step] = []
    plan = plan_of(mixed.drop("grade"), tmp_path, "price")
    repository = Repository(tmp_path / "published")
    fitted, number = recipe.run(plan, repository, heard.append)
    version = repository.open("m", number)
    manifest = version.manifest

    prove(manifest, version.proof(), OnnxSession(version.read(ONNX)))
    assert manifest.input.datatype == "FP64"  # for the column of stamps
    assert {feature.name: feature.kind for feature in manifest.input.features} == {
        "size": "number",
        "color": "category",
        "city": "category",
        "is_new": "boolean",
        "day": "datetime",
        "stamp": "number",
    }
    assert manifest.weights == digest_weights(fitted.net)
    assert manifest.provenance.plan["table"]["path"] == "table.csv"
    assert manifest.provenance.data_rows == 300
    assert (version.folder / "report" / "index.html").is_file()

    test = manifest.scores["test"]
    assert test.metrics["r2"] > 0.9 > test.baselines["mean"]["r2"]
    assert sum(scores.rows for scores in manifest.scores.values()) == 300
    steps = [event for event in heard if isinstance(event, Step)]
    assert {step.member for step in steps} == {1, 2}
    assert [len(history) for history in fitted.history] == [
        sum(step.member == member for step in steps) for member in (1, 2)
    ]


def test_the_published_graph_answers_raw_json_as_the_fitted_network_does(mixed: pl.DataFrame, tmp_path: Path):
    fitted, number = recipe.run(plan_of(mixed.drop("price"), tmp_path, "grade"), Repository(tmp_path / "published"))
    version = Repository(tmp_path / "published").open("m", number)
    assert version.manifest.classes == ("high", "low")
    assert version.manifest.calibration is not None
    row = {"size": None, "color": "never seen", "city": "city 3", "is_new": True, "day": "2024-02-29", "stamp": 1.7e12}
    matrix = version.schema.encode([row])
    got = OnnxSession(version.read(ONNX)).run(matrix)
    np.testing.assert_allclose(got["probabilities"], fitted.predict(matrix)["probabilities"], atol=1e-5)
    assert fitted.scores["test"].metrics["accuracy"] > 0.8


def test_the_same_plan_gives_the_same_weights(mixed: pl.DataFrame, tmp_path: Path):
    plan = plan_of(mixed, tmp_path, "grade", fit={"epochs": 3})
    first, second = (digest_weights(recipe.train(plan).net) for _ in range(2))
    assert first == second


def test_several_targets_are_predicted_at_once_in_their_own_units(tmp_path: Path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).round(3)
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "big": 1e6 + 1e5 * x[:, 0], "small": 1e-3 * (x[:, 0] - x[:, 1])})
    fitted = recipe.train(plan_of(frame, tmp_path, "big", "small"))
    assert fitted.data.task == "regression"
    test = fitted.parts["test"]
    prediction = fitted.predict(test.matrix)["prediction"]
    error = np.abs(prediction - test.y).mean(0) / test.y.std(0)
    assert (error < 0.1).all()


def test_a_line_is_within_reach_of_every_network(tmp_path: Path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 5)).round(3)
    y = x @ np.arange(1.0, 6) + rng.normal(0, 0.1, 150)
    frame = pl.DataFrame({f"x{number}": x[:, number] for number in range(5)} | {"y": y})
    fitted = recipe.train(plan_of(frame, tmp_path, "y", fit={"epochs": 1}))  # too short for anything but the line
    assert fitted.scores["test"].metrics["r2"] == pytest.approx(
        fitted.scores["test"].baselines["linear"]["r2"], abs=0.01
    )
    assert not fitted.chosen[-1].history


def test_a_sum_of_numbers_with_heavy_tails_is_within_reach(tmp_path: Path):
    """Smooth clipping would level the tails, of which such a sum is made."""
    x = np.exp(1.5 * np.random.default_rng(0).normal(size=(300, 3))).round(3)  # quartiles about 0.4 and 2.8, up to 60
    frame = pl.DataFrame({f"x{number}": x[:, number] for number in range(3)} | {"y": x @ [1.0, 2, 3]})
    fitted = recipe.train(plan_of(frame, tmp_path, "y", fit={"epochs": 1}))
    assert fitted.scores["test"].baselines["linear"]["r2"] > 0.999
    assert fitted.scores["test"].metrics["r2"] > 0.999


@pytest.mark.parametrize("rows", [1000, 3 * FEW_ROWS])
def test_networks_bend_a_line_that_goes_on_where_they_level_off(tmp_path: Path, rows):
    """What a number adds goes on in a line beyond the rows that were seen, and bends within them.

    Of many rows the line is known before the first fit, of few rows only after it.
    """
    rng = np.random.default_rng(0)
    x, z = np.exp(rng.normal(size=rows)).round(3), rng.uniform(-3, 3, rows).round(3)
    pl.DataFrame({"x": x, "z": z, "y": 5 * x + np.sin(2 * z)}).write_csv(tmp_path / "t.csv")
    plan = {"name": "m", "target": ["y"], "table": {"path": str(tmp_path / "t.csv")}, "fit": {"folds": 2, "epochs": 20}}
    fitted = recipe.train(Plan.of(plan, "test"))
    far = fitted.schema.encode([{"x": 60.0, "z": z} for z in (0.785, -0.785)])  # twice the largest x
    assert fitted.predict(far)["prediction"][:, 0] == pytest.approx([301, 299], abs=3)
    assert fitted.scores["test"].metrics["rmse"] < 0.2


def test_persons_of_three_or_four_rows_each_are_known_again(tmp_path: Path):
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(240), 4)
    y = (rng.normal(size=240)[persons] + 0.1 * rng.normal(size=960)).round(3)
    pl.DataFrame({"person": [f"p{k:03}" for k in persons], "y": y}).write_csv(tmp_path / "t.csv")
    plan = {"name": "m", "target": ["y"], "table": {"path": str(tmp_path / "t.csv")}, "fit": {"folds": 2, "epochs": 1}}
    assert recipe.train(Plan.of(plan, "test")).scores["test"].metrics["r2"] > 0.9


def test_a_network_answers_for_categories_that_its_fold_lacks_as_for_unknown_ones(tmp_path: Path):
    rng = np.random.default_rng(0)
    towns = [f"t{k:03}" for k in range(300) for _ in range(2)] + [f"u{k:02}" for k in range(60)]
    pl.DataFrame({"town": towns, "y": rng.normal(size=660).round(3)}).write_csv(tmp_path / "t.csv")
    plan = {"name": "m", "target": ["y"], "table": {"path": str(tmp_path / "t.csv")}, "fit": {"folds": 2, "epochs": 1}}
    for member in recipe.train(Plan.of(plan, "test")).members:
        (table,) = (layer.table for layer in member.net.children() if isinstance(layer, Embedding))
        *towns_of_it, unknown, _ = table
        assert unknown.abs().sum() > 0
        assert sum(bool((town == unknown).all()) for town in towns_of_it) > 20


def test_networks_without_preprocessing_read_the_numbers_as_they_are(tmp_path: Path):
    frame = pl.DataFrame({"x": np.linspace(-1, 1, 200), "y": np.linspace(-1, 1, 200) * 3})
    net = {"preprocessing": "none", "scale_targets": False, "hidden": (), "init": "normal"}
    fit = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "members": 1}
    fitted = recipe.train(plan_of(frame, tmp_path, "y", net=net, fit=fit))
    weights = dict(fitted.net.named_parameters())
    assert len(weights) == 2
    assert next(iter(weights.values())).item() == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(
    ("target", "loss"), [("price", "cross_entropy"), ("grade", "mse"), ("color", "binary_cross_entropy")]
)
def test_a_loss_that_measures_another_task_is_refused(mixed: pl.DataFrame, tmp_path: Path, target, loss):
    with pytest.raises(BadPlan, match=rf"fit.loss {loss} does not measure a "):
        recipe.train(plan_of(mixed, tmp_path, target, fit={"loss": loss}))


def test_nothing_is_published_where_training_fails(tmp_path: Path):
    frame = pl.DataFrame({"x": [1.0] * 20, "y": np.arange(20.0)})
    with pytest.raises(BadTable):
        recipe.run(plan_of(frame, tmp_path, "y"), Repository(tmp_path / "published"))
    assert Repository(tmp_path / "published").names() == []
