"""How sure an answer is, for requests that ask: their parameter, and what is added to the answer in each protocol.

    {"instances": [[5.1, 3.5]], "parameters": {"interval": 0.9}}

A regression answers with the bounds between which the target lies with this probability, a classification with the
classes among which the right one is. `models/intervals.py` says where both come from. Requests that do not ask never
come here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from models.errors import shown
from models.manifest import ClassLabel, Manifest
from models.proof import Answers
from models.repository import Version
from service.problems import BadBody, NotOffered
from service.wire.answers import finite

INTERVAL = "interval"


def asked_level(parameters: Mapping[str, Any], version: Version) -> float | None:
    """The level that a request asks for, which is one that the version has; None where it asks for none.

    Raises:
        BadBody: it is none of the version's levels.
        NotOffered: the version has none at all.
    """
    level = parameters.get(INTERVAL)
    if level is None:
        return None
    levels = levels_of(version.manifest)
    if not levels:
        reason = "it was published without, or calibrated on too few rows; train it again"
        raise NotOffered(str(version), "intervals", reason)
    if isinstance(level, bool) or not isinstance(level, int | float) or level not in levels:
        raise BadBody(f'"{INTERVAL}" must be one of {", ".join(map(str, levels))}', shown(level))
    return float(level)


def levels_of(manifest: Manifest) -> Sequence[float]:
    """The levels that a version can be asked for; empty where it has none."""
    sure = manifest.intervals or manifest.prediction_sets
    return () if sure is None else sure.levels


@dataclass(frozen=True, slots=True)
class Certainty:
    """How sure the answers to some rows are, at one level.

    Attributes:
        bounds: of a regression, the lower and the upper bounds, FP32 [2, N, K]; else None.
        members: of a classification, which classes are in the set of each row [N, C]; else None.
    """

    bounds: npt.NDArray[np.float32] | None
    members: npt.NDArray[np.bool_] | None


def certainty_of(version: Version, answers: Answers, level: float) -> Certainty:
    """How sure answers are, whose numbers are finite; `level` is one of the version's.

    Raises:
        ModelFailed: a bound is beyond all floats; it names the first row.
    """
    manifest = version.manifest
    if manifest.intervals is None:
        assert manifest.prediction_sets is not None
        return Certainty(None, manifest.prediction_sets.members(answers["probabilities"], level))
    with np.errstate(over="ignore"):
        bounds = np.stack(manifest.intervals.bounds(answers["prediction"], level)).astype("<f4")
    finite(version, "bounds", {"bounds": np.moveaxis(bounds, 0, 1)})
    return Certainty(bounds, None)


def add_to_plain(body: bytes, version: Version, answers: Answers, level: float) -> bytes:
    """The plain JSON of an answer with the intervals of its predictions.

    `intervals` is [[lower, upper], ...], or for several targets [[[lower, upper], ...], ...]; `prediction_sets` is a
    list of classes for each row.
    """
    sure = certainty_of(version, answers, level)
    added: dict[str, Any]
    if sure.bounds is not None:
        ends = np.moveaxis(sure.bounds, 0, 2)  # [N, K, 2]
        added = {"intervals": np.ascontiguousarray(ends[:, 0] if ends.shape[1] == 1 else ends)}
    else:
        added = {"prediction_sets": sets(version, answers, sure)}
    text = orjson.dumps(added | {INTERVAL: level}, option=orjson.OPT_SERIALIZE_NUMPY)
    return body[:-1] + b"," + text[1:]


def sets(version: Version, answers: Answers, sure: Certainty) -> list[list[ClassLabel]]:
    """The classes in the set of each row of a classification, the likeliest first."""
    classes = version.manifest.classes
    assert classes is not None
    assert sure.members is not None
    order = np.argsort(-answers["probabilities"], axis=1, kind="stable")
    return [[classes[code] for code in codes if row[code]] for row, codes in zip(sure.members, order, strict=True)]


def add_to_oip(
    body: bytes, json_bytes: int | None, version: Version, answers: Answers, level: float, *, binary: bool
) -> tuple[bytes, int | None]:
    """An answer of the Open Inference Protocol with the tensors that say how sure it is.

    `lower` and `upper`, FP32 [N, K], of a regression; `in_set`, BOOL [N, C], of a classification.
    """
    sure = certainty_of(version, answers, level)
    tensors: dict[str, tuple[str, npt.NDArray[Any]]]
    if sure.bounds is not None:
        tensors = {"lower": ("FP32", sure.bounds[0]), "upper": ("FP32", sure.bounds[1])}
    else:
        assert sure.members is not None
        tensors = {"in_set": ("BOOL", sure.members)}
    head = orjson.loads(body if json_bytes is None else body[:json_bytes])
    chunks = [] if json_bytes is None else [body[json_bytes:]]
    for name, (datatype, values) in tensors.items():
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": values.shape}
        if binary:
            chunks.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            output["data"] = np.ascontiguousarray(values).ravel()
        head["outputs"].append(output)
    head["parameters"] = {INTERVAL: level}
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((text, *chunks)), len(text) if chunks else None
