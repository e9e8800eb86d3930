"""The notebooks of examples/ run as they are, and hold no outputs of somebody's machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
#: What the last cell of each shows.
LAST = {
    "fit_a_photo": "'view.html'",
    "dataset_to_pseudo_truth": "(3, True)",
}
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")


def test_there_are_notebooks_and_the_pages_link_them() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert {path.stem for path in NOTEBOOKS} == set(LAST)
    assert [path.name for path in NOTEBOOKS if f"examples/{path.name}" not in pages] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(code) >= 5
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    # Of a kernel's own process: the checkout, and no more threads than a test may take.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert LAST[path.stem] in outputs[-1][-1]["data"]["text/plain"]
    # A result shows itself as a table, and a person as a picture.
    kinds = {kind for each in outputs for one in each for kind in one.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
