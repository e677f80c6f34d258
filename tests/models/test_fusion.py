"""Targets, projections, several profiles, layers, prefixes and weights of the head, each by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.head import DistillationHead
from recbole_kd.models.pooling import POOLINGS, Tokens, pool
from recbole_kd.models.several import SEVERAL
from recbole_kd.models.targets import TARGETS, prepare_target
from tests.students import BACKBONES, MAX_LEN, distill_spec, sequences, student

KNOWN = torch.tensor([False, True, True, False, True])


def _teachers(n: int = 200, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.rand(n) < 0.8
    return torch.randn(n, d) @ torch.randn(d, d) + 3, mask


@pytest.mark.parametrize("how", ["whitened-pca", "whitened-zca"])
def test_whitening_gives_identity_covariance(how):
    vectors, mask = _teachers()
    got = prepare_target(vectors, mask, how, 0.0)
    assert bool((got[~mask] == 0).all())
    torch.testing.assert_close(got[mask].mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    covariance = np.cov(got[mask].numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(6), atol=1e-4)


def test_shrinkage_holds_down_what_whitening_blows_up():
    """Variance of axis i becomes l_i / ((1 - s) l_i + s mean(l)); s = 1 only scales."""
    vectors, mask = _teachers()
    values = np.linalg.eigvalsh(np.cov(vectors[mask].numpy().astype(np.float64).T, bias=True))[::-1]
    got = prepare_target(vectors, mask, "whitened-pca", 0.3)[mask].numpy()
    np.testing.assert_allclose(got.var(0), values / (0.7 * values + 0.3 * values.mean()), rtol=1e-3)
    centred = vectors[mask] - vectors[mask].mean(0)
    scaled = prepare_target(vectors, mask, "whitened-zca", 1.0)[mask]
    torch.testing.assert_close(scaled, centred / values.mean() ** 0.5, rtol=1e-3, atol=1e-4)


def test_zca_is_the_symmetric_whitening():
    vectors, mask = _teachers()
    centred = (vectors[mask] - vectors[mask].mean(0)).double().numpy()
    got = prepare_target(vectors, mask, "whitened-zca", 0.0)[mask].double().numpy()
    turn = np.linalg.lstsq(centred, got, rcond=None)[0]
    np.testing.assert_allclose(turn, turn.T, atol=1e-4)
    assert np.linalg.eigvalsh(turn).min() > 0


@pytest.mark.parametrize("how", ["whitened-pca", "whitened-zca", "standardised"])
def test_a_constant_dimension_or_more_dimensions_than_users_stay_finite(how):
    vectors, mask = _teachers(4, 6)
    vectors[:, 2] = 5.0
    mask[:] = True
    got = prepare_target(vectors, mask, how, 0.0)
    assert bool(got.isfinite().all())
    assert float(got.abs().max()) < 10


@pytest.mark.parametrize("how", sorted(TARGETS))
def test_targets_are_fitted_on_every_profile_that_exists(how):
    vectors, mask = _teachers(30, 4)
    both = torch.stack([vectors[:15], vectors[15:]], 1)
    got = prepare_target(both, torch.stack([mask[:15], mask[15:]], 1), how, 0.1)
    want = prepare_target(vectors, mask, how, 0.1)
    torch.testing.assert_close(got[:, 0], want[:15])
    torch.testing.assert_close(got[:, 1], want[15:])
    assert bool((prepare_target(vectors, torch.zeros(30, dtype=torch.bool), how) == 0).all())


def _head(vectors=None, weight=KNOWN, **changes):
    torch.manual_seed(0)
    vectors = torch.randn(5, 4) if vectors is None else vectors
    return DistillationHead(distill_spec(**changes), 6, vectors, weight, seed=1, width=8)


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("projector", ["linear", "mlp"])
@pytest.mark.parametrize("frozen", [False, True])
def test_projections_by_hand_learned_or_frozen(side, projector, frozen):
    head = _head(projection=side, projector=projector, projector_frozen=frozen, target="raw")
    state, user = torch.randn(3, 6, requires_grad=True), torch.tensor([1, 2, 4])
    given = state if side == "student" else head.vectors[user, 0]
    if projector == "linear":
        mapped = given @ head.projection.weight.t() + head.projection.bias
    else:
        one, two = head.projection.first, head.projection.second
        assert one.weight.shape[0] == 12
        inner = given @ one.weight.t() + one.bias
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        mapped = inner @ two.weight.t() + two.bias
    other = head.vectors[user, 0] if side == "student" else state
    loss = head(state, user)
    torch.testing.assert_close(loss, (mapped - other).square().mean())
    loss.backward()
    learned = [p.grad is not None for p in head.projection.parameters()]
    assert learned == [not frozen] * len(learned)
    assert bool((state.grad != 0).any())


def _several(how: str) -> tuple[DistillationHead, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    vectors, mask = torch.randn(5, 3, 6), torch.rand(5, 3) < 0.7
    mask[0] = False
    mask[1] = torch.tensor([True, False, True])
    changes = {"several_profiles": how, "projection": "none", "target": "raw"}
    return DistillationHead(distill_spec(**changes), 6, vectors, mask, seed=1), vectors, mask


@pytest.mark.parametrize("how", sorted(SEVERAL))
def test_several_profiles_against_a_loop(how):
    head, vectors, mask = _several(how)
    if how == "attention":
        torch.nn.init.normal_(head.profile_scorer.weight)
    state, user = torch.randn(4, 6), torch.tensor([1, 2, 3, 4])
    _, got = head.compared(state, user)
    for row, u in enumerate(user.tolist()):
        mine = vectors[u][mask[u]]
        if not len(mine):
            continue
        want = {
            "mean": lambda m: m.mean(0),
            "attention": lambda m: torch.softmax(head.profile_scorer(m).squeeze(-1), 0) @ m,
            "nearest": lambda m: min(m, key=lambda z: float((z - state[row]).square().sum())),  # noqa: B023
        }[how](mine)
        torch.testing.assert_close(got[row], want)


def test_attention_over_profiles_begins_at_the_mean_and_learns():
    head, _, _ = _several("attention")
    plain, _, _ = _several("mean")
    state, user = torch.randn(4, 6), torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(head(state, user), plain(state, user))
    head(state, user).backward()
    assert bool((head.profile_scorer.weight.grad != 0).any())


@pytest.mark.parametrize("how", sorted(SEVERAL))
def test_a_profile_that_does_not_exist_is_never_looked_at(how):
    head, vectors, mask = _several(how)
    spec = distill_spec(several_profiles=how, projection="none", target="raw")
    blind = DistillationHead(spec, 6, torch.where(mask[..., None], vectors, 99.0), mask, seed=1)
    state, user = torch.randn(5, 6), torch.arange(5)
    torch.testing.assert_close(head(state, user), blind(state, user))


def test_coverage_all_divides_by_everybody():
    state, user = torch.randn(4, 6), torch.tensor([1, 3, 4, 0])
    profiled, everybody = _head()(state, user), _head(coverage="all")(state, user)
    torch.testing.assert_close(everybody, profiled * 2 / 4)


def test_coverage_all_divides_below_the_root():
    """The published code: RMSE = sqrt(squares of those with a profile, summed, over all B D numbers)."""
    state, user = torch.randn(4, 6), torch.tensor([1, 3, 4, 0])
    head = _head(objective="rmse", target="raw", coverage="all")
    one, other = head.compared(state, user)
    squares = (one - other).square().sum(1) * head.known[user]
    torch.testing.assert_close(head(state, user), (squares.sum() / one.numel()).sqrt())
    # Nobody has one: nothing, and a gradient of nothing.
    head = _head(weight=torch.zeros(5), objective="rmse", coverage="all")
    state.requires_grad_()
    head(state, user).backward()
    assert float(head(state, user).detach()) == 0.0
    assert bool((state.grad == 0).all())


def test_confidence_weighs_users():
    """L = sum_b c_b l_b / sum_b c_b; with coverage all, sum_b c_b l_b / B."""
    torch.manual_seed(3)
    confidence = torch.tensor([0.0, 0.5, 2.0, 0.0, 1.0])
    state, user = torch.randn(4, 6), torch.tensor([1, 2, 4, 0])
    head = _head(weight=confidence, target="raw")
    one, other = head.compared(state, user)
    each = (one - other).square().mean(1) * confidence[user]
    torch.testing.assert_close(head(state, user), each.sum() / 3.5)
    head = _head(weight=confidence, target="raw", coverage="all")
    torch.testing.assert_close(head(state, user), each.sum() / 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"coverage": "all"},
        {"projector": "mlp", "projection": "teacher"},
        {"target": "whitened-zca"},
        {"target": "whitened-pca", "several_profiles": "attention"},
        {"target": "unit", "several_profiles": "nearest"},
        {"several_profiles": "attention", "projection": "teacher"},
    ],
    ids=str,
)
@pytest.mark.parametrize("confidence", [False, True])
def test_users_without_a_profile_have_no_gradient(changes, confidence):
    torch.manual_seed(0)
    weight = torch.rand(5, 2) * torch.tensor([[0, 0], [1, 1], [1, 0], [0, 0], [0, 1]])
    weight = weight if confidence else weight > 0
    head = _head(torch.randn(5, 2, 4), weight, **changes)
    state = torch.randn(5, 6, requires_grad=True)
    head(state, torch.arange(5), torch.rand(5)).backward()
    assert bool(state.grad.isfinite().all())
    assert state.grad.abs().sum(1).gt(0).tolist() == [False, True, True, False, True]
    nobody = head(state[[0, 3]], torch.tensor([0, 3]))
    assert float(nobody.detach()) == 0.0
    (gradient,) = torch.autograd.grad(nobody, state)
    assert bool((gradient == 0).all())


def test_confidence_of_several_profiles():
    """The mean is weighted; the user counts with the mean confidence of the profiles that exist."""
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [7.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]])
    weight = torch.tensor([[1.0, 3.0], [0.5, 0.0], [0.0, 0.0]])
    head = DistillationHead(distill_spec(projection="none", target="raw"), 2, vectors, weight, seed=0)
    assert head.vectors[:, 0].tolist() == [[0.25, 0.75], [2.0, 2.0], [0.0, 0.0]]
    assert head.known.tolist() == [2.0, 0.5, 0.0]


def _batch(model, rows):
    batches = SequenceBatches(sequences(rows), MAX_LEN, 10, shift=model.shift, packed=model.packed)
    return list(batches.epoch(np.random.default_rng(0)))


ROWS = [[3, 8, 2, 11, 5, 6], [7, 1, 9], list(range(1, 22)), [4, 4, 12]]


@pytest.mark.parametrize("name", BACKBONES)
def test_pieces_know_where_they_stand_in_the_history(name):
    model = student(name)
    for batch in _batch(model, ROWS):
        for p, user in enumerate(batch.user.tolist()):
            row, start = ROWS[user - 1], int(batch.start[p])
            assert int(batch.history[p]) == len(row)
            got = batch.item_seq[batch.segment == p].tolist()
            assert got == row[start : start + int(batch.length[p])]


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("prefixes", ["every", "history-share"])
@pytest.mark.parametrize("name", BACKBONES)
def test_distilled_prefixes_against_a_loop(name, prefixes, pooling):
    model = student(name)
    known = torch.tensor([False, True, False, True, True])
    vectors = torch.randn(5, 7)
    model.attach_teacher(distill_spec(prefixes=prefixes, pooling=pooling), vectors, known, seed=2)
    head = model.distil_head
    for batch in _batch(model, ROWS):
        layers = model.encode(batch, None)
        hidden = model.final(layers[-1])
        top = bottom = 0.0
        for p, user in enumerate(batch.user.tolist()):
            states = hidden[batch.segment == p]
            for t in range(len(states)):
                n = torch.tensor([t + 1])
                alone = Tokens(
                    states[None, : t + 1], torch.zeros(1, t + 1).long(), torch.arange(t + 1)[None], n
                )
                pooled = pool(alone, pooling, decay=0.1, scorer=head.scorer)
                distance = (head.projection(pooled)[0] - head.vectors[user, 0]).square().mean()
                seen = (int(batch.start[p]) + t + 1) / len(ROWS[user - 1])
                weight = float(known[user]) * (seen if prefixes == "history-share" else 1.0)
                top, bottom = top + weight * distance, bottom + weight
        got = model.distil_loss(layers, batch)
        if bottom == 0:
            assert got is None
        else:
            torch.testing.assert_close(got, top / bottom)


def test_padding_and_prefixes_exclude_each_other():
    with pytest.raises(SpecError, match="use prefixes: last, or pooling_masked: true"):
        _head(prefixes="every", pooling_masked=False)


@pytest.mark.parametrize("name", BACKBONES)
def test_unmasked_pooling_counts_the_row_that_the_reference_code_pads(name):
    """|h_u| depends on the length of the history: n / MAX_LEN of the masked mean."""
    model = student(name)
    vectors, known = torch.randn(5, 4), torch.ones(5, dtype=torch.bool)
    (batch,) = _batch(model, [[3, 8, 2, 11], [7, 1, 9]])
    hidden = model.final(model.encode(batch, None)[-1])
    got = {}
    for masked in (True, False):
        model.attach_teacher(distill_spec(pooling_masked=masked), vectors, known, seed=2)
        got[masked] = model.distil_head.states(hidden, batch).state
    torch.testing.assert_close(got[False], got[True] * batch.length[:, None] / MAX_LEN)


@pytest.mark.parametrize("name", BACKBONES)
def test_several_layers_are_joined(name):
    deep = {"num_layers": 2} if name == "GRU4Rec" else {}
    model = student(name, **deep)
    vectors, known = torch.randn(5, 4), torch.ones(5, dtype=torch.bool)
    (batch,) = _batch(model, [[3, 8, 2, 11], [7, 1, 9]])
    layers = model.encode(batch, None)
    each = []
    for layer in (1, 2):
        model.attach_teacher(distill_spec(layer=layer), vectors, known, seed=2)
        each.append(model.distil_head.states(layers[layer - 1], batch).state)
    model.attach_teacher(distill_spec(layer=[1, 2]), vectors, known, seed=2)
    head = model.distil_head
    want = head(torch.cat(each, 1), batch.user)
    torch.testing.assert_close(model.distil_loss(layers, batch), want)
    model.attach_teacher(distill_spec(layer=[2, 1], layers_joined="averaged"), vectors, known, seed=2)
    want = model.distil_head((each[0] + each[1]) / 2, batch.user)
    torch.testing.assert_close(model.distil_loss(layers, batch), want)


def test_layers_that_cannot_be_joined_are_refused():
    model = student("GRU4Rec", num_layers=2)
    vectors, known = torch.randn(5, 4), torch.ones(5, dtype=torch.bool)
    for changes, match in (
        ({"layer": [1, 3]}, r"layers 1\.\.2 and -1"),
        ({"layer": [1, 1]}, "names a layer twice"),
        ({"layer": [1, -1], "layers_joined": "averaged"}, r"widths \[24, 16\]; use concatenated"),
        ({"layer": [1, -1], "layers_joined": "average"}, "did you mean 'averaged'"),
        ({"layer": []}, "names none"),
    ):
        with pytest.raises(SpecError, match=match):
            model.attach_teacher(distill_spec(**changes), vectors, known, seed=0)
    model.attach_teacher(distill_spec(layer=[1, -1]), vectors, known, seed=0)
    assert model.distil_head.projection.in_features == 24 + 16


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"prefixes": "evry"}, "distill.prefixes: no prefixes 'evry'; did you mean 'every'"),
        ({"projector": "mpl"}, "did you mean 'mlp'"),
        ({"target": "whitened"}, "did you mean 'whitened-"),
        ({"several_profiles": "closest"}, "distill.several_profiles.*Known: mean, attention, nearest"),
    ],
)
def test_unknown_names(changes, match):
    with pytest.raises(SpecError, match=match):
        _head(**changes)
