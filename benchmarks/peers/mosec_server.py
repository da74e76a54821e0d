"""mosec: WORKERS processes, batches of up to BATCH requests, of JSON or (BINARY=1) of float32."""

import os

import numpy as np
import orjson
from mosec import Runtime, Server, Worker
from session import matrix_in, matrix_of, open_session

BATCH = int(os.environ["BATCH"])


class Net(Worker):
    def __init__(self) -> None:
        self.run = open_session()

    def forward(self, data):
        if BATCH == 1:  # then mosec hands over the one item itself
            return self.run(data)
        ends = np.cumsum([len(matrix) for matrix in data])[:-1]
        return np.split(self.run(np.concatenate(data)), ends)


class Json(Net):
    def deserialize(self, data):
        return matrix_of(orjson.loads(data)["instances"])

    def serialize(self, data):
        return orjson.dumps({"probabilities": np.ascontiguousarray(data)}, option=orjson.OPT_SERIALIZE_NUMPY)


class Binary(Net):
    resp_mime_type = "application/octet-stream"

    def deserialize(self, data):
        return matrix_in(data)

    def serialize(self, data):
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    net = Binary if os.environ.get("BINARY") else Json
    workers = int(os.environ["WORKERS"])
    server.register_runtime({"/predict": [Runtime(net, num=workers, max_batch_size=BATCH, max_wait_time=1)]})
    server.run()
