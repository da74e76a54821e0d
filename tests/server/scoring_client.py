"""Clients of MLflow, pandas and pyarrow, run in an environment of their own: what they got, as JSON on standard output.

python scoring_client.py PORT
"""

import json
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import requests
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


def main(port):
    client = ScoringServerClient("127.0.0.1", port)
    client.wait_server_ready(timeout=120)
    frame = pd.DataFrame(
        {
            "seen": pd.to_datetime(["2024-05-31T09:30:00", None, "1970-01-01T00:00:00"]),
            "width": [5.0, np.nan, 0.0],
            "length": np.array([2, 0, 3], np.int32),
            "color": pd.Categorical(["red", None, "a color that nobody saw"]),
            "wild": [True, False, True],
        }
    )
    got = {
        "frame": client.invoke(frame).get_predictions()[0].tolist(),
        "probabilities": client.invoke(frame, {"output": "probabilities"}).get_predictions("ndarray").tolist(),
        "array": client.invoke(np.array([[5.0, 2, "red", True, "2024-05-31"]], dtype=object))["predictions"],
        "refused": refused(client, frame.drop(columns="width")),
        "csv": invoke(port, frame.to_csv(index=False), {"content-type": "text/csv"}).json(),
        "bare csv": bare_csv(port, frame),
        "arrow": arrow(port, "/invocations", frame),
        "cut off": invoke(port, stream(frame)[:-30], ARROW).json()["code"],
    }
    sys.stdout.write(json.dumps(got))


def refused(client, frame):
    try:
        client.invoke(frame)
    except Exception as error:  # noqa: BLE001 - MLflow raises this very class
        return str(error)
    raise AssertionError


def invoke(port, body, headers, path="/invocations"):
    return requests.post(f"http://127.0.0.1:{port}{path}", data=body, headers=headers, timeout=120)


def bare_csv(port, frame):
    """As SageMaker's clients send and want it: no header, columns in the order of the features."""
    text = frame[["width", "length", "color", "wild", "seen"]].to_csv(index=False, header=False)
    return invoke(port, text, {"content-type": "text/csv", "accept": "text/csv"}).text.split()


def stream(frame):
    """A batch for each row."""
    table, sink = pa.Table.from_pandas(frame, preserve_index=False), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return sink.getvalue().to_pybytes()


def arrow(port, path, frame):
    answer = invoke(port, stream(frame), ARROW, path)
    assert answer.headers["content-type"] == ARROW["content-type"], answer.text
    table = pa.ipc.open_stream(answer.content).read_all()
    table.validate(full=True)
    return {name: table[name].to_pylist() for name in table.column_names}


if __name__ == "__main__":
    main(int(sys.argv[1]))
