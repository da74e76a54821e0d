"""What ONNX Runtime does by itself: one thread that runs the same matrix again and again, a process for each core.

`python -m benchmarks.serving.alone GRAPH MATRIX SECONDS` is one such process. What it does in a second is the most
that a server on as many cores could answer, if receiving and sending cost nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_WARM_UP_S = 0.5


def runs_alone(graph: Path, matrix: np.ndarray, seconds: float, processes: int) -> dict[str, float]:
    """How often all processes together ran the matrix in a second, and the median time of one run."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(file := Path(folder) / "matrix.npy", matrix)
        command = [sys.executable, "-m", "benchmarks.serving.alone", str(graph), str(file), str(seconds)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(processes)
        ]
        said = [json.loads(one.communicate()[0]) for one in running]
    return {
        "rps": round(sum(one["rps"] for one in said), 1),
        "p50_ms": round(statistics.mean(one["p50_ms"] for one in said), 3),
    }


def main() -> None:
    from benchmarks.serving.peers.session import open_session  # noqa: PLC0415 - nobody else needs a runtime

    os.environ["MODEL"], matrix, seconds = sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3])
    run = open_session()
    begin = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < begin:
        run(matrix)
    times = [time.perf_counter()]
    while times[-1] < begin + seconds:
        run(matrix)
        times.append(time.perf_counter())
    each = np.diff(times)
    print(json.dumps({"rps": len(each) / (times[-1] - times[0]), "p50_ms": float(np.median(each)) * 1e3}))


if __name__ == "__main__":
    main()
