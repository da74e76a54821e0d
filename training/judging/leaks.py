"""What a careful person would look at before relying on the scores: leaks, twins across the parts, classes too rare.

Nothing is changed here. Each finding is a sentence for the console, the model card and the manifest.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from models.errors import shown
from training.data.columns import Data
from training.data.split import Rows, Split, row_hashes
from training.judging.evaluate import Targets
from training.plan import SplitPlan
from training.sentences import MOST_LISTED, drop_option, listed

ALONE = 0.99
"""Share of what is to be explained that no honest feature explains by itself: R2, or errors of the majority avoided."""
TWINS = 0.01
"""Share of judging rows with a twin in training from which it is said."""
UNKNOWN = 0.05
"""Share of judging rows with a category that training did not see from which it is said."""
RARE_ROWS = 10
"""Training rows of a class below which its probability is a guess."""
FEW_TEST_ROWS = 100

_ROWS_LOOKED_AT = 20_000
_FEWEST_ROWS = 50
_MOST_BINS = 256
_MOST_TERMS = 200
_LARGEST_TERM = 1e150
_MOSTLY_THERE = 0.9  # share of a column's values that are not zero, from which it may be a factor
_NOTHING_LEFT = 1e-6  # of the variance: what rounding leaves of a sum, and no measurement
_STANDS_FOR_MISSING = r"-?9{2,}"
_FEWEST_FAR = 3
_MOST_SPELLINGS = 50  # categories of a feature beyond which they may well be codes, whose capitals mean something
_YES_AND_NO = dict.fromkeys(("yes", "y", "true", "t", "1"), "yes") | dict.fromkeys(("no", "n", "false", "f", "0"), "no")
_ID = r"(?i:(^|[\s_.-])(id|uid|uuid|guid)$)|[a-z]I[dD]$"


def find_leaks(data: Data, split: Split, plan: SplitPlan) -> tuple[str, ...]:
    """Everything suspicious about a table and its split, a sentence each; empty for most tables."""
    alone = _the_first(_features_that_predict_alone(data, split))
    return (
        *(alone or _a_sum_or_product(data, split)),
        *_the_first(_row_numbers(data)),
        *_the_first(_far_values(data)),
        *_the_first(_two_spellings(data)),
        *_twins(data, split),
        *_rare_classes(data, split),
        *_the_first(_unknown_categories(data, split)),
        *_few_rows(split, plan),
        *_time_is_mixed(data, plan),
        *_time_is_text(data, plan),
    )


def _the_first(told: Iterable[str]) -> list[str]:
    """The first few of what is told of one column each, and of how many more it is true."""
    sentences = list(told)
    more = len(sentences) - MOST_LISTED
    return [*sentences[:MOST_LISTED], f"the same is true of {more} more columns"] if more > 1 else sentences


def _features_that_predict_alone(data: Data, split: Split) -> Iterator[str]:
    """Each feature is cut into bins, and the training rows of a bin say the target of its judging rows."""
    train, judging = _looked_at(split)
    if len(data.kinds) < 2 or len(train) < _FEWEST_ROWS or len(judging) < _FEWEST_ROWS // 5:
        return
    looked_at = data.frame[np.concatenate([train, judging])]
    if data.classes is None:
        targets = {"of the variance": data.y, "of the variance of the target's ranks": _ranks(data.y)}
    else:
        targets = {"of what the most frequent class gets wrong": data.y}
    for name in data.kinds:
        codes, judged = np.split(_codes(looked_at[name], len(train)), [len(train)])
        shares = [_explained(codes, y[train], judged, y[judging]) for y in targets.values()]
        if (share := max(shares)) >= ALONE:
            said = list(targets)[shares.index(share)]
            yield (
                f"feature {shown(name)} alone explains {share:.1%} {said}; is it known before the target is, "
                f"or is it the target in other words? {drop_option(name)} leaves it out"
            )


def _looked_at(split: Split) -> tuple[Rows, Rows]:
    """So many rows as are enough to find what explains a target: training rows, and those that judge."""
    judging = split.test if len(split.test) else split.validation
    return split.train[:_ROWS_LOOKED_AT], judging[:_ROWS_LOOKED_AT]


def _ranks(y: Targets) -> Targets:
    """Where each target stands among all; [N, K]. The last bin misses most variance of heavy tails."""
    return np.stack([pl.Series(values).rank().to_numpy() for values in y.T], axis=1)


def _codes(column: pl.Series, train: int) -> npt.NDArray[np.int64]:
    """A bin for every row, from 0: a category's own, or one of equally full bins of the first rows' numbers."""
    if column.dtype in (pl.String, pl.Boolean):
        return column.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    values = column.cast(pl.Float64 if column.dtype.is_numeric() else pl.Int64).cast(pl.Float64).to_numpy()
    present = values[:train][~np.isnan(values[:train])]
    if not len(present):
        return np.zeros(len(values), np.int64)
    edges = np.unique(np.quantile(present, np.linspace(0, 1, min(_MOST_BINS, max(2, len(present) // 4)) + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="left")
    return np.where(np.isnan(values), len(edges) + 1, bins)


def _explained(codes: npt.NDArray[np.int64], y: Targets, judged: npt.NDArray[np.int64], truth: Targets) -> float:
    """How much of the judging rows' targets the training rows of their bins say, at most 1.

    The share of the variance (of several targets, the best explained) with the mean of a bin for an answer, or the
    share of the majority's errors that its most frequent class avoids.

    Shape:
        codes, judged: the bins of training and judging rows; y, truth: their targets
    """
    bins = int(max(codes.max(), judged.max())) + 1
    if y.ndim == 1:
        classes = int(max(y.max(), truth.max())) + 1
        if bins * classes > 1 << 24:
            return 0.0
        counts = np.bincount(codes * classes + y, minlength=bins * classes).reshape(bins, classes)
        wrong = (counts.argmax(1)[judged] != truth).mean()
        majority = (np.bincount(y).argmax() != truth).mean()
        return float(1 - wrong / majority) if majority > 0 else 0.0
    rows = np.bincount(codes, minlength=bins)
    shares = []
    for k in range(y.shape[1]):
        mean = y[:, k].mean()
        sums = np.bincount(codes, y[:, k] - mean, minlength=bins)
        answers = mean + np.where(rows > 0, sums / np.maximum(rows, 1), 0.0)
        spread = ((truth[:, k] - mean) ** 2).sum()
        shares.append(1 - ((truth[:, k] - answers[judged]) ** 2).sum() / spread if spread > 0 else 0.0)
    return float(max(shares))


def _row_numbers(data: Data) -> Iterator[str]:
    """A whole number that no two rows share, and that is called an id or leaves none out, says nothing of its row."""
    for name, kind in data.kinds.items():
        column = data.frame[name]
        if kind != "number" or len(column) < _FEWEST_ROWS or column.null_count():
            continue
        values = column.to_numpy()
        if values[1] - values[0] == 1 and (np.diff(values) == 1).mean() > ALONE:
            yield f"feature {shown(name)} counts the rows; if it is an id, {drop_option(name)} leaves it out"
        elif (values == np.round(values)).all() and len(np.unique(values)) == len(values):
            leaves_none_out = float(values.max()) - float(values.min()) < len(values) / ALONE
            if leaves_none_out or re.search(_ID, name):
                said = "is another number in every row; if it is an id"
                yield f"feature {shown(name)} {said}, {drop_option(name)} leaves it out"


def _far_values(data: Data) -> Iterator[str]:
    """A value like -999 that many rows share, farther from all others than these are from each other."""
    for name, kind in data.kinds.items():
        if kind != "number" or len(data.frame) < _FEWEST_ROWS:
            continue
        values = data.frame[name].drop_nulls().to_numpy()
        for far in (values.min(), values.max()) if len(values) else ():
            if not re.fullmatch(_STANDS_FOR_MISSING, f"{far:.10g}"):
                continue
            others = values[values != far]
            if len(others) < _FEWEST_ROWS // 5 or len(values) - len(others) < _FEWEST_FAR:
                continue
            low, high = others.min(), others.max()
            if max(low - far, far - high) > high - low:
                yield (
                    f"feature {shown(name)} is {far:.10g} in {len(values) - len(others):,} rows and from {low:g} to "
                    f"{high:g} in the others; if that stands for a missing value, leave the cell empty"
                )


def _two_spellings(data: Data) -> Iterator[str]:
    """Texts that differ in nothing but capitals, as yes and Yes do, or that all say yes or no, as TRUE, 1 and y do."""
    columns: dict[str, Sequence[object]] = {f"target {shown(data.targets[0])}": data.classes or ()}
    columns |= {
        f"feature {shown(name)}": data.frame[name].drop_nulls().unique().sort().to_list()
        for name, kind in data.kinds.items()
        if kind == "category" and data.frame[name].n_unique() <= _MOST_SPELLINGS
    }
    for column, texts in columns.items():
        before: dict[str, str] = {}
        meant = _YES_AND_NO if {str(text).lower() for text in texts} <= _YES_AND_NO.keys() else {}
        for text in texts:
            if not isinstance(text, str):
                continue
            lower = text.lower()
            if (other := before.setdefault(meant.get(lower, lower), text)) != text:
                yield f"{column} has {shown(other)} and {shown(text)}, which are two; write one of them if they are not"
                break


def _a_sum_or_product(data: Data, split: Split) -> Iterator[str]:
    """Numbers that add up to the target, as net and tax do to a price, or multiply to it, as price and number do."""
    train, judging = _looked_at(split)
    names = [name for name, kind in data.kinds.items() if kind == "number" and _can_be_squared(data.frame[name])]
    if data.classes is not None or not 2 <= len(names) <= min(_MOST_TERMS, len(train) // 4):
        return
    looked_at = np.concatenate([train, judging])
    is_train = np.arange(len(looked_at)) < len(train)
    x = data.frame[looked_at].select(pl.col(names).cast(pl.Float64).fill_null(0.0).fill_nan(0.0)).to_numpy()
    y = data.y[looked_at].astype(np.float64)
    has_logs = (x != 0).mean(0) > _MOSTLY_THERE
    with np.errstate(divide="ignore"):
        logs, log_y = np.log(np.abs(x[:, has_logs])), np.log(np.abs(y))
    named = [name for name, has in zip(names, has_logs, strict=True) if has]
    for k, target in enumerate(data.targets):
        is_there = np.isfinite(logs).all(1) & np.isfinite(log_y[:, k])
        terms = _terms(x, y[:, k], is_train, ~is_train)
        if terms is not None:
            what, found = "a weighted sum", [names[term] for term in terms]
        elif (terms := _terms(logs, log_y[:, k], is_train & is_there, ~is_train & is_there)) is not None:
            what, found = "a product of powers", [named[term] for term in terms]
        else:
            continue
        yield (
            f"target {shown(target)} is {what} of {listed([shown(name) for name in found])} to the last digits; are "
            f"they known before the target is? --drop leaves them out, and no network is needed to compute it"
        )


def _can_be_squared(numbers: pl.Series) -> bool:
    """Whether sums of their squares stay within float64."""
    return float(numbers.abs().max() or 0.0) < _LARGEST_TERM  # type: ignore[arg-type] # of numbers it is one


def _terms(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    train: npt.NDArray[np.bool_],
    judging: npt.NDArray[np.bool_],
) -> list[int] | None:
    """The columns whose weighted sum is the target to the last digits; None where no sum is."""
    if train.sum() < 4 * max(1, x.shape[1]) or not judging.any():
        return None
    mean, spread = x[train].mean(0), x[train].std(0)
    scaled = np.where(spread > 0, spread, 1.0)
    some = ((x[rows] - mean) / scaled for rows in (train, judging))
    train_x, judging_x = (np.column_stack([matrix, np.ones(len(matrix))]) for matrix in some)
    weights = np.linalg.lstsq(train_x, y[train], rcond=None)[0]
    left = ((y[judging] - judging_x @ weights) ** 2).sum()
    if left >= _NOTHING_LEFT * ((y[judging] - y[train].mean()) ** 2).sum():
        return None
    return [term for term, weight in enumerate(weights[:-1]) if abs(weight) > 1e-3 * y[train].std()]


def _twins(data: Data, split: Split) -> Iterator[str]:
    hashes = row_hashes(data.frame.select(list(data.kinds)))
    train = np.unique(hashes[split.train])
    for part, rows in (("validation", split.validation), ("test", split.test)):
        twins = int(np.isin(hashes[rows], train).sum())
        if len(rows) and twins > TWINS * len(rows):
            yield (
                f"{twins:,} of {len(rows):,} {part} rows ({twins / len(rows):.0%}) have the very features of a "
                f"training row: what was learned by heart counts as known there"
            )


def _rare_classes(data: Data, split: Split) -> Iterator[str]:
    if data.classes is None:
        return
    counts = np.bincount(data.y[split.train], minlength=len(data.classes))
    rare = np.flatnonzero(counts < RARE_ROWS)
    if len(rare):
        named = listed([f"{shown(data.classes[code])} ({counts[code]})" for code in rare])
        yield f"too few training rows to learn from, of class {named}; collect more, or join classes"
    if len(split.test):
        absent = np.setdiff1d(np.arange(len(data.classes)), data.y[split.test])
        if len(absent):
            named = listed([shown(data.classes[code]) for code in absent])
            yield f"no test row is of class {named}: the scores say nothing of it"


def _unknown_categories(data: Data, split: Split) -> Iterator[str]:
    judging = split.test if len(split.test) else split.validation
    for name, kind in data.kinds.items():
        if kind != "category":
            continue
        column = data.frame[name]
        seen = column[split.train].unique()
        unseen = column[judging].drop_nulls()
        share = 1 - float(unseen.is_in(seen.to_list()).mean() or 0.0) if len(unseen) else 0.0  # type: ignore[arg-type]
        if share > UNKNOWN:
            yield f"feature {shown(name)} has a category that training did not see in {share:.0%} of the judging rows"


def _few_rows(split: Split, plan: SplitPlan) -> Iterator[str]:
    if not len(split.test):
        if plan.column is None:
            yield "no rows are kept for the test: the validation rows that chose the network also judge it"
    elif len(split.test) < FEW_TEST_ROWS:
        rows = f"{len(split.test)} rows test" if len(split.test) > 1 else "1 row tests"
        yield f"only {rows}: another draw of them may score quite differently"


def _time_is_mixed(data: Data, plan: SplitPlan) -> Iterator[str]:
    times = [name for name, kind in data.kinds.items() if kind == "datetime"]
    if times and plan.time is None and plan.column is None and plan.group is None:
        yield (
            f"{shown(times[0])} is a time and rows are split at random: where the future is to be predicted from the "
            f'past, split.time = "{times[0]}" scores that'
        )


def _time_is_text(data: Data, plan: SplitPlan) -> Iterator[str]:
    """Jan 2024 comes behind Feb 2024, and 10 before 9."""
    if plan.time is not None and data.frame.schema[plan.time] == pl.String:
        times = data.frame[plan.time].drop_nulls()
        said = f"are sorted letter by letter, from {shown(times.min())} to {shown(times.max())}"
        yield (
            f"rows are split by the time {shown(plan.time)}, whose texts {said}; if that is not from the oldest to the "
            f"newest, write dates like 2024-05-31, or numbers"
        )
