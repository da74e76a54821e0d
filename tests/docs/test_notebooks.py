"""docs/notebooks: every notebook runs, in a kernel of its own, and is committed without what a run leaves in it."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def outputs_of(notebook):
    """What a run shows, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]


@pytest.mark.server
def test_from_a_table_to_predictions():
    notebook = read(ROOT / "docs/notebooks/table-to-predictions.ipynb")

    resources = {"metadata": {"path": ROOT / "docs"}}
    patience = {"timeout": 600, "startup_timeout": 600, "iopub_timeout": 600}  # for what a cell shows: 4 s
    NotebookClient(notebook, **patience, kernel_name="python3", resources=resources).execute()

    shown = outputs_of(notebook)
    assert any("version 1: 344 predictions" in text for text in shown)
    assert any("feature 'body_mass_g' must be a number" in text for text in shown)
    assert float(shown[-3].removeprefix("np.float64(").rstrip(")")) < 1e-6
    assert shown[-1] == "0"  # the server ended well


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_clean(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]

    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
