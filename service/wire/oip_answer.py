"""From what a session answered to the body of an Open Inference Protocol response."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from models.errors import shown
from models.features import category_text
from models.proof import Answers
from models.repository import Version
from service.problems import BadBody
from service.wire.answers import class_numbers, finite
from service.wire.oip import Request, Wanted
from service.wire.oip_signature import CLASS, outputs_by_name
from service.wire.oip_tensors import texts_to_bytes


def check_wanted(wanted: Sequence[Wanted], version: Version) -> None:
    """Refuse, before anything is computed, an output that cannot be written.

    Raises:
        BadBody: the model has no such output, or not in this form, or it is asked for twice.
    """
    if not wanted:
        return
    known = outputs_by_name(version)
    names = [one.name for one in wanted]
    for one in wanted:
        if one.name not in known:
            about = f"unexpected inference output {shown(one.name)} for model '{version.name}'"
            raise BadBody(f"{about}; it has {', '.join(known)}")
        if one.classification and one.name != "probabilities":
            raise BadBody(f"classification can be asked of 'probabilities' alone, got {shown(one.name)}")
        if names.count(one.name) > 1:
            raise BadBody(f"output {shown(one.name)} must be asked for once")


def write(version: Version, request: Request, answers: Answers) -> tuple[bytes, int | None]:
    """The body of the answer, and how many of its bytes are JSON: None when all are.

    Every FP32 comes back bit by bit, also from JSON when its text is read and rounded to FP32.

    Shape:
        answers: `prediction` [N, K], or `probabilities` [N, C] and `label` [N]

    Raises:
        ModelFailed: a number is not finite, or a label is no class.
    """
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    specs = outputs_by_name(version)
    values_of = checked(version, answers)
    for wanted in request.wanted or [Wanted(name) for name in specs]:
        values, shape = _output(version, wanted, values_of)
        datatype = "BYTES" if isinstance(values, list) else specs[wanted.name].datatype
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": shape}
        if request.binary if wanted.binary is None else wanted.binary:
            chunk = b"".join(texts_to_bytes(values)) if isinstance(values, list) else values.tobytes()
            output["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            output["data"] = values
        outputs.append(output)
    head: dict[str, Any] = {"model_name": version.name, "model_version": str(version.number)}
    if request.id:
        head["id"] = request.id
    text = orjson.dumps(head | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *chunks)), len(text)) if chunks else (text, None)


def checked(version: Version, answers: Answers) -> Answers:
    """The same numbers, little-endian and in C order, all of which may leave: even a label means nothing among NaN."""
    classes = version.manifest.classes
    if classes is None:
        return {"prediction": finite(version, "prediction", answers).astype("<f4", copy=False)}
    return {
        "probabilities": finite(version, "probabilities", answers).astype("<f4", copy=False),
        "label": np.ascontiguousarray(class_numbers(version, classes, answers), "<i8"),
    }


def _output(version: Version, wanted: Wanted, values_of: Answers) -> tuple[npt.NDArray[Any] | list[str], Sequence[int]]:
    """The values of one output, one after the other, and their shape: numbers, or texts."""
    if wanted.name == CLASS:
        names = class_names(version)
        texts = [names[number] for number in values_of["label"].tolist()]
        return texts, [len(texts)]
    values = values_of[wanted.name]
    if wanted.classification:
        return _most_likely(values, wanted.classification, class_names(version))
    return values.ravel(), values.shape


@lru_cache(maxsize=256)
def class_names(version: Version) -> Sequence[str]:
    """The text of each class."""
    return [category_text(label) or "" for label in version.manifest.classes or ()]


def _most_likely(likely: npt.NDArray[Any], most: int, names: Sequence[str]) -> tuple[list[str], Sequence[int]]:
    """`value:index:name` of each row's most likely classes, the likeliest first."""
    order = np.argsort(-likely, axis=1, kind="stable")[:, :most]
    values = np.take_along_axis(likely, order, axis=1).astype(str)  # the shortest text of an FP32
    pairs = zip(values.ravel().tolist(), order.ravel().tolist(), strict=True)
    return [f"{value}:{number}:{names[number]}" for value, number in pairs], order.shape
