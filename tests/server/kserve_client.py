"""What KServe's own client gets from a server, as JSON; it runs in an environment of its own, see test_oip_tools.py."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def talk(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    got = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model": await client.is_model_ready(url, "pair"),
    }
    rows = np.array([[1.5, -2.0], [float("nan"), 4.0]], np.float32)
    for name, is_binary in (("json", False), ("binary", True)):
        tensor = InferInput("features", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows if is_binary else np.nan_to_num(rows), binary_data=is_binary)
        answer = await client.infer(url, InferRequest("pair", [tensor], request_id=f"k-{name}"), model_name="pair")
        got[name] = [answer.id, answer.model_name, answer.outputs[0].as_numpy().tolist()]
    try:
        await client.infer(url, InferRequest("pair", [InferInput("depth", [1], "FP32", [1.0])]), model_name="pair")
    except Exception as error:  # noqa: BLE001 - what its users see
        got["refused"] = str(error)
    older = InferenceRESTClient(RESTConfig(protocol="v1"))
    got["v1"] = await older.infer(url, {"instances": [[3.0]]}, model_name="line")
    return got


json.dump(asyncio.run(talk(f"http://127.0.0.1:{sys.argv[1]}")), sys.stdout)
