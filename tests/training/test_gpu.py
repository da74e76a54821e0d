"""What a GPU does differently: captured graphs, many networks in one loop, TF32. Skipped where there is none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from models.proof import prove
from models.repository import Repository
from training import recipe
from training.data import source
from training.fitting import device as devices
from training.fitting.checkpoint import Checkpoint
from training.fitting.course import Epoch
from training.fitting.fit import Job, Member, fit
from training.fitting.graphs import GraphedStep
from training.fitting.losses import objective_of
from training.fitting.many import fit_all
from training.fitting.step import Stepper
from training.network.net import make_member
from training.plan import FitPlan, NetPlan, Plan
from training.publishing.export import ONNX, OnnxSession
from training.publishing.publish import digest_weights

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU"),
]
MSE = objective_of("mse")


def perceptron(dropout: float = 0.0) -> Callable[[], nn.Sequential]:
    return lambda: make_member(NetPlan(hidden=(16, 16), activation="tanh", dropout=dropout), 2, [], 1)


def line(rows: int = 200) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)).cuda()
    return x, x.sum(1, keepdim=True)


def quietly(_: Epoch) -> None: ...


def stepper(plan: FitPlan, dropout: float = 0.0) -> tuple[Stepper, torch.Generator]:
    """Two networks with the same weights each time."""
    torch.manual_seed(0)
    nets = [perceptron(dropout)().cuda() for _ in range(2)]
    generator = torch.Generator("cuda").manual_seed(0)
    return Stepper(nets, plan, MSE, generator), generator


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@torch.inference_mode()
def test_a_captured_step_moves_the_weights_as_the_step_itself(optimizer):
    plan = FitPlan(optimizer=optimizer, momentum=0.5 if optimizer == "sgd" else 0)
    plain, _ = stepper(plan)
    graphed, generator = stepper(plan)
    captured = GraphedStep(graphed, generator)
    x, y = line(64)
    for rows, rate in [(32, 0.01), (32, 0.003), (20, 0.02), (32, 0.001)]:  # the last minibatch of an epoch is shorter
        some_x, some_y = x[:rows].expand(2, -1, -1), y[:rows].expand(2, -1, -1)
        right = plain(some_x, some_y, rate)
        torch.testing.assert_close(captured(some_x, some_y, rate), right)
        torch.testing.assert_close(graphed.weights, plain.weights)


@torch.inference_mode()
def test_a_captured_step_drops_others_each_time_and_the_same_from_the_same_seed():
    x, y = line(32)
    runs = []
    for _ in range(2):
        step, generator = stepper(FitPlan(learning_rate=1e-30), dropout=0.5)  # the weights stay where they are
        captured = GraphedStep(step, generator)
        some_x, some_y = x.expand(2, -1, -1), y.expand(2, -1, -1)
        runs.append([captured(some_x, some_y, 1e-30).mean((1, 2)).tolist() for _ in range(5)])
    assert runs[0] == runs[1]
    assert len({loss for losses in runs[0] for loss in losses}) == 10


@torch.inference_mode()
def test_a_captured_step_without_dropout_is_that_of_networks_that_have_none():
    plan = FitPlan(learning_rate=0.01)
    plain, _ = stepper(plan)
    dropping, generator = stepper(plan, dropout=0.5)
    captured = GraphedStep(dropping, generator)
    x, y = line(32)
    some_x, some_y = x.expand(2, -1, -1), y.expand(2, -1, -1)
    captured(some_x, some_y, 0.01)
    for name, tensor in dropping.state().items():
        plain.state()[name].copy_(tensor)
    dropping.drops = False
    torch.testing.assert_close(captured(some_x, some_y, 0.01), plain(some_x, some_y, 0.01))
    torch.testing.assert_close(dropping.weights, plain.weights)


def test_many_networks_in_one_loop_are_fitted_as_each_alone():
    plan = FitPlan(epochs=5, batch=32)
    jobs = [Job.of(plan, perceptron(), line(), line(50), seed) for seed in range(4)]
    alone = [fit(plan, perceptron(), line(), line(50), MSE, report=quietly, seed=seed) for seed in range(4)]
    for member, right in zip(fit_all(jobs, MSE, report=lambda *_: None), alone, strict=True):
        assert isinstance(member, Member)
        assert member.validation_loss == pytest.approx(right.validation_loss, rel=1e-2)


def test_it_learns_what_a_cpu_learns_and_one_seed_gives_one_set_of_weights():
    plan = FitPlan(epochs=60, learning_rate=0.02)
    runs = [fit(plan, perceptron(0.1), line(), line(50), MSE, report=quietly) for _ in range(2)]
    assert runs[0].validation_loss < 0.05
    assert digest_weights(runs[0].net) == digest_weights(runs[1].net)


def test_products_are_exact_again_once_a_fit_has_ended():
    before = torch.get_float32_matmul_precision()
    fit(FitPlan(epochs=1), perceptron(), line(), line(50), MSE, report=quietly)
    assert torch.get_float32_matmul_precision() == before


def test_a_fit_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path):
    plan = FitPlan(epochs=6, batch=32)
    whole = fit(plan, perceptron(0.1), line(), line(50), MSE, report=quietly)
    checkpoint = Checkpoint(tmp_path, every_s=0)
    checkpoint.open(Plan.of({"name": "m", "target": ["y"], "table": {"path": "t.csv"}}, "test"), "0" * 64, "gpu")

    def stop(epoch: Epoch) -> None:
        if epoch.number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(plan, perceptron(0.1), line(), line(50), MSE, report=stop, checkpoint=checkpoint)
    seen: list[int] = []
    resumed = fit(
        plan, perceptron(0.1), line(), line(50), MSE, report=lambda e: seen.append(e.number), checkpoint=checkpoint
    )
    assert seen == [4, 5, 6]
    assert digest_weights(resumed.net) == digest_weights(whole.net)


def table(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    x, kind = rng.normal(size=(900, 3)), rng.integers(0, 20, 900)
    y = x[:, 0] + x[:, 1] ** 2 + kind / 10 + rng.normal(0, 0.1, 900)
    frame = pl.DataFrame(x.round(3), schema=["a", "b", "c"]).with_columns(
        pl.when(pl.col("a") > 1.5).then(None).otherwise(pl.col("a")).alias("a"),  # some are missing
        kind=pl.Series([f"kind {number}" for number in kind]),  # enough of them to be embedded
        price=pl.Series(y.round(3)),
        is_dear=pl.Series(np.where(y > 1.5, "yes", "no")),
        grade=pl.Series(np.digitize(y, [0.5, 2.0])).replace_strict({0: "low", 1: "middle", 2: "high"}),
    )
    frame.write_parquet(path := folder / "t.parquet")
    return path


TARGETS = ("price", "is_dear", "grade")


@pytest.mark.parametrize("target", TARGETS)
def test_a_table_becomes_a_version_as_good_as_a_cpu_makes_it(tmp_path: Path, monkeypatch, target):
    others = [name for name in TARGETS if name != target]
    fields = {"name": "m", "target": [target], "table": {"path": str(table(tmp_path)), "drop": others}}
    plan = Plan.of(fields | {"fit": {"epochs": 20}}, "test")
    scores = {}
    for device, worth in (("cpu", np.inf), ("cuda", 0.0)):
        monkeypatch.setattr(devices, "WORTH_A_GPU_S", worth)
        fitted, number = recipe.run(plan, Repository(tmp_path / device))
        version = Repository(tmp_path / device).open("m", number)
        prove(version.manifest, version.proof(), OnnxSession(version.read(ONNX)))
        assert (fitted.device == "cpu") == (device == "cpu")
        metrics = fitted.scores["test"].metrics
        scores[device] = metrics["r2"] if target == "price" else metrics["accuracy"]
    assert scores["cuda"] == pytest.approx(scores["cpu"], abs=0.05)


def test_a_table_in_pieces_becomes_a_version(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(source, "LARGE_CELLS", 0)
    drop = {"path": str(table(tmp_path)), "drop": ["is_dear", "grade"]}
    plan = Plan.of({"name": "m", "target": ["price"], "table": drop, "fit": {"epochs": 20, "batch": 32}}, "test")
    fitted, _ = recipe.run(plan, Repository(tmp_path / "r"))
    assert fitted.device == torch.cuda.get_device_name()
    assert (fitted.scores["test"].metrics["r2"] or 0) > 0.8
