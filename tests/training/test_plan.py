"""What is said of a plan that cannot be followed."""

from pathlib import Path

import pytest

from training.plan import BadPlan, Plan

PLAN = 'name = "m"\ntarget = ["y"]\n[table]\npath = "t.csv"\n'


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ("", "name is missing"),
        (PLAN.replace('["y"]', '"y"'), "target: must be a list, like [\"price\"] or [64, 64], got 'y'"),
        (PLAN.replace('["y"]', "[]"), "target: must have an entry, got a list of 0"),
        (PLAN.replace('["y"]', '["y", "y"]'), "target: a column is named twice"),
        ("about = 3\n" + PLAN, "about: must be a text, got 3"),
        ("epochs = 5\n" + PLAN, "epochs is not a key of a plan; it belongs in [fit]"),
        (PLAN + 'task = "binary"\n', "table.task is not a key of a plan; it belongs above the sections"),
        (PLAN + "drops = []\n", "table.drops is not a key of a plan; did you mean drop?"),
        (PLAN + '[fit]\nhidden = "64"\n', "fit.hidden is not a key of a plan; it belongs in [net]"),
        (PLAN + '[net]\nhidden = "64"\n', "net.hidden: must be a list, like [\"price\"] or [64, 64], got '64'"),
        (PLAN + "[fit]\nseed = 1.5\n", "fit.seed: must be a whole number, got 1.5"),
        (PLAN + '[fit]\nepochs = "ten"\n', "fit.epochs: must be a whole number, got 'ten'"),
        (PLAN + '[fit]\nepochs = "10"\n', "fit.epochs: must be a whole number, got '10'"),
        (PLAN + "[fit]\nfolds = true\n", "fit.folds: must be a whole number, got true"),
        (PLAN + "[fit]\nepochs = 1e300\n", "fit.epochs: must be a whole number, got 1e+300"),
        (PLAN + '[fit]\nlearning_rate = "x"\n', "fit.learning_rate: must be a number, got 'x'"),
        (PLAN + '[fit]\nlinear = "maybe"\n', "fit.linear: must be true or false, got 'maybe'"),
        (PLAN + f"[fit]\nmembers = {10**30}\n", "fit.members: must be less than or equal to 10000, got 1"),
        (PLAN + f"[net]\nhidden = [64, {10**30}]\n", "net.hidden.1: must be less than or equal to 1000000, got 1"),
        (PLAN + "rows = 5\n", "table: rows are those of a generated dataset; of a file all are read"),
        (PLAN.replace('"m"', '"a b"'), "name: 'a b' cannot name a model: use "),
        (PLAN + '[fit]\noptimizer = "Adam"\n', "fit.optimizer: must be 'sgd', 'adam' or 'adamw', got 'Adam'"),
        (PLAN + "[split]\ntrain = 0.9\n", "split: train, validation and test must add up to 1"),
        ("split = 5\n" + PLAN, "split: must be a section, like [fit], got 5"),
        (PLAN.replace("t.csv", "C:\\data.csv"), "is not TOML: Unescaped '\\' in a string"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_with_its_key_and_the_way_on(tmp_path: Path, plan, sentence):
    path = tmp_path / "p.toml"
    path.write_text(plan)
    with pytest.raises(BadPlan) as error:
        Plan.read(path)
    assert str(error.value).startswith(f"{path}: {sentence}")


def test_a_plan_of_another_encoding_is_refused(tmp_path: Path):
    path = tmp_path / "p.toml"
    path.write_bytes(PLAN.encode("utf-16"))
    with pytest.raises(BadPlan, match="is not UTF-8; save the file as UTF-8"):
        Plan.read(path)
