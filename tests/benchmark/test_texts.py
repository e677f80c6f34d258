"""Item texts that are not there, or say nothing, are noticed while planning."""

from __future__ import annotations

import json

import pytest
import yaml

from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.texts import remarks
from recbole_kd.errors import DataError, SpecError

READERS = {
    "teacher": {"teacher": "template"},
    "placebo": {"teacher": "shuffled", "profile": {"extends": "template"}},
    "items": {"system": "text-init"},
    "profiles of a system": {"system": "profile-token"},
    "lists": {"teacher": "template", "lists": {"source": "text"}, "distill": {"objective": "kl"}},
}


def call(*arguments: object) -> int:
    """Run the command line in this process; return its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def rewrite(place, **changes):
    path = place / "properties" / "dataset" / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def rename(place, suffix, old, new):
    """Give a column of an atomic file another name."""
    path = place / "data" / "tiny" / f"tiny.{suffix}"
    head, rest = path.read_text().split("\n", 1)
    path.write_text(head.replace(f"{old}:", f"{new}:") + "\n" + rest)


@pytest.mark.parametrize("name", READERS)
def test_a_dataset_without_texts_is_refused_where_they_are_read(name, place, write_experiment):
    path = write_experiment("reads", {"variants": {"plain": {}, "v": READERS[name]}, "controls": "none"})
    assert load_experiment(path).cells
    rewrite(place, text=None)
    with pytest.raises(SpecError, match=r"reads\.yaml:\d+: variant 'v': .*'tiny' has text: null"):
        load_experiment(path)


def test_a_dataset_without_texts_serves_what_reads_none(place, write_experiment, tmp_path):
    (tmp_path / "v.npz").write_bytes(b"vectors of somebody else")
    variants = {"plain": {}, "own": {"embeddings": str(tmp_path / "v.npz"), "trust_unverified": True}}
    rewrite(place, text=None)
    assert len(load_experiment(write_experiment("none", {"variants": variants})).cells) == 4


@pytest.mark.parametrize(
    ("suffix", "column", "said"),
    [
        ("item", "genre", "no column 'genre'; the file has item_id, title, other: mend text.fields"),
        ("item", "item_id", "no column 'item_id'"),
        ("inter", "rating", "no column 'rating'"),
    ],
)
def test_columns_that_are_not_there_are_named_while_planning(suffix, column, said, place, capsys):
    rename(place, suffix, column, "other")
    assert call("plan", "small", "--results", place / "results") == 2
    error = capsys.readouterr().err
    assert f"tiny.{suffix}, line 1: {said}" in error
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(DataError, match=f"line 1: no column '{column}'"):
        load_experiment("small")


def test_a_plan_names_texts_without_categories_once(place, write_experiment, capsys):
    rename(place, "item", "genre", "kind")
    rewrite(place, text={"title": "title", "fields": ["title", "kind"]})
    teachers = {
        "kd": {"teacher": "template"},
        "read": {"system": "profile-token"},
        "tf": {"teacher": "tfidf"},
    }
    path = write_experiment("kinds", {"variants": {"plain": {}, **teachers}, "controls": "none"})
    assert call("plan", path, "--results", place / "results") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert f"{place / 'data/tiny/tiny.item'}: none of the text fields title, kind is known" in line
    assert "genres or genre or class or categories or category (domain movies)" in line
    assert call("plan", path, "--results", place / "results", "--json") == 0
    assert ["note: " + said for said in json.loads(capsys.readouterr().out)["remarks"]] == [line]


def test_nothing_is_remarked_where_categories_are_known_or_nobody_writes(place, write_experiment):
    path = write_experiment("kd", {"variants": {"plain": {}, "kd": {"teacher": "template"}}})
    assert remarks(c.spec for c in load_experiment(path).cells) == []
    rename(place, "item", "genre", "kind")
    rewrite(place, text={"title": "title", "fields": ["title", "kind"]})
    assert len(remarks(c.spec for c in load_experiment(path).cells)) == 1
    assert remarks(c.spec for c in load_experiment("small").cells) == []


def test_the_domain_that_the_writer_names_decides(place, write_experiment):
    """Movies know a column 'class', beauty does not."""
    rename(place, "item", "genre", "class")
    rewrite(place, text={"title": "title", "fields": ["title", "class"]})
    for domain, count in (("movies", 0), ("beauty", 1)):
        kd = {"teacher": "template", "profile": {"writer": {"domain": domain}}}
        path = write_experiment(domain, {"variants": {"plain": {}, "kd": kd}})
        assert len(remarks(c.spec for c in load_experiment(path).cells)) == count


@pytest.mark.parametrize("reader", ["teacher", "items of a system"])
def test_damage_about_categories_is_refused_while_planning(reader, place, write_experiment):
    damaged = {"corruption": [{"kind": "invented-claims", "rate": 0.5, "seed": 1}]}
    if reader == "teacher":
        variant = {"teacher": "template", "profile": damaged}
    else:
        (place / "properties" / "profile" / "bad.yaml").write_text(
            yaml.safe_dump({"extends": "template", "name": "bad", "description": "damaged", **damaged})
        )
        variant = {"system": "profile-token", "inputs": {"teacher": "bad"}}
    path = write_experiment("damage", {"variants": {"plain": {}, "v": variant}, "controls": "none"})
    assert load_experiment(path).cells
    rewrite(place, text={"title": "title", "fields": ["title"]})
    said = r"damage\.yaml:\d+: variant 'v', .*tiny\.item: corruption invented-claims .* genres or genre or"
    with pytest.raises(SpecError, match=said):
        load_experiment(path)


def test_an_encoder_behind_an_endpoint_without_one_is_refused(place, write_experiment):
    profile = {"encoder": {"kind": "openai", "model": "text-embedding-3-small"}}
    variants = {"plain": {}, "kd": {"teacher": "template", "profile": profile}}
    with pytest.raises(SpecError, match=r"encoder.*kind openai needs 'model' and the section 'api'"):
        load_experiment(write_experiment("api", {"variants": variants}))
