"""A row that overflows is the client's mistake, is named, and costs nobody else anything."""

import io
import json

import numpy as np
import polars as pl
import pytest

from models.repository import Repository
from service.blame import blamed
from service.problems import ModelFailed, NotComputable
from tests.service import tiny
from tests.service.test_routes import outcomes, problem

LINE = "/v1/models/line:predict"


@pytest.fixture(autouse=True)
def overflowing(front):
    """Answers that are not finite for what is beyond 1e30, as a network's are."""

    def answer(name, matrix):
        right = tiny.answer(name, np.nan_to_num(np.clip(matrix, -1e30, 1e30)))
        output = "prediction" if tiny.CLASSES[name] is None else "probabilities"
        right[output][np.abs(np.nan_to_num(matrix)).max(axis=1) > 1e30] = np.nan
        return right

    front.coalescer.answer = answer


def arrow(values):
    stream = io.BytesIO()
    pl.DataFrame({"x": values}).write_ipc_stream(stream)
    return stream.getvalue()


def infer(rows, **more):
    return json.dumps(
        {"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(rows), 1], "data": rows}]} | more
    )


BINARY = b'{"inputs":[{"name":"features","datatype":"FP32","shape":[2,1],"parameters":{"binary_data_size":8}}]}'


@pytest.mark.parametrize("accept", ["application/json", "text/csv", "application/jsonlines", "arrow"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"instances": [[1], [-1e38]]}'),
        ("application/json", b'{"inputs": {"x": [1, -1e38]}}'),
        ("text/csv", b"1\n-1e38\n"),
        ("application/jsonlines", b"[1]\n[-1e38]"),
        ("application/vnd.apache.arrow.stream", arrow([1.0, -1e38])),
    ],
)
def test_a_value_that_overflows_is_named_in_every_form(client, content_type, body, accept):
    accept = "application/vnd.apache.arrow.stream" if accept == "arrow" else accept
    answer = client.post(LINE, content=body, headers={"content-type": content_type, "accept": accept})
    told = problem(answer, 422, "not_computable")
    assert (told["row"], told["feature"], told["got"]) == (1, "x", "-1e+38")
    assert told["error"] == (
        "row 1: line/2 computes no finite number; feature 'x' is -1e+38, in the training rows from -10 to 10"
    )
    assert outcomes(client)["line", "2", "not_computable"] == 1


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (infer([1.0, 3e38]), {}),
        (infer([1.0, 3e38], parameters={"binary_data_output": True}), {}),
        (BINARY + np.float32([1, 3e38]).tobytes(), {"inference-header-content-length": str(len(BINARY))}),
    ],
)
def test_it_is_named_in_the_open_inference_protocol(client, body, headers):
    told = problem(client.post("/v2/models/line/infer", content=body, headers=headers), 422, "not_computable")
    assert (told["row"], told["feature"]) == (1, "x")


def test_it_is_named_by_an_invocation_and_an_explanation(client, front, tmp_path):
    told = problem(
        client.post("/invocations", json={"dataframe_split": {"data": [[1], [1e38]]}}), 422, "not_computable"
    )
    assert told["row"] == 1
    tiny.publish(tmp_path, "line", background=[{"x": 0.0}])
    front.catalog.versions["explained"] = {1: Repository(tmp_path).open("line", 1)}
    asked = {"instances": [[1], [1e38]]}
    told = problem(client.post("/v1/models/explained:explain", json=asked), 422, "not_computable")
    assert told["row"] == 1
    del front.catalog.versions["explained"]


def test_the_feature_that_is_farthest_outside_is_named(versions):
    flowers = tiny.ROWS["flowers"]
    matrix = versions["flowers"].schema.encode([flowers, flowers | {"width": 1e4, "length": 1e20, "color": "no such"}])
    problem = blamed(ModelFailed("flowers/1", "it is NaN", 1), versions["flowers"], matrix)
    assert isinstance(problem, NotComputable)
    assert (problem.row, problem.feature, problem.got) == (1, "length", "1e+20")


def test_a_moment_far_off_is_named_as_a_day(versions):
    row = tiny.ROWS["flowers"] | {"seen": "9999-12-31"}
    seen = versions["flowers"].schema.features[4].model_copy(update={"quantiles": (0.0, 19000.0)})
    schema = versions["flowers"].schema.model_copy(
        update={"features": (*versions["flowers"].schema.features[:4], seen)}
    )
    manifest = versions["flowers"].manifest.model_copy(update={"input": schema})
    version = type(versions["flowers"])(versions["flowers"].folder, manifest)
    told = blamed(ModelFailed("flowers/1", "it is NaN", 0), version, schema.encode([row]))
    assert str(told).endswith("feature 'seen' is 9999-12-31, in the training rows from 1970-01-01 to 2022-01-08")


def test_a_row_like_those_of_the_training_is_the_models_failure(client, front, versions):
    failure = ModelFailed("line/2", "it is NaN", 0)
    for value in (10.0, -10.0, None):
        assert blamed(failure, versions["line"], versions["line"].schema.encode([[value]])) is failure
    whole = ModelFailed("line/2", "no worker computed it")
    assert blamed(whole, versions["line"], versions["line"].schema.encode([[1e38]])) is whole
    front.coalescer.answer = lambda *_: {"prediction": np.float32([[np.nan]])}
    problem(client.post(LINE, json={"instances": [[10]]}), 500, "model_failed")
