"""Damage that writes about categories is refused where items have none, before a text is bought."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from profiles.build import build_teacher, write_texts
from profiles.corrupt import CORRUPTIONS, corrupt_texts
from profiles.spec import TeacherSpec
from profiles.store import Store
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError

TEXT_KINDS = sorted(k for k in CORRUPTIONS if CORRUPTIONS[k].level == "text")
ABOUT_CATEGORIES = ("attribute-swap", "contradiction", "invented-claims")


def damaging(template: dict, kind: str, rate: float = 1.0) -> TeacherSpec:
    return TeacherSpec.model_validate(template | {"corruption": [{"kind": kind, "rate": rate, "seed": 1}]})


@pytest.fixture
def titles(texts: dict) -> dict[str, dict[str, str]]:
    return {token: {"movie_title": own["movie_title"]} for token, own in texts.items()}


@pytest.mark.parametrize("kind", ABOUT_CATEGORIES)
@pytest.mark.parametrize("missing", ["column", "values"])
def test_what_writes_about_categories_is_refused_without_them(
    kind: str, missing: str, split: Split, titles: dict, template: dict, tmp_path: Path
) -> None:
    if missing == "values":
        titles = {token: own | {"class": "unknown"} for token, own in titles.items()}  # movies drop this one
    with pytest.raises(SpecError) as said:
        build_teacher(damaging(template, kind), split, titles, tmp_path / "out", domain="movies")
    line = str(said.value)
    assert "\n" not in line
    assert f"dataset tiny: corruption {kind} " in line
    assert f"text fields {', '.join(next(iter(titles.values())))} name none" in line
    assert "genres or genre or class" in line
    assert "use one of boilerplate, sentence-swap, truncation" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", sorted(set(TEXT_KINDS) - set(ABOUT_CATEGORIES)))
def test_the_others_need_titles_only(kind: str, split: Split, titles: dict, template: dict) -> None:
    spec = damaging(template, kind)
    with Store(Path(":memory:")) as store:
        profiles = write_texts(spec, split, titles, store, domain="movies").profiles
    profiles = [replace(p, text=f"{p.user} reads. {p.user} goes out.") for p in profiles]
    damaged = corrupt_texts(spec, split, profiles, titles, "movies")
    assert all(new != p.text for new, p in zip(damaged, profiles, strict=True))


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_dose_of_nothing_needs_nothing(
    kind: str, split: Split, titles: dict, template: dict, tmp_path: Path
) -> None:
    assert build_teacher(damaging(template, kind, 0.0), split, titles, tmp_path, domain="movies").is_file()


def test_makers_are_enough_to_swap_attributes(split: Split, titles: dict, template: dict) -> None:
    makers = {t: own | {"studio": f"Maker {i % 5}"} for i, (t, own) in enumerate(titles.items())}
    spec = damaging(template, "attribute-swap")
    with Store(Path(":memory:")) as store:
        profiles = write_texts(spec, split, makers, store, domain="movies").profiles
    profiles = [replace(p, text="They like Maker 0.") for p in profiles]
    damaged = corrupt_texts(spec, split, profiles, makers, "movies")
    assert set(damaged) <= {f"They like Maker {i}." for i in range(5)}
    assert damaged != [p.text for p in profiles]
    with pytest.raises(SpecError, match="corruption contradiction"):
        corrupt_texts(damaging(template, "contradiction"), split, profiles, makers, "movies")
