"""Why rows have their answers: `POST /v1/models/{model}:explain`.

The Shapley values of `models/shapley.py`, against the background rows that the version was published with. They come
from asking the version about many rows that lie between a row and the background. These go through the coalescer a
thousand at a time, one after the other, so that a long explanation is one client among others.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from models import shapley
from models.errors import shown
from models.features import category_text
from models.repository import Version
from models.schema import Matrix
from models.shapley import Background, Explanation, Shapley
from service.asking import allowed_s
from service.blame import blamed
from service.front import Front
from service.ledger import Ledger
from service.problems import BadBody, ModelFailed, NotOffered
from service.wire import plain
from service.wire.answers import finite

MOST_ROWS_ASKED = 1 << 18
"""Rows that one request may have the version asked about: 64 explanations of 4096 rows."""
_TOGETHER = 1024
_CLASS = "class"


async def explain(front: Front, ledger: Ledger, version: Version, asked: plain.Request) -> bytes:
    """The JSON of the explanations of a plain request's rows.

    Raises:
        NotOffered: the version has no background, or too many features.
        BadBody: a class is asked for that is none, or as `allowed_s` says.
        TooLarge: there are more rows than may be explained at once.
        BadRow: as `plain.Request.encode` says.
        Overloaded, DeadlinePassed, ModelFailed: as `Coalescer.predict` says.
        NotComputable: as `blamed` says.
    """
    game = await asyncio.to_thread(_game_of, version)
    wanted = _wanted_class(asked.parameters, version)
    most = min(front.settings.max_rows, MOST_ROWS_ASKED // game.count)
    matrix = asked.encode(version.schema, most)
    ledger.encoded = time.perf_counter()
    rows = []
    for number, row in enumerate(matrix):
        try:
            answers = await _answers(front, ledger, version, row[None])
            asked_about = await _answers(front, ledger, version, await asyncio.to_thread(game.rows, row))
        except ModelFailed as error:
            raise blamed(error, version, row[None], number) from None
        explanation = game.share_out(asked_about)
        rows.append(_described(version, explanation, answers[0], wanted))
    ledger.computed, ledger.answered_rows = time.perf_counter(), len(matrix)
    whole = {
        "explanations": rows,
        "method": "exact" if game.is_exact else "sampled",
        "model_name": version.name,
        "model_version": str(version.number),
    }
    return orjson.dumps(whole)


async def _answers(front: Front, ledger: Ledger, version: Version, matrix: Matrix) -> npt.NDArray[Any]:
    """The predictions, or the probabilities, of many rows."""
    output = "prediction" if version.manifest.classes is None else "probabilities"
    parts = []
    for start in range(0, len(matrix), _TOGETHER):
        within_s = allowed_s(ledger, front.settings.deadline_s)
        rest_s = within_s - (time.perf_counter() - ledger.started)
        some = matrix[start : start + _TOGETHER]
        part = await front.coalescer.predict(version, some, max(rest_s, 0.0), within_s=within_s)
        parts.append(finite(version, output, part))
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def _game_of(version: Version) -> Shapley:
    if shapley.FILE not in version.manifest.files:
        raise NotOffered(str(version), "explanations", "it was published without background rows; train it again")
    most = shapley.rows_for(version.schema)
    if most is None:
        features = len(version.schema.features)
        raise NotOffered(str(version), "explanations", f"its {features} features are too many to explain row by row")
    background = Background.from_json(version.read(shapley.FILE), str(version))
    matrix = version.schema.encode(background.rows)
    return Shapley(shapley.column_groups(version.schema), matrix, most)


def _wanted_class(parameters: Mapping[str, Any], version: Version) -> int | None:
    """The number of the class whose probability is to be explained; None for each row's likeliest."""
    label = parameters.get(_CLASS)
    if label is None:
        return None
    classes = version.manifest.classes
    if classes is None:
        raise BadBody(f'"{_CLASS}" is for classifications; {version.name} is a regression', shown(label))
    for number, known in enumerate(classes):
        if (type(known), known) == (type(label), label):
            return number
    known_ones = ", ".join(category_text(known) or "" for known in classes[:8])
    raise BadBody(f'"{_CLASS}" must be a class of {version.name}, like {known_ones}', shown(label))


def _described(
    version: Version, explanation: Explanation, answer: npt.NDArray[Any], wanted: int | None
) -> dict[str, Any]:
    """One row's explanation: for every target, or for one class."""
    manifest = version.manifest
    if manifest.classes is None:
        targets = [_of_output(version, explanation, answer, k) for k in range(len(manifest.targets))]
        return targets[0] if len(targets) == 1 else dict(zip(manifest.targets, targets, strict=True))
    code = int(answer.argmax()) if wanted is None else wanted
    return {_CLASS: manifest.classes[code], **_of_output(version, explanation, answer, code)}


def _of_output(version: Version, explanation: Explanation, answer: npt.NDArray[Any], output: int) -> dict[str, Any]:
    names = version.schema.names
    return {
        "answer": float(answer[output]),
        "base": float(explanation.base[output]),
        "values": dict(zip(names, explanation.values[:, output].tolist(), strict=True)),
        "errors": dict(zip(names, explanation.errors[:, output].tolist(), strict=True)),
    }
