"""The committed example of format 1 must load for ever, with the same encoding and the same answers.

If a test here fails, the code is wrong and not the data: versions like these are in use.
"""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.proof import INPUT, prove
from models.repository import Repository

EXAMPLE = Path(__file__).parents[1] / "data/format-1"
VERSIONS = [("fruit", 1), ("house", 1), ("house", 2)]
NAN = float("nan")


@pytest.fixture
def repository():
    return Repository(EXAMPLE)


class Session:
    """ONNX Runtime, in a few lines."""

    def __init__(self, version):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.graph = ort.InferenceSession(version.read("model.onnx"), options, providers=["CPUExecutionProvider"])

    @property
    def signature(self):
        datatypes = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64"}
        nodes = [*self.graph.get_inputs(), *self.graph.get_outputs()]
        return {node.name: (datatypes[node.type], node.shape[1] if len(node.shape) > 1 else None) for node in nodes}

    def run(self, matrix):
        names = [output.name for output in self.graph.get_outputs()]
        return dict(zip(names, self.graph.run(names, {INPUT: matrix}), strict=True))


def test_the_example_holds_two_models_and_their_labels(repository):
    assert repository.names() == ["fruit", "house"]
    assert repository.versions("fruit") == [1]
    assert repository.versions("house") == [1, 2]
    assert repository.labels("house") == {"stable": 1, "canary": 2}
    assert repository.labels("fruit") == {}


@pytest.mark.parametrize(("name", "number"), VERSIONS)
def test_each_version_opens_and_its_proof_comes_out(repository, name, number):
    version = repository.open(name, number)
    prove(version.manifest, version.proof(), Session(version))


@pytest.mark.parametrize(("name", "number"), VERSIONS)
def test_each_graph_answers_any_number_of_rows(repository, name, number):
    version = repository.open(name, number)
    row = version.proof().rows[0]
    for rows in (0, 1, 1000):
        answers = Session(version).run(version.schema.encode([row] * rows))
        assert {len(values) for values in answers.values()} == {rows}


def test_a_row_is_encoded_as_it_was_when_the_example_was_made(repository):
    rows = [
        {"size": 80.1, "place": "Köln", "garden": True, "sold": "2024-05-31T23:30:15.25-02:30"},
        {"size": -3, "place": 3.0, "garden": 0, "sold": "1969-12-31"},
        {"size": None, "place": True, "garden": None, "sold": "2000-12-31 12:00Z"},
        {"size": 16777217, "place": "koln", "garden": False, "sold": None},
        {"size": 0, "place": None, "garden": 1.0, "sold": "1900-03-01"},
    ]
    right = [  # size, place, garden, then day, second, weekday, yearday
        [80.1, 0, 1, 19875, 7215.25, 5, 153],
        [-3, 2, 0, -1, 0, 2, 365],
        [NAN, 1, NAN, 11322, 43200, 6, 366],
        [16777217, 3, 0, NAN, NAN, NAN, NAN],
        [0, NAN, 1, -25508, 0, 3, 60],
    ]
    single, double = (repository.open("house", number).schema.encode(rows) for number in (1, 2))

    np.testing.assert_array_equal(double, np.array(right, dtype=np.float64), strict=True)
    np.testing.assert_array_equal(single, np.array(right, dtype=np.float32), strict=True)
    assert single[3, 0] == 16777216


def test_a_regression_of_round_weights_gives_answers_to_check_by_hand(repository):
    row = {"size": 100, "place": "Köln", "garden": True, "sold": "1970-01-02T00:00:03"}
    for number, right in ((1, [[315.0]]), (2, [[315.0, 100.0]])):  # 200 + 0 + 100, day 1, second 3, weekday 4, 2nd, 5
        version = repository.open("house", number)
        assert Session(version).run(version.schema.encode([row]))["prediction"].tolist() == right


def test_a_classification_of_round_weights_gives_answers_to_check_by_hand(repository):
    version = repository.open("fruit", 1)
    answers = Session(version).run(version.schema.encode([{"weight": np.log(2), "skin": "smooth"}]))
    np.testing.assert_allclose(answers["probabilities"], [[0.25, 0.5, 0.25]], rtol=1e-6)  # of 1 : 2 : 1
    assert version.manifest.classes[answers["label"][0]] == "pear"


def test_the_manifest_says_what_it_said_when_the_example_was_made(repository):
    manifest = repository.open("house", 1).manifest
    size, place, garden, sold = manifest.input.features
    assert (size.unit, size.quantiles, size.missing_share) == ("m²", (20.0, 80.5, 300.0), 0.25)
    assert (place.categories, place.shares) == (("Köln", "true", "3"), (0.5, 0.25, 0.25))
    assert (garden.true_share, sold.quantiles) == (0.5, (0.0, 19874.5))
    assert manifest.scores["test"].baselines == {"mean": {"rmse": 600.0, "r2": None}}
    assert manifest.provenance.plan == {
        "fit": {"epochs": 100, "rate": 1.0, "widths": [10, 10], "note": None},
        "target": "price",
    }


def test_the_next_publish_goes_on_where_the_example_ends(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "copy")
    repository = Repository(tmp_path / "copy")
    old = repository.open("house", 2)

    def again(draft):
        for path in old.manifest.files:
            (draft / path).parent.mkdir(exist_ok=True)
            (draft / path).write_bytes(old.read(path))
        return lambda number, files: old.manifest.model_copy(update={"version": number, "files": files})

    assert repository.publish("house", again) == 3
    assert repository.open("house", 3).manifest.scores == old.manifest.scores
