import io

import numpy as np
import pytest
import torch

from models.errors import BadVersion
from models.proof import prove
from models.repository import Repository
from service.sessions.onnx import OnnxSession
from service.sessions.torchscript import TorchScriptSession
from tests.service import tiny


class Net(torch.nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.weights, self.bias = (torch.tensor(values, dtype=torch.float32) for values in tiny.WEIGHTS[name])
        self.is_regression = tiny.CLASSES[name] is None

    def forward(self, x):
        scores = torch.nan_to_num(x) @ self.weights + self.bias
        return scores if self.is_regression else (torch.softmax(scores, 1), scores.argmax(1))


@pytest.fixture
def scripted(tmp_path):
    """Publishes a tiny model with a TorchScript file beside the graph."""

    def publish(name: str, garbage: bytes = b""):
        buffer = io.BytesIO()
        with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
            torch.jit.save(torch.jit.trace(Net(name), torch.ones(2, len(tiny.WEIGHTS[name][0]))), buffer)
        repository = Repository(tmp_path)
        plain = tiny.publish(tmp_path, name)

        def fill(draft):
            (draft / "model.onnx").write_bytes(plain.read("model.onnx"))
            (draft / "proof.json").write_bytes(plain.read("proof.json"))
            (draft / "model.torchscript.pt").write_bytes(garbage or buffer.getvalue())
            return lambda number, files: plain.manifest.model_copy(update={"version": number, "files": files})

        return repository.open(name, repository.publish(name, fill))

    return publish


@pytest.mark.parametrize("name", ["line", "flowers"])
def test_torchscript_gives_the_answers_that_onnx_runtime_gives(scripted, name):
    version = scripted(name)
    session = TorchScriptSession(version, "cpu")
    prove(version.manifest, version.proof(), session)
    for count in (0, 1, 5):
        matrix = version.schema.encode([tiny.ROWS[name]] * count)
        for output, right in OnnxSession(version, "cpu").run(matrix).items():
            np.testing.assert_allclose(session.run(matrix)[output], right, rtol=1e-6)


def test_a_file_that_torch_cannot_load_is_refused_in_one_sentence(scripted):
    with pytest.raises(BadVersion, match=r"line/2: torch cannot run model\.torchscript\.pt: "):
        TorchScriptSession(scripted("line", b"garbage"), "cpu")
