"""A dataset in memory-mapped files equals the one in RAM, however small the stretches are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_kd.data import scratch as scratch_module
from recbole_kd.data.load import load_dataset
from recbole_kd.data.scratch import Scratch
from recbole_kd.data.split import make_split
from recbole_kd.errors import DataError
from tests.data.conftest import spec_of, write_rows
from tests.data.test_load import rows_of_anything

anew = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parts(split):
    yield split.train
    for part in (split.valid, split.test):
        yield part.history


def assert_equal(mapped, plain):
    assert mapped.digest == plain.digest
    assert mapped.counts == plain.counts
    assert mapped.user_tokens.tolist() == plain.user_tokens.tolist()
    assert mapped.item_tokens.tolist() == plain.item_tokens.tolist()
    assert mapped.times.tolist() == plain.times.tolist()
    assert mapped.file_rows.tolist() == plain.file_rows.tolist()
    assert np.array_equal(mapped.sequences.offsets, plain.sequences.offsets)
    assert mapped.sequences.items.tolist() == plain.sequences.items.tolist()
    assert mapped.sequences.users.tolist() == plain.sequences.users.tolist()
    assert (mapped.ratings is None) == (plain.ratings is None)
    if plain.ratings is not None:
        assert mapped.ratings.tolist() == plain.ratings.tolist()


@anew
@given(
    rows_of_anything,
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([None, 2.5]),
    st.integers(1, 9),
)
def test_equal_to_loading_in_ram(
    tmp_path, monkeypatch, rows, min_user, min_item, iterate, min_rating, at_once
):
    monkeypatch.setattr(Scratch, "rows", property(lambda self: at_once))
    write_rows(tmp_path, rows)
    chosen = {"min_rating": min_rating, "min_user_inter": min_user, "min_item_inter": min_item}
    spec = spec_of(tmp_path, filter={**chosen, "iterate": iterate})
    memory = {"folder": str(tmp_path / "scratch"), "budget_mb": 64}
    mapped_spec = spec_of(tmp_path, filter={**chosen, "iterate": iterate}, memory=memory)
    assert mapped_spec.canonical() == spec.canonical(), "no part of a cell's address"
    try:
        plain = load_dataset(spec)
    except DataError as error:
        with pytest.raises(DataError, match=str(error)[-40:].replace("(", r"\(").replace(")", r"\)")):
            load_dataset(mapped_spec)
        return
    mapped = load_dataset(mapped_spec)
    assert_equal(mapped, plain)
    for protocol in ("leave-one-out", "temporal"):
        options = spec_of(tmp_path, split={"protocol": protocol}).split
        try:
            want = make_split(plain, options)
        except DataError:
            continue
        got = make_split(mapped, options)
        assert (got.digest, got.counts) == (want.digest, want.counts)
        for one, other in zip(parts(got), parts(want), strict=True):
            assert isinstance(one.items, np.memmap) or not len(one.items)
            assert one.items.tolist() == other.items.tolist()
            assert one.offsets.tolist() == other.offsets.tolist()
        assert got.test.targets.tolist() == want.test.targets.tolist()


@pytest.mark.parametrize("times", [[1, 2, 3, 1, 2], [1, 2, 2, 1, 2], [1, 2, 4, 1, 2], [2, 1, 3, 1, 1]])
def test_times_that_are_positions_are_recognised(tmp_path, monkeypatch, times):
    monkeypatch.setattr(Scratch, "rows", property(lambda self: 2))
    write_rows(tmp_path, [("a" if k < 3 else "b", f"i{k}", 1.0, float(t)) for k, t in enumerate(times)])
    memory = {"folder": str(tmp_path / "scratch"), "budget_mb": 64}
    assert_equal(load_dataset(spec_of(tmp_path, memory=memory)), load_dataset(spec_of(tmp_path)))


def test_a_bad_line_is_named_as_in_ram_and_nothing_is_left(tmp_path):
    write_rows(tmp_path, [("a", "x", 1.0, 1.0), ("b", " ", 1.0, 2.0)])
    memory = {"folder": str(tmp_path / "scratch"), "budget_mb": 64}
    with pytest.raises(DataError, match="line 3, field item_id: blank"):
        load_dataset(spec_of(tmp_path, memory=memory))
    assert not list((tmp_path / "scratch").iterdir())


def test_blank_lines_at_the_end_are_named(tmp_path):
    """In memory they are passed over; the other loader had called such a file no table."""
    write_rows(tmp_path, [("a", "x", 1.0, 1.0), ("b", "y", 1.0, 2.0)])
    file = next(tmp_path.glob("*.inter"))
    file.write_text(file.read_text() + "\n")
    assert len(load_dataset(spec_of(tmp_path)).sequences) == 2
    memory = {"folder": str(tmp_path / "scratch"), "budget_mb": 64}
    with pytest.raises(DataError, match=r"\.inter: ends in blank lines; remove them"):
        load_dataset(spec_of(tmp_path, memory=memory))


def test_stretches_hold_no_more_than_the_budget_and_all_rows():
    scratch = Scratch("unused", 64)
    offsets = np.r_[0, np.cumsum(np.random.default_rng(0).integers(0, 200_000, 40))]
    stretches = list(scratch.ranges(offsets))
    covered = [r for some in stretches for r in range(some.start, some.stop)]
    assert set(np.flatnonzero(np.diff(offsets))) <= set(covered)
    assert len(covered) == len(set(covered))
    for some in stretches:
        held = offsets[some.stop] - offsets[some.start]
        assert held * scratch_module._BYTES_PER_ROW <= 64 << 20 or some.stop == some.start + 1


def test_a_stored_split_is_mapped_and_equal(tmp_path):
    from recbole_kd.benchmark.artefacts import _write_mapped, _write_split, read_split

    write_rows(tmp_path, [(f"u{k % 3}", f"i{k % 7}", 1.0, float(k)) for k in range(30)])
    spec = spec_of(tmp_path, memory={"folder": str(tmp_path / "scratch"), "budget_mb": 64})
    split = make_split(load_dataset(spec), spec.split)
    _write_mapped(tmp_path / "s.mapped", split)
    _write_split(tmp_path / "s.npz", split)
    mapped, plain = read_split(tmp_path / "s.mapped"), read_split(tmp_path / "s.npz")
    assert isinstance(mapped.train.items, np.memmap)
    assert mapped.digest == plain.digest == split.digest
    assert_equal(mapped.dataset, plain.dataset)
    for one, other in zip(parts(mapped), parts(plain), strict=True):
        assert one.items.tolist() == other.items.tolist()
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]
