"""mosec: WORKERS processes, batches of up to BATCH requests, of JSON or (BINARY=1) of float32.

With MANIFEST, rows are encoded by the schema of that version, by the code that Rowcast itself encodes with.
"""

import json
import os
from pathlib import Path

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


class Encoded(Json):
    def __init__(self) -> None:
        super().__init__()
        from models.schema import Schema  # noqa: PLC0415 - PYTHONPATH leads there where it is wanted

        self.schema = Schema.model_validate(json.loads(Path(os.environ["MANIFEST"]).read_text())["input"])

    def deserialize(self, data):
        return self.schema.encode(orjson.loads(data)["instances"])


class Binary(Net):
    resp_mime_type = "application/octet-stream"

    def deserialize(self, data):
        return matrix_in(data)

    def serialize(self, data):
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    net = Binary if os.environ.get("BINARY") else Encoded if os.environ.get("MANIFEST") else Json
    workers = int(os.environ["WORKERS"])
    server.register_runtime({"/predict": [Runtime(net, num=workers, max_batch_size=BATCH, max_wait_time=1)]})
    server.run()
