"""How one table becomes one model: a TOML file, or nothing but the defaults.

A plan says what is different from the defaults; `Plan.model_dump` writes all of it out for the manifest.
"""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from models.errors import AtPlace, BadName, shown
from models.manifest import Task, check_name
from training.sentences import hint

PLANS = Path(__file__).parent / "plans"
MANY_ROWS = 100_000
"""Training rows beyond which one fold is enough to choose by."""
FEW_ROWS, SEVERAL_ROWS = 2_000, 5_000
"""Training rows up to which five folds are affordable, and beyond which four are: more rows take no longer there."""
HIDDEN = (256, 256)
"""Widths of the hidden layers where a plan names none and nothing is there to choose them by."""

Whole = Annotated[int, Field(strict=True)]
"""A whole number as TOML has it; true is none, nor is "5"."""
Real = Annotated[float, Field(strict=True)]
"""A number, whole or not."""
Kind = Literal["number", "category", "boolean", "datetime"]
Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu", "sine", "identity"]
Loss = Literal["mse", "l1", "cross_entropy", "binary_cross_entropy", "probability_l1"]
Optimizer = Literal["sgd", "adam", "adamw"]


_SECTION = "must be a section, like [fit]"
_EXPECTED = {
    "tuple_type": 'must be a list, like ["price"] or [64, 64]',
    "too_short": "must have an entry",
    "model_type": _SECTION,
    "dict_type": _SECTION,
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
"""What pydantic says in words of Python, by the type of its error."""


class BadPlan(AtPlace):
    """A plan cannot be followed; its place is the file and the key in it."""

    code = "bad_plan"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TablePlan(_Section):
    """Where the rows come from: a file, or a dataset of `training/data/datasets.py` by name.

    Attributes:
        path: CSV or Parquet; relative to the folder that the command runs in.
        dataset: name of a generated or packaged table.
        rows: how many rows a generated table has for training and validation; None leaves its own default.
        kinds: feature to kind, where the inferred one is not wanted.
        units: feature to unit, for the people who read the model card.
        drop: columns that are not features.
    """

    path: str | None = None
    dataset: str | None = None
    rows: Annotated[Whole, Field(ge=1)] | None = None
    kinds: dict[str, Kind] = {}
    units: dict[str, str] = {}
    drop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("name one of path and dataset")
        if self.path is not None and self.rows is not None:
            raise ValueError("rows are those of a generated dataset; of a file all are read")
        return self


class SplitPlan(_Section):
    """Which rows train, choose and judge.

    By default a row's own bytes decide (a hash), so new rows never move old ones. The shares hold for every class up to
    chance: to make them exact, rows would have to know of each other.

    Attributes:
        train, validation, test: shares; they add up to 1.
        column: a column that says "train", "validation" or "test" itself.
        time: a column to split by in rising order: the oldest rows train, the newest test.
        group: a column whose equal values stay together.
    """

    train: Annotated[Real, Field(gt=0, lt=1)] = 0.6
    validation: Annotated[Real, Field(gt=0, lt=1)] = 0.2
    test: Annotated[Real, Field(ge=0, lt=1)] = 0.2
    column: str | None = None
    time: str | None = None
    group: str | None = None

    @model_validator(mode="after")
    def _is_one_split(self) -> Self:
        if sum(way is not None for way in (self.column, self.time, self.group)) > 1:
            raise ValueError("name at most one of column, time and group")
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class NetPlan(_Section):
    """The network.

    Attributes:
        hidden: widths of the hidden layers; empty for a linear model; None lets validation choose between the networks
            of `training/fitting/candidates.py`, which also say everything else about the network and its fit.
        activation: after each hidden layer.
        activations: one per hidden layer where they differ; overrides `activation`.
        preprocessing: "learned" puts scaling, imputation and embeddings in front; "none" feeds the numbers as they are
            (a missing value becomes 0, a category its one-hot row).
        scale_targets: fit a regression's targets standardised, and scale back inside the graph.
        init: "uniform" is PyTorch's own; "normal" draws every weight from N(0, 1) / sqrt(inputs), biases 0;
            "unit_normal" draws weights and biases from N(0, 1).
        dropout: share of hidden activations dropped while training.
        expansion: "steps" or "waves" tell each number once more in `pieces` columns (`training/network/expansions.py`).
        pieces: at most so many for each number.
    """

    hidden: tuple[Annotated[Whole, Field(ge=1, le=1_000_000)], ...] | None = None
    activation: Activation = "silu"
    activations: tuple[Activation, ...] | None = None
    preprocessing: Literal["learned", "none"] = "learned"
    scale_targets: bool = True
    init: Literal["uniform", "normal", "unit_normal"] = "uniform"
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    expansion: Literal["none", "steps", "waves"] = "none"
    pieces: Annotated[Whole, Field(ge=2, le=256)] = 16

    @model_validator(mode="after")
    def _activations_fit(self) -> Self:
        layers = len(HIDDEN if self.hidden is None else self.hidden)
        if self.activations is not None and len(self.activations) != layers:
            raise ValueError(f"activations must have {layers} entries like hidden")
        return self


class FitPlan(_Section):
    """How the weights are found.

    Attributes:
        loss: None takes the task's own: mse, binary_cross_entropy, cross_entropy.
        optimizer: what makes a step of a gradient; sgd is the step of `training/scratch.py`.
        learning_rate: how far a step goes, at its longest.
        momentum: of sgd: the share of the last step that is taken again.
        weight_decay: how strongly weights are pulled to zero.
        batch: rows of a minibatch; 0 is all rows at once; None lets the number of training rows decide.
        epochs: None lets the number of training rows decide.
        shuffle: draw the minibatches anew in each epoch; otherwise rows come as they stand.
        schedule: of the learning rate, over the epochs.
        dropout_ends: nothing is dropped in the last wave of coslog4 or coslog5, or the last two of coslog6, once a wave
            from the one before on took a fifth off the validation loss.
        beta2: how slowly Adam forgets the squares of gradients.
        label_smoothing: share of every label that is spread over all classes while training.
        patience: epochs without a better validation loss before the fit ends, as a whole wave of a coslog without one
            does, the fourth of coslog5 or coslog6 that brought 1% or less, and the fifth of coslog6 that brought 5% or
            less. 0 never ends it early.
        keep: the weights of the best validation loss, or the last ones.
        folds: parts into which the training and validation rows are dealt together; each network is fitted on all but
            one of them, and that one chooses. 1 fits on the training part and lets the validation part choose. None is
            5 up to 2,000 training rows, 3 up to 5,000, 4 up to 100,000; but 1 beyond, where the split is by time, and
            where the plan says `members`.
        members: how many networks are fitted from different seeds for each fold and candidate, of which validation
            keeps the best `averaged`; None lets the number of training rows decide.
        averaged: how many of the members the exported graph averages; None is all of them.
        linear: also solve for a network without hidden layers, which validation may choose instead of the members or
            average with them; a linear model's error is then within reach on every table.
        calibrate: fit a temperature on the validation rows (classification).
        seed: of every random choice.
    """

    loss: Loss | None = None
    optimizer: Optimizer = "adamw"
    learning_rate: Annotated[Real, Field(gt=0)] = 3e-3
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[Real, Field(ge=0)] = 1e-2
    epochs: Annotated[Whole, Field(ge=1)] | None = None
    batch: Annotated[Whole, Field(ge=0)] | None = None
    shuffle: bool = True
    schedule: Literal["constant", "cosine", "coslog4", "coslog5", "coslog6"] = "cosine"
    dropout_ends: bool = False
    beta2: Annotated[Real, Field(gt=0, lt=1)] = 0.999
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[Whole, Field(ge=0)] = 30
    keep: Literal["best", "last"] = "best"
    folds: Annotated[Whole, Field(ge=1, le=20)] | None = None
    members: Annotated[Whole, Field(ge=1, le=10_000)] | None = None
    averaged: Annotated[Whole, Field(ge=1, le=10_000)] | None = None
    linear: bool = True
    calibrate: bool = True
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _averages_what_it_fits(self) -> Self:
        if self.averaged is not None and self.members is not None and self.averaged > self.members:
            raise ValueError(f"averaged is {self.averaged}, but only {self.members} members are fitted")
        return self

    def for_rows(self, rows: int) -> Self:
        """The same plan with every choice made that it leaves to the number of training rows."""
        rows = max(rows, 1)
        folds = self.folds or (1 if self.members else _folds(rows))
        members = self.members or max(_members(rows, folds), self.averaged or 1)
        return self.model_copy(
            update={
                "batch": _batch(rows) if self.batch is None else self.batch,
                "epochs": self.epochs or _epochs(rows),
                "folds": folds,
                "members": members,
                "averaged": self.averaged or members,
            }
        )


# What the number of training rows decides; docs/decisions/0030 compares some of it, up to 100,000 rows.


def _batch(rows: int) -> int:
    """A twenty-fourth of the rows as a power of two, from 32 to 256; beyond 100,000 a four-hundredth, to 4096."""
    share, most = (24, 256) if rows <= MANY_ROWS else (400, 4096)
    power: float = 2 ** round(math.log2(rows / share))
    return int(min(most, max(32, power)))


def _epochs(rows: int) -> int:
    """64 up to 2,000 rows, 48 beyond; fewer where all would be visited more than 450,000 times together.

    Yet 10, as long as these are no more than 5 million visits.
    """
    most = 64 if rows <= FEW_ROWS else 48
    fewest = min(10, round(5_000_000 / rows))
    return min(most, max(1, fewest, round(450_000 / rows)))


def _folds(rows: int) -> int:
    """Five up to 2,000 rows, three up to 5,000, four up to 100,000, then one."""
    if rows > MANY_ROWS:
        return 1
    return 5 if rows <= FEW_ROWS else 3 if rows <= SEVERAL_ROWS else 4


def _members(rows: int, folds: int) -> int:
    """One for each fold; of a single fold 8 up to 2,000 rows, 4 up to 20,000, then 1."""
    if folds > 1 or rows > 20_000:
        return 1
    return 8 if rows <= FEW_ROWS else 4


class ExportPlan(_Section):
    """Which files a version has beside the graph that is served and its TorchScript.

    Attributes:
        program: write model.pt2 for `torch.export.load` as well; torch's tracer takes longer than a small table's fit.
    """

    program: bool = False


class Published(_Section):
    """A figure that the source of a founding system published, and the recipe that reached it.

    Attributes:
        title: the recipe in a few words.
        part, metric: what the figure measures; None where the source published no figure.
        figure: the published value.
        higher_is_better: for accuracies.
        dataset: the table of the source's recipe, where it is another than the plan's.
        rows: rows of that table.
        net, fit: the source's network and recipe. Where they say nothing else it is a plain one: numbers as they are,
            one network, a constant learning rate, all epochs, the last weights, nothing calibrated.
        seeds: how many fits the reproduction is judged by.
    """

    title: str
    part: Literal["train", "validation"] = "train"
    metric: str | None = None
    figure: float | None = None
    higher_is_better: bool = False
    dataset: str | None = None
    rows: Annotated[Whole, Field(ge=1)] | None = None
    net: NetPlan
    fit: FitPlan
    seeds: Annotated[Whole, Field(ge=1)] = 5

    @field_validator("net", mode="before")
    @classmethod
    def _reads_numbers_as_they_are(cls, net: object) -> object:
        return {"preprocessing": "none", "scale_targets": False} | net if isinstance(net, dict) else net

    @field_validator("fit", mode="before")
    @classmethod
    def _fits_one_network_plainly(cls, fit: object) -> object:
        plain: dict[str, object] = {"members": 1, "linear": False, "calibrate": False}
        plain |= {"schedule": "constant", "patience": 0, "keep": "last"}
        return plain | fit if isinstance(fit, dict) else fit


class Plan(_Section):
    """Everything about one fit.

    Attributes:
        name: of the model that is published.
        about: one sentence for the model card.
        target: the predicted column or columns.
        task: None infers it from the target: few distinct texts or whole numbers are classes.
        table: where the rows come from.
        split: which rows train, choose and judge.
        net: the network.
        fit: how its weights are found.
        export: which files the version has.
        published: what `make reproduce` reproduces.
    """

    name: str
    about: str = ""
    target: Annotated[tuple[str, ...], Field(min_length=1)]
    task: Task | None = None
    table: TablePlan
    split: SplitPlan = SplitPlan()
    net: NetPlan = NetPlan()
    fit: FitPlan = FitPlan()
    export: ExportPlan = ExportPlan()
    published: tuple[Published, ...] = ()

    @field_validator("target")
    @classmethod
    def _names_each_once(cls, target: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(target)) < len(target):
            raise ValueError("a column is named twice")
        return target

    @model_validator(mode="after")
    def _can_be_published(self) -> Self:
        check_name("model", self.name)
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan.

        Raises:
            BadPlan: the file is absent or no TOML, a key is unknown, or a value is not one it can have.
        """
        try:
            fields = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise BadPlan(str(path), f"is absent; the plans that ship are {', '.join(names())}") from None
        except OSError as error:
            raise BadPlan(str(path), f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadPlan(str(path), "is not UTF-8; save the file as UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise BadPlan(str(path), f"is not TOML: {error}") from None
        return cls.of(fields, str(path))

    @classmethod
    def of(cls, fields: Mapping[str, object], place: str) -> Self:
        """Check the fields of a plan; `place` names them in errors.

        Raises:
            BadPlan: as for `read`.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise BadPlan(place, _sentence(error.errors(include_url=False)[0])) from None
        except BadName as error:
            raise BadPlan(place, f"name: {error}") from None


def names() -> list[str]:
    """The plans that ship, sorted."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def _sentence(fault: ErrorDetails) -> str:
    """What is wrong with one field, in words that say nothing of Python."""
    key, kind = ".".join(str(step) for step in fault["loc"]), fault["type"]
    if kind == "extra_forbidden":
        return f"{key} is not a key of a plan{_nearest_key(key)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {fault['msg'].removeprefix('Value error, ')}"
    expected = _EXPECTED.get(kind, fault["msg"].replace("Input should", "must"))
    return f"{key}: {expected}, got {shown(fault['input'])}"


def _nearest_key(key: str) -> str:
    """A suggestion for a key that does not stand where it is: from its section, or of its name in another one."""
    *path, wrong = key.split(".")
    sections: dict[str, set[str]] = {
        "table": set(TablePlan.model_fields),
        "split": set(SplitPlan.model_fields),
        "net": set(NetPlan.model_fields),
        "fit": set(FitPlan.model_fields),
        "export": set(ExportPlan.model_fields),
    }
    there = next((section for section, keys in sections.items() if wrong in keys and section not in path), None)
    if there:
        return f"; it belongs in [{there}]"
    if wrong in Plan.model_fields and path:
        return "; it belongs above the sections"
    known: set[str] = set(Plan.model_fields)
    for section in path:
        known = (sections | {"published": set(Published.model_fields)}).get(section, known)
    return hint(wrong, known)
