"""The example notebook: shipped with outputs, without errors or paths of a machine; runs as it is."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "walkthrough.ipynb"


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_shipped_with_output_and_without_errors() -> None:
    code = [c for c in cells() if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3
    assert any("text/markdown" in o.get("data", {}) for o in outputs)


def test_names_no_path_of_a_machine() -> None:
    text = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    assert not re.search(r"/(home|work|root|tmp|Users)/", text)


def test_uses_only_documented_names() -> None:
    import analysis

    source = "".join("".join(c["source"]) for c in cells() if c["cell_type"] == "code")
    used = set(re.findall(r"\banalysis\.(\w+)\(", source))
    assert used
    assert used <= set(analysis.__all__)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_from_an_empty_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("RECBOLE_KD_NOTEBOOK_RESULTS", str(tmp_path / "results"))
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=1500, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "results" / "walkthrough" / "report.html").exists()
    assert os.listdir(tmp_path / "results" / "walkthrough")
