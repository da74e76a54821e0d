"""`make bench-train`: how long a fit takes, beside the loops and libraries that fit the same network.

Each method fits in a process of its own on one thread, all of them in turn, several rounds. What is printed is CPU
time, which other work on the machine moves least, the median over the rounds; in brackets our multiple of each, the
median of the multiples within a round. The losses at the end show that the same thing was done. With `--device cuda` it
is the clock's time of the loops that run on a GPU, ours with one network and with eight in one loop.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.environments import make_environment

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "fitting"
PACKAGES = ["torch==2.13.0", "scikit-learn==1.9.1", "skorch==1.4.0", "pytabkit==1.7.3"]
OWN = ("ours", "products")
METHODS = ("ours", "tutorial", "indexed", "scikit-learn", "skorch", "pytabkit", "products")
ON_GPU = ("ours", "ours, eight", "tutorial", "indexed", "products")


def cases():
    """Name -> rows, network, epochs and minibatch."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (10_000, 1)).astype(np.float32)
    yield "square", {"x": x, "y": x**2, "hidden": [100], "outputs": 1, "epochs": 100, "batch": 1000}
    x = rng.uniform(-1, 1, (10_000, 2)).astype(np.float32)
    r = np.square(x).sum(1)
    y = np.select([r >= 1, r < 0.25], [1, 2], 0)
    yield "rings", {"x": x, "y": y, "hidden": [100, 100], "outputs": 3, "epochs": 100, "batch": 1000}
    x = rng.normal(size=(20_000, 30)).astype(np.float32)
    y = np.sin(x[:, :5]).sum(1, keepdims=True) + x[:, 5:6] * x[:, 6:7] + 0.1 * rng.normal(size=(20_000, 1))
    y = (y / y.std()).astype(np.float32)
    yield "20,000 x 30", {"x": x, "y": y, "hidden": [100, 100], "outputs": 1, "epochs": 20, "batch": 250}


def measure(python: Path, method: str, path: Path, device: str) -> dict[str, float | None]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [python, "-W", "ignore", Path(__file__).with_name("measure.py"), method, path, device]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    figures: dict[str, float | None] = json.loads(out.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="a Python that has the peers, instead of one made under build/")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    is_gpu = options.device == "cuda"
    methods, kind = (ON_GPU, "wall_s") if is_gpu else (METHODS, "cpu_s")
    peers = Path(sys.executable) if is_gpu else options.peers or make_environment(BUILD / "environment", PACKAGES)
    what = "Seconds" if is_gpu else "CPU seconds"
    table = Table("method", title=f"{what} of one fit (our multiple), and the loss it ends with")
    cells: dict[str, list[str]] = {method: [] for method in methods}
    for name, case in cases():
        table.add_column(name, justify="right")
        np.savez(path := BUILD / f"{name.replace(' ', '')}.npz", **case)
        seen = defaultdict(list)
        for _ in range(options.rounds):
            for method in methods:
                python = Path(sys.executable) if method in OWN else peers
                seen[method].append(measure(python, method, path, options.device))
        for method in methods:
            seconds = [figures[kind] for figures in seen[method]]
            ratio = statistics.median(one / figures[kind] for one, figures in zip(seconds, seen["ours"], strict=True))
            loss = seen[method][-1]["loss"]
            ending = "" if loss is None else f"  {loss:.2g}"
            cells[method].append(f"{statistics.median(seconds):.2f} ({ratio:.1f}){ending}")
    for method, row in cells.items():
        table.add_row(method, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
