"""`make bench-rows`: what a row costs, from a thousand rows to ten million, and how much memory its table takes.

One network (two layers of 64) and one minibatch (1024 rows) for all sizes, one pass over the training rows. Tables are
Parquet, 50 columns of numbers. Each is trained and published by the command, in a process of its own.

CPU time is given beside the clock's, because other processes hardly change it. A run is a constant (imports, export,
model card), what is done with a sample of at most 262,144 rows, and what is done with every row. `more` is the last of
these where both sizes are larger than a sample: the CPU time of this size less that of the one before, for each row
that it has more.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

COLUMNS = 50
_GROUP = 100_000
_TOGETHER = 1_000_000


def make_table(rows: int, folder: Path) -> Path:
    """A table whose target depends on a few of its columns; made a million rows at a time."""
    pieces = []
    for start in range(0, rows, _TOGETHER):
        rng = np.random.default_rng(start)
        x = rng.standard_normal((min(_TOGETHER, rows - start), COLUMNS - 1), dtype=np.float32)
        y = x[:, 0] + x[:, 1] * x[:, 2] + 0.1 * rng.standard_normal(len(x), dtype=np.float32)
        frame = pl.DataFrame(x, schema=[f"x{number}" for number in range(COLUMNS - 1)])
        pieces.append(folder / f"{rows}-{start}.parquet")
        frame.with_columns(y=pl.Series(y)).write_parquet(pieces[-1], row_group_size=_GROUP)
    whole = folder / f"{rows}.parquet"
    pl.scan_parquet(pieces).sink_parquet(whole, row_group_size=_GROUP)
    for piece in pieces:
        piece.unlink()
    return whole


def train(path: Path, folder: Path) -> tuple[float, float, float, int]:
    """Seconds of the whole command, those of CPU, training rows fitted in a second, and the most memory in MB."""
    plan = folder / "plan.toml"
    plan.write_text(
        f'name = "rows"\ntarget = ["y"]\n[table]\npath = "{path}"\n[net]\nhidden = [64, 64]\n'
        f"[fit]\nbatch = 1024\nepochs = 1\nmembers = 1\nlinear = false\n"
    )
    words = [sys.executable, "-m", "training", str(plan), "--repository", str(folder / "published")]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"training failed with {process.returncode}")
    rates = [float(rate.replace(",", "")) for rate in re.findall(r"([\d,]+) rows/s", said)]
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, rates[-1], usage.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=10_000_000, help="rows of the largest table")
    parser.add_argument("--least", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where tables are made; 4 GB for ten million rows")
    asked = parser.parse_args()
    heads = ("rows", "clock, s", "CPU, s", "us/row", "more, us/row", "fit, us/row", "peak MB")
    print(" ".join(f"{head:>12}" for head in heads))
    before: tuple[int, float] | None = None
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        rows = asked.least
        while rows <= asked.most:
            path = make_table(rows, Path(name))
            seconds, cpu, rate, memory = train(path, Path(name))
            more = "" if before is None else f"{(cpu - before[1]) / (rows - before[0]) * 1e6:.2f}"
            cells = (f"{rows:,}", f"{seconds:.1f}", f"{cpu:.1f}", f"{cpu / rows * 1e6:.2f}", more, f"{1e6 / rate:.2f}")
            print(" ".join(f"{cell:>12}" for cell in (*cells, f"{memory:,}")), flush=True)
            before = rows, cpu
            path.unlink()
            rows *= 10


if __name__ == "__main__":
    main()
