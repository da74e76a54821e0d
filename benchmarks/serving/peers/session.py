"""The graph that every peer runs, opened as Rowcast opens it: one thread, no spinning."""

import os

import numpy as np
import onnxruntime as ort


def open_session():
    """A function from float32 [N, F] to probabilities [N, C], or to whatever stands first among the graph's outputs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
    first = [session.get_outputs()[0].name]
    return lambda matrix: session.run(first, {"features": matrix})[0]


def matrix_of(rows) -> np.ndarray:
    """Rows of a JSON body as the graph reads them."""
    return np.array(rows, dtype=np.float32)


def matrix_in(raw: bytes) -> np.ndarray:
    """The float32 numbers of a binary body, two to a row."""
    return np.frombuffer(raw, dtype=np.float32).reshape(-1, 2)
