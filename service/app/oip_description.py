"""What the Open Inference Protocol tells about models: metadata, configuration, index and statistics, as JSON."""

from collections.abc import Mapping
from typing import Any

from models.repository import Version
from service.observing.totals import Totals
from service.versions.catalog import Catalog
from service.wire.oip_signature import TensorSpec, inputs_of, outputs_of

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "parameters",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "schedule_policy",
    "statistics",
)
"""By the names that clients look for; of the model repository, load and unload need ROWCAST_CONTROL."""

_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}


def server() -> dict[str, Any]:
    """The server's metadata."""
    return {"name": "rowcast", "version": "1", "extensions": EXTENSIONS}


def metadata(catalog: Catalog, version: Version) -> dict[str, Any]:
    """A model's metadata: the tensors of this version, and all versions that can be asked."""
    return {
        "name": version.name,
        "versions": [str(number) for number in sorted(catalog.live()[version.name])],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(spec) for spec in inputs_of(version.schema)],
        "outputs": [_tensor(spec) for spec in outputs_of(version.manifest)],
    }


def config(catalog: Catalog, version: Version, most_rows: int) -> dict[str, Any]:
    """A model's configuration, as far as a client can use it: the batch axis is left out of `dims`.

    The version policy is what Triton would be told to serve the same versions: those that are live now.
    """
    return {
        "name": version.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": sorted(catalog.live()[version.name])}},
        "max_batch_size": most_rows,
        "input": [_config_tensor(spec) for spec in inputs_of(version.schema)],
        "output": [_config_tensor(spec) for spec in outputs_of(version.manifest)],
        "dynamic_batching": {},
    }


def index(catalog: Catalog, *, only_ready: bool) -> list[dict[str, str]]:
    """Every version of every model, sorted, and what is wrong with those that were refused."""
    refused = catalog.failures
    live = {(name, number) for name, versions in catalog.live().items() for number in versions}
    rows = [(name, number, "READY", refused.get(f"{name}/{number}", "")) for name, number in live]
    if not only_ready:
        rows += [(name, 0, "UNAVAILABLE", "unloaded") for name in catalog.unloaded()]
    for place, reason in refused.items():
        name, _, number = place.rpartition("/")
        if number.isdecimal() and not only_ready and (name, int(number)) not in live:
            rows.append((name, int(number), "UNAVAILABLE", reason))
    return [
        {"name": name, "version": str(number or ""), "state": state, "reason": reason}
        for name, number, state, reason in sorted(rows)
    ]


def statistics(versions: list[Version], totals: Mapping[tuple[str, str], Totals]) -> dict[str, Any]:
    """What these versions did since the server started, in nanoseconds and milliseconds; no figure ever goes down.

    `batch_stats` is empty: times are not kept by size of batch.
    """
    none = Totals()
    return {"model_stats": [_of_version(one, totals.get((one.name, str(one.number)), none)) for one in versions]}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    tensor: dict[str, Any] = {
        "name": spec.name,
        "data_type": _CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"),
        "dims": [spec.width or 1],
    }
    return tensor if spec.width else tensor | {"reshape": {"shape": []}}  # Triton's way to say: rows only


def _of_version(version: Version, did: Totals) -> dict[str, Any]:
    def spent(stage: str) -> dict[str, int]:  # one count for all: perf_analyzer ends when they differ
        return {"count": did.answered, "ns": round(did.seconds[stage] * 1e9)}

    return {
        "name": version.name,
        "version": str(version.number),
        "last_inference": round(did.last_batch * 1e3),
        "inference_count": did.rows,
        "execution_count": did.batches,
        "inference_stats": {
            "success": spent("whole"),
            "fail": {"count": did.failed, "ns": round(did.seconds["failed"] * 1e9)},
            "queue": spent("queue"),
            "compute_input": spent("encode"),
            "compute_infer": spent("compute"),
            "compute_output": spent("write"),
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
