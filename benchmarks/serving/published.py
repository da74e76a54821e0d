"""What is served: published once under build/bench by the product's own ways, and kept for the next run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.environments import make_environment
from benchmarks.serving import mixed
from benchmarks.serving.alone import runs_alone
from benchmarks.serving.graphs import graph, publish

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "bench"
SERVED = BUILD / "published"
BESIDE = BUILD / "beside"
WIDE = BUILD / "wide"

SLOW_S = 0.05
MODELS = (1, 10, 100, 1000)
FEATURES = (2, 10, 50, 100, 200, 500)

PACKAGES = {
    "mosec": ["mosec==0.9.8", "onnxruntime==1.31.1", "numpy", "orjson", "pydantic==2.14.3"],
    "litserve": ["litserve==0.2.19", "onnxruntime==1.31.1", "numpy", "orjson", "uvloop", "httptools"],
}


def graph_of(model: str, repository: Path = SERVED) -> Path:
    return repository / model / "1" / "model.onnx"


def manifest_of(model: str) -> Path:
    return SERVED / model / "1" / "manifest.json"


def environments() -> None:
    """The peers' own."""
    for name, packages in PACKAGES.items():
        make_environment(BUILD / name, packages)


def trained() -> None:
    """The small network behind every server, and the one of mixed columns."""
    for name in ("bench", "mixed"):
        if not graph_of(name).exists():
            plan = HERE / "bench.toml" if name == "bench" else mixed.write_plan(BUILD)
            environment = os.environ | {"ROWCAST_REPOSITORY": str(SERVED)}
            subprocess.run([sys.executable, "-m", "training", plan], check=True, cwd=ROOT, env=environment)


def slow() -> None:
    """A model that takes 50 ms for a batch of any size, alone on this machine, beside the small one."""
    if not graph_of("slow", BESIDE).exists():
        publish(BESIDE, "slow", features=2, hidden=16, products=_products_in(SLOW_S))
    _link(BESIDE, SERVED / "bench")


def _products_in(seconds: float) -> int:
    """How many multiplications of matrices take so long."""
    tried = 20
    (BUILD / "tried.onnx").write_bytes(graph(2, 16, tried))
    row = np.zeros((1, 2), np.float32)
    took = min(runs_alone(BUILD / "tried.onnx", row, 1, processes=1)["p50_ms"] for _ in range(3)) / 1e3
    return max(1, round(tried * seconds / took))


def many() -> None:
    """Repositories of one to a thousand models; the smaller ones link to models of the largest."""
    largest = many_of(MODELS[-1])
    for place in range(MODELS[-1]):
        if not graph_of(tiny(place), largest).exists():
            publish(largest, tiny(place), features=2, hidden=16)
    for models in MODELS[:-1]:
        for place in range(models):
            _link(many_of(models), largest / tiny(place))


def wide() -> None:
    """Models of two to five hundred features."""
    for features in FEATURES:
        if not graph_of(f"wide-{features}", WIDE).exists():
            publish(WIDE, f"wide-{features}", features, hidden=100)


def many_of(models: int) -> Path:
    return BUILD / f"models-{models}"


def tiny(place: int) -> str:
    return f"tiny-{place}"


def _link(repository: Path, model: Path) -> None:
    repository.mkdir(exist_ok=True)
    if not (repository / model.name).exists():
        (repository / model.name).symlink_to(model)


def update_results(part: str, seen: object) -> None:
    """Put what a part has measured among the results."""
    results = read_results() | {part: seen}
    (BUILD / "results.json").write_text(json.dumps(results, indent=1))


def read_results() -> dict[str, object]:
    """What was measured last, by part."""
    file = BUILD / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    return results if isinstance(results, dict) else {}  # a list: as an earlier release wrote it
