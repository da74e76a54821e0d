"""Unmodified clients of the Open Inference Protocol, against a real server of two API processes."""

import asyncio
import math

import httpx
import numpy as np
import open_inference.openapi.client as oio
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from open_inference.openapi.errors import BadRequestError
from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput, TensorData
from tritonclient.utils import InferenceServerException

from tests.server.conftest import START_S, serving, until
from tests.service import tiny

pytestmark = pytest.mark.server

PAIR = np.float32([[5, 2], [1, math.nan], [-0.0, 1e-40]])
PAIR_ANSWER = tiny.answer("pair", PAIR)["prediction"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    yield from serving(
        tmp_path_factory.mktemp("oip"), "line", "pair", "flowers", "line", api_processes=2, max_rows=1000
    )


@pytest.fixture
def url(server):
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def client(url):
    with triton.InferenceServerClient(url) as client:
        yield client


def tensor(name, values, datatype, *, binary=True):
    one = triton.InferInput(name, list(values.shape), datatype)
    one.set_data_from_numpy(values, binary_data=binary)
    return one


def pair_by_feature(*, binary=True):
    return [tensor(name, PAIR[:, [at]], "FP32", binary=binary) for at, name in enumerate("ab")]


def flowers(*, binary):
    texts = np.array([["red"], ["green"]], dtype=np.object_)
    days = np.array([["2024-05-31"], ["1970-01-01T10:00:00+02:00"]], dtype=np.object_)
    return [
        tensor("width", np.float64([[5], [0]]), "FP64", binary=binary),
        tensor("length", np.int32([[2], [0]]), "INT32", binary=binary),
        tensor("color", texts, "BYTES", binary=binary),
        tensor("wild", np.array([[True], [False]]), "BOOL", binary=binary),
        tensor("seen", days, "BYTES", binary=binary),
    ]


# --------------------------------------------------------------------------------------------------- tritonclient


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("asks_binary", [True, False])
@pytest.mark.parametrize("answers_binary", [True, False, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_gets_the_right_bits_in_every_form(client, packed, asks_binary, answers_binary, compression):
    inputs = [tensor("features", PAIR, "FP32", binary=asks_binary)] if packed else pair_by_feature(binary=asks_binary)
    outputs = None
    if answers_binary is not None:
        outputs = [triton.InferRequestedOutput("prediction", binary_data=answers_binary)]
    result = client.infer(
        "pair",
        inputs,
        outputs=outputs,
        request_id="order 7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
        timeout=100_000_000,
    )
    assert result.as_numpy("prediction").tobytes() == PAIR_ANSWER.tobytes()
    about = result.get_response()
    assert (about["model_name"], about["model_version"], about["id"]) == ("pair", "1", "order 7")


@pytest.mark.parametrize("binary", [True, False])
def test_triton_asks_a_model_of_mixed_columns(client, binary):
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("class", "label", "probabilities")]
    result = client.infer("flowers", flowers(binary=binary), outputs=outputs)
    names = result.as_numpy("class")
    assert names.tolist() == ([b"rose", b"daisy"] if binary else ["rose", "daisy"])
    assert result.as_numpy("label").tolist() == [0, 2]
    assert [one["name"] for one in result.get_response()["outputs"]] == ["class", "label", "probabilities"]
    np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), [1, 1], rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_asks_for_a_classification(client, binary):
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    top = client.infer("flowers", flowers(binary=binary), outputs=outputs).as_numpy("probabilities")
    assert top.shape == (2, 2)
    texts = [text.decode() if binary else text for text in top[:, 0]]
    assert [text.split(":")[1:] for text in texts] == [["0", "rose"], ["2", "daisy"]]


def test_triton_gets_no_rows_for_no_rows(client):
    for binary in (True, False):
        answer = client.infer("pair", [tensor("features", PAIR[:0], "FP32", binary=binary)])
        assert answer.as_numpy("prediction").shape == (0, 2)


def test_triton_names_a_version(client):
    one = tensor("x", np.float32([[3]]), "FP32")
    for version in ("1", "2"):
        assert client.infer("line", [one], model_version=version).get_response()["model_version"] == version
        assert client.is_model_ready("line", version)


def test_triton_reads_every_page(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("line")
    assert not client.is_model_ready("nope")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert [one["name"] for one in client.get_model_metadata("flowers")["inputs"]] == list(tiny.ROWS["flowers"])
    assert client.get_model_config("pair")["max_batch_size"] == 1000
    index = client.get_model_repository_index()
    assert {(one["name"], one["version"], one["state"]) for one in index} >= {("pair", "1", "READY")}


def test_triton_is_told_what_was_wrong(client):
    one, turned = tensor("x", np.float32([[3]]), "FP32"), tensor("features", PAIR.T, "FP32")
    for status, sentence, ask in [
        ("404", "did you mean 'line'?", lambda: client.infer("lin", [one])),
        ("404", "no live version 9", lambda: client.infer("line", [one], model_version="9")),
        ("400", "unexpected inference input 'x' for model 'pair'", lambda: client.infer("pair", [one])),
        ("400", "expected 2 inputs but got 1", lambda: client.infer("pair", pair_by_feature()[:1])),
        (
            "400",
            "unexpected shape for input 'features'",
            lambda: client.infer("pair", [turned]),
        ),
        ("413", "at most 1000 rows", lambda: client.infer("line", [tensor("x", np.zeros(1001, "f4"), "FP32")])),
        ("403", "publish a version", lambda: client.load_model("line")),
        ("403", "publish a version", lambda: client.unload_model("line")),
        ("404", "nothing is at", client.get_system_shared_memory_status),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == status
        assert sentence in caught.value.message()


def test_triton_s_statistics_add_up_over_the_processes(url):
    def did(client):
        (stats,) = client.get_inference_statistics("line", "1")["model_stats"]
        of = stats["inference_stats"]
        return np.array([stats["inference_count"], of["success"]["count"], of["fail"]["count"]]), of["success"]["ns"]

    for _ in range(4):  # a connection stays with one process, another may go to the other
        with triton.InferenceServerClient(url) as client:
            before, ns = did(client)
            for _ in range(5):
                client.infer("line", [tensor("x", np.float32([[1], [2]]), "FP32")], model_version="1")
            with pytest.raises(InferenceServerException):
                client.infer("line", pair_by_feature(), model_version="1")
        with triton.InferenceServerClient(url) as client:
            until(lambda before=before, client=client: (did(client)[0] - before).tolist() == [10, 5, 1])
            assert did(client)[1] >= ns


def test_triton_s_async_client_asks_many_at_once(url):
    async def ask():
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(
                *(client.infer("line", [tensor("x", np.float32([[x]]), "FP32")], request_id=str(x)) for x in range(50))
            )
            with pytest.raises(InferenceServerException, match="did you mean 'line'"):
                await client.infer("lin", [tensor("x", np.float32([[1]]), "FP32")])
            return results

    for x, result in enumerate(asyncio.run(ask())):
        assert (result.get_response()["id"], result.as_numpy("prediction").tolist()) == (str(x), [[2 * x + 1]])


# ------------------------------------------------------------------------------------------ open-inference-openapi


def test_the_protocol_s_own_client_is_answered(url):
    with httpx.Client(timeout=START_S) as over:
        client = oio.OpenInferenceClient(base_url=f"http://{url}", httpx_client=over)
        client.check_server_liveness()
        client.check_server_readiness()
        client.check_model_readiness("pair")
        client.check_model_version_readiness("line", "2")
        assert client.read_server_metadata().name == "rowcast"
        assert client.read_model_metadata("pair").inputs[0].name == "features"
        assert client.read_model_version_metadata("line", "1").versions == ["1", "2"]
        asked = InferenceRequest(
            id="7",
            inputs=[RequestInput(name="features", shape=[1, 2], datatype="INT32", data=TensorData.parse_obj([5, 2]))],
            outputs=[RequestOutput(name="prediction")],
        )
        answer = client.model_infer("pair", request=asked)
        assert (answer.id, answer.outputs[0].data.__root__) == ("7", [7, 3])
        assert client.model_version_infer("pair", "1", request=asked).model_version == "1"
        with pytest.raises(BadRequestError, match="input 'features' must be the only one"):
            client.model_infer("flowers", request=InferenceRequest(inputs=[asked.inputs[0]] * 2))
