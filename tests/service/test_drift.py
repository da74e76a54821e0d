import time
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from models.features import BooleanFeature, CategoryFeature, DatetimeFeature, NumberFeature
from models.manifest import Predictions
from models.schema import Schema
from service.observing import drift
from service.observing.bins import MOST_FEATURES, Reference, bins_of_number, bins_of_shares
from service.observing.drift import Drift
from tests.models import sample
from tests.service.test_metrics import samples

RNG = np.random.default_rng(0)


TRAINED = RNG.normal(size=50_000)
QUANTILES = tuple(np.quantile(TRAINED, np.linspace(0, 1, 21)).tolist())
MANIFEST = sample.manifest(
    input=Schema(
        features=(
            NumberFeature(name="width", quantiles=QUANTILES, missing_share=0.1),
            DatetimeFeature(name="seen", quantiles=QUANTILES),
            CategoryFeature(name="color", categories=("red", "blue"), shares=(0.75, 0.25)),
            BooleanFeature(name="wild", true_share=0.5),
            NumberFeature(name="untold"),
        )
    ),
    predictions=Predictions(quantiles=(QUANTILES,)),
)


def version_of(manifest, number=1):
    return SimpleNamespace(name="house", number=number, manifest=manifest, key=f"house/{number}@{manifest.sha256}")


VERSION = version_of(MANIFEST)


def rows(count, *, width=0.0, unknown=0.0):
    """Rows as those of the training, but `width` further right, and a share of them of an unknown color."""
    matrix = np.zeros((count, 8), dtype=np.float32)
    matrix[:, 0] = np.where(RNG.random(count) < 0.1, np.nan, RNG.normal(size=count) + width)
    matrix[:, 5] = np.where(RNG.random(count) < unknown, 2, RNG.random(count) < 0.25)
    matrix[:, 6] = RNG.random(count) < 0.5
    return matrix


def ask(measured, matrix, answered=0.0, version=VERSION):
    """Have rows sampled, however many, in batches of 200."""
    for start in range(0, len(matrix), 200):
        part = matrix[start : start + 200]
        measured.sample(version, part, {"prediction": RNG.normal(size=(len(part), 1)) + answered})
        for sampled in measured._versions.values():
            sampled.may = drift.BURST_ROWS
    measured.fold()


def page(measured, *live):
    registry = CollectorRegistry()
    registry.register(measured.collector(live or [VERSION]))
    return {(name, dict(labels).get("feature") or dict(labels).get("target")): value
            for (name, *labels), value in samples(generate_latest(registry)).items()}  # fmt: skip


def test_rows_like_those_of_the_training_do_not_drift(tmp_path):
    measured = Drift(tmp_path, "api-0", 2000)
    ask(measured, rows(5000))
    said = page(measured)
    assert said.pop(("rowcast_drift_rows", None)) == pytest.approx(2000)
    assert set(said) == {("rowcast_feature_psi", name) for name in ("width", "color", "wild")} | {
        ("rowcast_prediction_psi", "price")
    }
    assert max(said.values()) < 0.03


def test_only_what_moved_drifts(tmp_path):
    measured = Drift(tmp_path, "api-0", 2000)
    ask(measured, rows(3000, width=1.0, unknown=0.1), answered=2.0)
    said = page(measured)
    assert said["rowcast_feature_psi", "width"] > 0.5
    assert said["rowcast_feature_psi", "color"] > 0.25
    assert said["rowcast_feature_psi", "wild"] < 0.03
    assert said["rowcast_prediction_psi", "price"] > 1


def test_what_was_long_ago_is_forgotten(tmp_path):
    measured = Drift(tmp_path, "api-0", 1000)
    for width, bound in ((2.0, (0.25, 99)), (0.0, (0, 0.1))):
        for _ in range(20):
            ask(measured, rows(500, width=width))
        assert bound[0] <= page(measured)["rowcast_feature_psi", "width"] <= bound[1]


def test_a_number_whose_values_repeat_does_not_drift_for_that():
    zeros = np.where(RNG.random(20_000) < 0.001, RNG.random(20_000), 0.0)
    counts = RNG.poisson(3.0, 20_000).astype(float)
    for values in (zeros, counts, np.full(100, 7.0)):
        quantiles = np.quantile(values, np.linspace(0, 1, 21)).tolist()
        bins = bins_of_number(quantiles, 0.0, np.float32)
        assert bins.psi(bins.count(values[:2000].astype(np.float32))) < 0.05
        assert bins.psi(bins.count((values[:2000] + 3).astype(np.float32))) > 0.25


