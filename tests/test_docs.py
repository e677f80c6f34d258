"""The documents name files that exist and show code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
_PAGES = ("baselines", "distillation", "llm-in-the-loop", "studies")
PAGES = (*DOCUMENTS, *(f"docs/{page}.md" for page in _PAGES))
ROOTS = ("properties", "recbole_kd", "profiles", "analysis", "benchmarks", "tests", "docs")


@pytest.mark.parametrize("document", PAGES)
def test_named_files_exist(document: str, repo_root: Path) -> None:
    text = (repo_root / document).read_text(encoding="utf-8")
    spans = re.findall(r"`([\w./-]+)`", text) + re.findall(r"\]\(([\w./-]+)\)", text)
    named = {s for s in spans if s.split("/")[0] in ROOTS and "/" in s}
    assert named, "nothing was found; is the pattern still right?"
    missing = sorted(name for name in named if not (repo_root / name).exists())
    assert not missing


def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(repo_root: Path) -> None:
    """Of every page, results included; links into pages of the web are not followed."""
    pages = [*(repo_root / name for name in DOCUMENTS), *sorted((repo_root / "docs").rglob("*.md"))]
    wrong = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL))
        near = [link for link in links if "://" not in link]
        wrong += [f"{page.name}: {link}" for link in near if not (page.parent / link).exists()]
        wrong += [f"{page.name}: a mark to fill in"] if "@@" in text or "TODO" in text else []
    assert len(pages) > 20
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str, repo_root: Path) -> None:
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    text = (repo_root / document).read_text(encoding="utf-8")
    named = {t for line in re.findall(r"(?:^|`)make ([a-z -]+)", text, re.MULTILINE) for t in line.split()}
    assert named
    assert named <= targets


def snippet(repo_root: Path, defines: str) -> dict:
    """Names that the one code block with ``defines`` in it leaves behind."""
    text = (repo_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if defines in c]
    names: dict = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_objective_of_contributing_is_one(repo_root: Path) -> None:
    """It runs, ignores users without a profile, and agrees with a hand calculation."""
    import torch

    huber = snippet(repo_root, "def huber")["huber"]
    student = torch.tensor([[0.5, 3.0], [9.0, 9.0]], requires_grad=True)
    loss = huber(student, torch.zeros(2, 2), torch.tensor([True, False]), delta=1.0)
    assert loss.item() == pytest.approx((0.5 * 0.25 + (3.0 - 0.5)) / 2)
    loss.backward()
    assert student.grad is not None
    assert student.grad[1].tolist() == [0.0, 0.0]


def test_the_schedule_of_contributing_is_one(repo_root: Path) -> None:
    from tests.students import distill_spec

    halving = snippet(repo_root, "class Halving")["Halving"](distill_spec(alpha=0.8, distil_epochs=3), 10)
    assert [halving.alpha(epoch) for epoch in range(1, 6)] == [0.8, 0.4, 0.2, 0.0, 0.0]
    assert halving.patience_from == 3


def test_the_corruption_of_contributing_is_one(repo_root: Path) -> None:
    """Dose 0 changes nothing, dose 1 everything, and what is damaged stays so at a higher dose."""
    from profiles.corrupt.base import Dice
    from profiles.spec import CorruptionSpec

    corruption = snippet(repo_root, "def swap_case")["CORRUPTION"]
    text = " ".join("word" for _ in range(200))

    def damaged(rate: float) -> list[bool]:
        spec = CorruptionSpec(kind="swap-case", rate=rate, seed=1)
        return [word.isupper() for word in corruption.text(text, spec, Dice("some name"), None).split(" ")]

    assert not any(damaged(0.0))
    assert all(damaged(1.0))
    low, high = damaged(0.25), damaged(0.5)
    assert 20 < sum(low) < sum(high) < 140
    assert all(b for a, b in zip(low, high, strict=True) if a)


def test_every_fusion_choice_is_explained(repo_root: Path) -> None:
    """Each key of ``distill`` and each value that a registry offers stands in docs/distillation.md."""
    from recbole_kd.models.layers import LAYER_JOINS
    from recbole_kd.models.pooling import POOLINGS
    from recbole_kd.models.prefixes import PREFIXES
    from recbole_kd.models.projections import PROJECTIONS
    from recbole_kd.models.several import SEVERAL
    from recbole_kd.models.targets import TARGETS
    from recbole_kd.training.gradients import CONFLICTS
    from recbole_kd.training.schedules import SCHEDULES
    from recbole_kd.training.spec import DistillSpec

    text = (repo_root / "docs" / "distillation.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[\w-]+", text))
    registries = [LAYER_JOINS, POOLINGS, PREFIXES, PROJECTIONS, SEVERAL, TARGETS, CONFLICTS, SCHEDULES]
    wanted = {name for registry in registries for name in registry} | set(DistillSpec.model_fields)
    assert sorted(wanted - words - {"objective", "objective_args"}) == []


def test_the_study_of_contributing_is_one(repo_root: Path, tmp_path: Path, monkeypatch) -> None:
    """The YAML resolves, in full and as its small cut, and the file beside it is a page."""
    from analysis.studies.page import StudyPage
    from recbole_kd.benchmark.study.load import load_study

    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    text = (repo_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (written,) = [c for c in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "study:" in c]
    path = tmp_path / "study_alpha.yaml"
    path.write_text(written, encoding="utf-8")
    full, cut = load_study(str(path)), load_study(str(path), smoke=True)
    assert {c.label.variant for c in full.parts[0].experiment.cells} >= {"plain", "kd", "alpha@0.2"}
    assert len(cut.parts[0].experiment.cells) == 4
    assert isinstance(snippet(repo_root, "PAGE = StudyPage")["PAGE"], StudyPage)
