"""The documents name files that exist and show code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md")
_PAGES = ("baselines", "distillation", "llm-in-the-loop", "profiles", "runner", "studies")
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


def block(repo_root: Path, holds: str, document: str, language: str) -> str:
    """The one block of a language in a document that ``holds`` some text."""
    text = (repo_root / document).read_text(encoding="utf-8")
    (found,) = [c for c in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holds in c]
    return found


def snippet(repo_root: Path, defines: str, document: str = "CONTRIBUTING.md") -> dict:
    """Names that the one code block with ``defines`` in it leaves behind."""
    names: dict = {}
    exec(compile(block(repo_root, defines, document, "python"), document, "exec"), names)
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
    path = tmp_path / "study_alpha.yaml"
    path.write_text(block(repo_root, "study:", "CONTRIBUTING.md", "yaml"), encoding="utf-8")
    full, cut = load_study(str(path)), load_study(str(path), smoke=True)
    assert {c.label.variant for c in full.parts[0].experiment.cells} >= {"plain", "kd", "alpha@0.2"}
    assert len(cut.parts[0].experiment.cells) == 4
    assert isinstance(snippet(repo_root, "PAGE = StudyPage")["PAGE"], StudyPage)


def atomic_files(folder: Path, name: str, columns: str, words: str) -> None:
    """A data set of twelve users and ten items, whose words every item has."""
    (folder / name).mkdir(parents=True)
    rows = [f"u{u}\ti{(u + t) % 10}\t4\t{t}" for u in range(12) for t in range(8)]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / name / f"{name}.inter").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    items = [f"item_id:token\t{columns}", *(f"i{i}\tThing {i}\t{words}" for i in range(10))]
    (folder / name / f"{name}.item").write_text("\n".join(items) + "\n", encoding="utf-8")


def test_the_files_of_vectors_of_the_recipe_are_accepted(
    repo_root: Path, tmp_path: Path, monkeypatch
) -> None:
    """The code of docs/profiles.md writes both files, its YAML names them, and the guard lets them pass."""
    from recbole_kd.benchmark.resolve import load_experiment
    from recbole_kd.data.load import load_dataset
    from recbole_kd.data.profile_table import load_profiles, read_embedding_file
    from recbole_kd.data.split import make_split

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECBOLE_KD_PROPERTIES", raising=False)
    document = "docs/profiles.md"
    vectors = snippet(repo_root, "ProfileRows.build", document)["vectors"]
    Path("own.yaml").write_text(block(repo_root, "embeddings: mine.parquet", document, "yaml"))
    cells = load_experiment("own.yaml").cells
    assert {c.label.variant for c in cells} == {"plain", "mine", "mine-shuffled", "template"}
    dataset = cells[0].spec.dataset
    split = make_split(load_dataset(dataset), dataset.split)
    mine = load_profiles("mine.parquet", split, trust_unverified=False)
    other = load_profiles("mine-shuffled.parquet", split, trust_unverified=False)
    assert (mine.coverage, mine.verified, other.coverage, other.verified) == (1.0, True, 1.0, True)
    assert mine.vectors[split.train.users, 0] == pytest.approx(vectors, rel=1e-6)
    rows, manifest = read_embedding_file("mine-shuffled.parquet")
    assert manifest["placebo"] == {"kind": "shuffled", "seed": 1}
    assert not (rows.user == rows.source_user).any()


def test_the_steps_of_the_readme_to_an_experiment_of_ones_own(
    repo_root: Path, tmp_path: Path, monkeypatch
) -> None:
    """Its copies, its YAML and the data folder that it names resolve, with the controls that it promises."""
    import shutil

    from recbole_kd.benchmark.resolve import load_experiment

    monkeypatch.chdir(tmp_path)
    for variable in ("RECBOLE_KD_PROPERTIES", "RECBOLE_KD_DATA"):
        monkeypatch.delenv(variable, raising=False)
    text = (repo_root / "README.md").read_text(encoding="utf-8")
    copies = re.findall(r"^cp (\S+) (\S+)", text, re.MULTILINE)
    assert len(copies) == 2
    for source, target in copies:
        shutil.copy(repo_root / source, target)
    columns = "title:token_seq\tcategory:token_seq"
    atomic_files(tmp_path / "data", "my-shop", columns, "'Garden Tools', 'Outdoor'")
    Path("mine.yaml").write_text(block(repo_root, "experiment: mine", "README.md", "yaml"))
    cells = load_experiment("mine.yaml").cells
    assert {c.label.variant for c in cells} == {"plain", "kd", "kd-template", "kd-shuffled"}


def test_recboles_names_of_columns_are_said_in_an_experiment(
    repo_root: Path, tmp_path: Path, monkeypatch
) -> None:
    from profiles.items import Catalogue
    from profiles.prompts import load_domain
    from recbole_kd.benchmark.resolve import load_experiment
    from recbole_kd.benchmark.texts import remarks
    from recbole_kd.data.load import load_item_texts
    from recbole_kd.errors import DataError

    monkeypatch.setenv("RECBOLE_KD_DATA", str(tmp_path))
    columns = "movie_title:token_seq\trelease_year:token\tgenre:token_seq"
    atomic_files(tmp_path, "ml-1m", columns, "1995\tComedy Drama")
    (said,) = re.findall(r"`(dataset: \{text: .*?\})`", (repo_root / "README.md").read_text(encoding="utf-8"))
    lines = ["experiment: x", "datasets: [ml-1m]", "backbones: [SASRec]"]
    path = tmp_path / "x.yaml"
    path.write_text("\n".join([*lines, "variants: {plain: {}, kd: {teacher: template}}"]))
    with pytest.raises(DataError, match="no column 'title'"):
        load_experiment(path)
    path.write_text("\n".join([*lines, "variants: {plain: {}, kd: {teacher: template}}", said]))
    cells = [c.spec for c in load_experiment(path).cells]
    assert remarks(cells) == []
    item = Catalogue(load_item_texts(cells[0].dataset), load_domain(cells[0].dataset.domain))["i3"]
    assert (item.title, item.year, item.categories) == ("Thing 3", 1995, ("Comedy", "Drama"))


def test_the_template_of_a_dataset_names_the_columns_that_are_known(repo_root: Path) -> None:
    """And shows several categories in one cell as they are read."""
    from profiles.items import split_categories
    from profiles.prompts import load_domain

    text = (repo_root / "properties/dataset/own-dataset.yaml").read_text(encoding="utf-8")
    named = {}
    for role in load_domain("generic").roles:
        (line,) = re.findall(rf"^#   {role} +(.*)$", text, re.MULTILINE)
        named[role] = tuple(line.partition(";")[0].split(", "))
    assert named == load_domain("generic").roles
    for written in ("'Garden Tools', 'Outdoor'", "Garden Tools|Outdoor", "Garden Tools, Outdoor"):
        assert written in " ".join(text.replace("\n# ", " ").split())
        assert split_categories(written) == ("Garden Tools", "Outdoor")
    assert split_categories("Garden Tools") == ("Garden", "Tools")
    assert split_categories("'Garden Tools'") == ("Garden Tools",)