def test_float32_rows_fall_on_the_same_side_of_an_edge_as_those_of_the_training():
    values = RNG.choice([0.1, 0.2, 0.3], 10_000)
    bins = bins_of_number(np.quantile(values, np.linspace(0, 1, 21)).tolist(), 0.0, np.float32)
    assert bins.psi(bins.count(values.astype(np.float32))) < 0.01


def test_categories_that_training_had_too_rarely_to_tell_apart_are_unknown_and_no_drift():
    bins = bins_of_shares((0.5, 0.3), 0.0)  # a fifth of the training rows had others
    as_in_training = bins.count(np.array([0.0] * 50 + [1.0] * 30 + [2.0] * 20))
    assert bins.psi(as_in_training) == pytest.approx(0, abs=1e-9)
    assert bins.psi(bins.count(np.array([0.0] * 20 + [1.0] * 10 + [2.0] * 70))) > 0.25


def test_missing_values_and_rare_categories_have_bins():
    bins = bins_of_shares((*([0.01] * 60), 0.4), 0.0)
    assert bins.size == 20 + 3
    counts = bins.count(np.array([60, 61, np.nan, 59, 59], dtype=np.float32))
    assert counts.sum() == 5
    assert counts[-3:].tolist() == [2, 1, 1]  # others, unknown, missing


def test_classes_are_measured_by_the_likeliest(tmp_path):
    manifest = sample.manifest(
        task="binary", classes=(False, True), input=MANIFEST.input, predictions=Predictions(shares=(0.9, 0.1))
    )
    version = version_of(manifest, 2)
    measured = Drift(tmp_path, "api-0", 2000)
    measured.sample(version, rows(400), {"label": np.arange(400) % 2})
    measured.fold()
    assert page(measured, version)["rowcast_prediction_psi", "price"] > 0.5


def test_processes_add_up_and_a_successor_goes_on(tmp_path):
    first, second = (Drift(tmp_path, slot, 2000) for slot in ("api-0", "api-1"))
    ask(first, rows(200))
    assert set(page(second)) == {("rowcast_drift_rows", None)}  # too few to say more
    ask(second, rows(150))
    assert page(first)["rowcast_drift_rows", None] == 350
    assert ("rowcast_feature_psi", "width") in page(first)
    ask(Drift(tmp_path, "api-0", 2000), rows(50))
    assert page(second)["rowcast_drift_rows", None] == 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drift-api-0.npz", "drift-api-1.npz"]


def test_it_keeps_few_rows_whatever_comes(tmp_path):
    measured = Drift(tmp_path, "api-0", 2000)
    start = time.monotonic()
    for _ in range(50):
        measured.sample(VERSION, rows(10_000), {"prediction": np.zeros((10_000, 1))})
    (sampled,) = measured._versions.values()
    kept = sum(len(matrix) for matrix, _ in sampled.rows)
    assert kept <= drift.BURST_ROWS + drift.ROWS_PER_S * (time.monotonic() - start) + 1
    wide = sample.manifest(input=Schema(features=tuple(
        NumberFeature(name=str(place), quantiles=QUANTILES) for place in range(300))))  # fmt: skip
    assert len(Reference(wide).features) == MOST_FEATURES


def test_versions_make_place_once_nobody_asks_them_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "MOST_VERSIONS", 2)
    measured = Drift(tmp_path, "api-0", 2000)
    versions = [version_of(MANIFEST.model_copy(update={"sha256": f"{number:064}"})) for number in range(4)]

    def ask_for(*numbers):
        for number in numbers:
            measured.sample(versions[number], rows(1), {"prediction": np.zeros((1, 1))})
        return set(measured._versions)

    first = ask_for(0, 1)
    assert len(first) == 2
    assert ask_for(2, 3, 0, 1) == first
    measured._versions[versions[0].key].asked -= 2 * drift._IN_USE_S
    measured._full_until = 0.0
    assert ask_for(2) == {versions[1].key, versions[2].key}


def test_a_window_of_nothing_turns_it_off(tmp_path):
    measured = Drift(tmp_path, "api-0", 0)
    ask(measured, rows(500))
    assert page(measured) == {}
    assert list(tmp_path.iterdir()) == []


def test_copies_are_kept(tmp_path):
    measured = Drift(tmp_path, "api-0", 2000)
    matrix = rows(1)
    measured.sample(VERSION, matrix, {"prediction": np.zeros((1, 1))})
    (sampled,) = measured._versions.values()
    matrix[:] = 99
    assert sampled.rows[0][0][0, 1] == 0
