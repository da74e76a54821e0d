"""LitServe by its documented options: WORKERS a device, batches of up to BATCH, orjson in the answer, no access log."""

import os
from typing import Annotated

import litserve
import numpy as np
import orjson
from fastapi import Body, Response
from session import matrix_in, matrix_of, open_session


class Net(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002 - LitServe's
        self.run = open_session()

    def batch(self, inputs):
        self.ends = np.cumsum([len(matrix) for matrix in inputs])[:-1]
        return np.concatenate(inputs)

    def predict(self, matrix):
        return self.run(matrix)

    def unbatch(self, output):
        return np.split(output, self.ends)


class Json(Net):
    def decode_request(self, request):
        return matrix_of(request["instances"])

    def encode_response(self, output):
        text = orjson.dumps({"probabilities": np.ascontiguousarray(output)}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(text, media_type="application/json")


class Binary(Net):
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        return matrix_in(request)

    def encode_response(self, output):
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    net = Binary if os.environ.get("BINARY") else Json
    api = net(max_batch_size=int(os.environ["BATCH"]), batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]))
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=int(os.environ["APIS"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
