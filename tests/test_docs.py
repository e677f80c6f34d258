"""The documents name files that exist and show code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
ROOTS = ("properties", "recbole_kd", "profiles", "analysis", "benchmarks", "tests", "docs")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str, repo_root: Path) -> None:
    text = (repo_root / document).read_text(encoding="utf-8")
    spans = re.findall(r"`([\w./-]+)`", text) + re.findall(r"\]\(([\w./-]+)\)", text)
    named = {s for s in spans if s.split("/")[0] in ROOTS and "/" in s}
    assert named, "nothing was found; is the pattern still right?"
    missing = sorted(name for name in named if not (repo_root / name).exists())
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str, repo_root: Path) -> None:
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    text = (repo_root / document).read_text(encoding="utf-8")
    named = {t for line in re.findall(r"(?:^|`)make ([a-z -]+)", text, re.MULTILINE) for t in line.split()}
    assert named
    assert named <= targets


def test_the_objective_of_contributing_is_one(repo_root: Path) -> None:
    """It runs, ignores users without a profile, and agrees with a hand calculation."""
    import torch

    text = (repo_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)  # the snippet is ours
    student = torch.tensor([[0.5, 3.0], [9.0, 9.0]], requires_grad=True)
    loss = names["huber"](student, torch.zeros(2, 2), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((0.5 * 0.25 + (3.0 - 0.5)) / 2)
    loss.backward()
    assert student.grad is not None
    assert student.grad[1].tolist() == [0.0, 0.0]
