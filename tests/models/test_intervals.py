import numpy as np
import pytest
from pydantic import ValidationError

from models.intervals import Intervals, PredictionSets
from tests.models import sample

TWO_BINS = Intervals(
    rows=100, levels=(0.5, 0.9), edges=((10.0,),), low=(((-1.0, -2.0), (-3.0, -4.0)),), high=(((1.0, 2.0), (3.0, 5.0)),)
)


def test_a_prediction_takes_the_offsets_of_its_bin():
    lower, upper = TWO_BINS.bounds(np.array([[9.0], [10.0]], dtype=np.float32), 0.9)
    assert lower.tolist() == [[7.0], [6.0]]
    assert upper.tolist() == [[11.0], [15.0]]
    assert TWO_BINS.bounds(np.empty((0, 1)), 0.5)[0].shape == (0, 1)


def test_a_set_holds_what_reaches_the_threshold_and_always_the_likeliest():
    sets = PredictionSets(rows=10, levels=(0.9,), thresholds=(0.4,))
    probabilities = np.array([[0.5, 0.4, 0.1], [0.35, 0.33, 0.32]])
    assert sets.members(probabilities, 0.9).tolist() == [[True, True, False], [True, False, False]]
    assert sets.members(np.empty((0, 3)), 0.9).shape == (0, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"levels": (0.9, 0.5)},
        {"levels": (0.5,)},
        {"edges": ((10.0, 9.0),)},
        {"edges": ((10.0,), ())},
        {"low": (((-1.0, -2.0),),)},
        {"high": ((),)},
        {"coverage": (0.5,)},
        {"method": "guess"},
    ],
)
def test_constants_that_do_not_fit_each_other_are_refused(change):
    with pytest.raises(ValidationError):
        Intervals(**TWO_BINS.model_dump() | change)


def test_constants_of_another_task_are_refused():
    sets = PredictionSets(rows=10, levels=(0.9,), thresholds=(0.4,))
    with pytest.raises(ValidationError, match="prediction sets are of a classification"):
        sample.manifest(prediction_sets=sets)
    with pytest.raises(ValidationError, match="intervals are of a regression"):
        sample.manifest(task="binary", classes=("a", "b"), intervals=TWO_BINS)
    with pytest.raises(ValidationError, match="with bins for each target"):
        sample.manifest(targets=("a", "b"), intervals=TWO_BINS)
