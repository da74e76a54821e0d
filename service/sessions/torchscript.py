"""TorchScript behind the Session seam: the only file of the service that needs torch, loaded when asked for."""

import io
import warnings
from collections.abc import Mapping

import torch

from models.errors import BadVersion
from models.proof import INPUT, Answers
from models.repository import Version
from models.schema import Matrix, Schema

FILE = "model.torchscript.pt"
_DATATYPES = {torch.float32: "FP32", torch.float64: "FP64", torch.int64: "INT64"}
_FLOATS = {"FP32": torch.float32, "FP64": torch.float64}


class TorchScriptSession:
    """The network of one version, loaded from bytes that matched their digest: such a file holds code that runs."""

    def __init__(self, version: Version, device: str) -> None:
        """Load the network on a device: "cpu", or "cuda:0" with the number of a GPU.

        Raises:
            BadVersion: torch cannot load the file, or has no such device.
        """
        network = version.read(FILE)
        torch.set_num_threads(1)  # small networks lose more by waking threads than they win
        self._device = torch.device(device)
        self._outputs = [output.name for output in version.manifest.outputs]
        try:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # we know, and asked for it
                loaded = torch.jit.load(io.BytesIO(network), self._device)  # type: ignore[no-untyped-call]  # torch's
            self._network = loaded.eval()
            self._signature = self._what_it_does(version.schema)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1][:300]
            raise BadVersion(str(version), f"torch cannot run {FILE}: {reason}") from None

    @property
    def signature(self) -> Mapping[str, tuple[str, int | None]]:
        """Input and outputs by name: datatype, and length of the second axis (None: only rows)."""
        return self._signature

    def _what_it_does(self, schema: Schema) -> dict[str, tuple[str, int | None]]:
        """The signature, which a TorchScript file does not state: what comes of one row of zeros."""
        width = len(schema.columns)
        answers = self._call(torch.zeros((1, width), dtype=_FLOATS[schema.datatype], device=self._device))
        outputs = {
            name: (_DATATYPES.get(tensor.dtype, str(tensor.dtype)), tensor.shape[1] if tensor.dim() > 1 else None)
            for name, tensor in answers.items()
        }
        return {INPUT: (schema.datatype, width), **outputs}

    def run(self, matrix: Matrix) -> Answers:
        """The answers for a matrix [N, F], N from 0."""
        answers = self._call(torch.from_numpy(matrix).to(self._device))
        return {name: tensor.cpu().numpy() for name, tensor in answers.items()}

    def _call(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            answers = self._network(matrix)
        tensors = answers if isinstance(answers, tuple | list) else (answers,)
        return dict(zip(self._outputs, tensors, strict=True))


def check_device(device: str) -> str | None:
    """Why torch cannot use a device, in one sentence; None when it can."""
    if device != "cpu" and not torch.cuda.is_available():
        return "ROWCAST_DEVICE asks for a GPU, and this torch sees none; set it to cpu or install a CUDA build"
    return None
