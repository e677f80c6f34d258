"""Objectives against hand calculation, other implementations and the invariances their papers state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_kd.objectives.ranked import RankedBatch
from recbole_kd.objectives.ranking_distillation import ranks
from tests.objectives.cases import bound, inputs

STUDENT = torch.tensor([[1.0, 0.0], [3.0, 4.0], [7.0, 7.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.0, 2.0], [4.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([True, True, False])

BY_HAND = {
    # rows: (1 + 4) / 2 = 2.5 and (1 + 1) / 2 = 1
    "mse": 1.75,
    "rmse": math.sqrt(1.75),
    # cosines 0 and 24 / 25
    "cosine": 1 - 0.48,
    # rows: (0.5 + 1.5) / 2 = 1 and (0.5 + 0.5) / 2 = 0.5
    "huber": 0.75,
    # summed, not averaged, over dimensions: 5 and 2
    "experts": 3.5,
    # one pair on either side: both relative distances are 1
    "rkd_distance": 0.0,
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_by_hand(name):
    assert float(bound(name)(STUDENT, TEACHER, MASK)) == pytest.approx(BY_HAND[name], rel=1e-9)


def test_float_weights_are_weights_of_the_mean():
    assert float(bound("mse")(STUDENT, TEACHER, torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(
        (3 * 2.5 + 1) / 4
    )


def test_rmse_has_no_gradient_at_its_minimum():
    state = TEACHER.clone().requires_grad_()
    loss = bound("rmse")(state, TEACHER, MASK)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert bool((state.grad == 0).all())


def test_infonce_by_hand():
    # cosines: 0 and .96 with the own profile, .8 with the other's
    tau = 0.5
    first = -0 / tau + math.log(math.exp(0) + math.exp(0.8 / tau))
    second = -0.96 / tau + math.log(math.exp(0.96 / tau) + math.exp(0.8 / tau))
    assert float(bound("infonce", temperature=tau)(STUDENT, TEACHER, MASK)) == pytest.approx(
        (first + second) / 2
    )


def test_infonce_is_cross_entropy_over_the_batch():
    student, teacher, _ = inputs("infonce")
    logits = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).t() / 0.1
    want = F.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(bound("infonce", temperature=0.1)(student, teacher, torch.ones(6)), want)


def test_another_piece_of_the_same_user_is_no_negative():
    student, teacher, _ = inputs("infonce", n=3)
    twice = torch.tensor([0, 1, 2, 0])
    got = bound("infonce", temperature=0.5)(student[twice], teacher[twice], torch.ones(4))
    cosines = torch.exp(F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).t() / 0.5)
    seen = cosines * torch.tensor([[1.0, 1, 1], [2, 1, 1], [2, 1, 1]])
    loss = seen.sum(1).log() - cosines.diagonal().log()
    torch.testing.assert_close(got, loss[twice].mean())
    same = teacher[:1].expand(3, -1)
    assert float(bound("infonce")(student, same, torch.ones(3))) == pytest.approx(0, abs=1e-12)


def test_supcon_with_one_profile_is_infonce():
    student, teacher, weight = inputs("infonce")
    torch.testing.assert_close(
        bound("supcon")(student, teacher[:, None], weight[:, None]),
        bound("infonce")(student, teacher, weight),
    )


def test_supcon_by_brute_force():
    student, teacher, weight = inputs("supcon")
    tau, per_user, mass = 0.2, [], []
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=2)
    known = [(c, j) for c in range(6) for j in range(2) if weight[c, j] > 0]
    for b in range(6):
        own = [j for c, j in known if c == b]
        if not own:
            continue
        total = sum(math.exp(float(s[b] @ t[c, j]) / tau) for c, j in known)
        terms = {j: math.log(total) - float(s[b] @ t[b, j]) / tau for j in own}
        w = {j: float(weight[b, j]) for j in own}
        per_user.append(sum(w[j] * terms[j] for j in own) / sum(w.values()))
        mass.append(sum(w.values()) / len(own))
    want = np.average(per_user, weights=mass)
    assert float(bound("supcon", temperature=tau)(student, teacher, weight)) == pytest.approx(want)


def test_vicreg_by_brute_force():
    student, teacher, _ = inputs("vicreg")
    want = 0.0
    for z in (student.numpy(), teacher.numpy()):
        cov = np.cov(z, rowvar=False)
        want += 3 * np.maximum(0, 1 - np.sqrt(np.diag(cov) + 1e-4)).mean()
        want += 5 * (np.square(cov).sum() - np.square(np.diag(cov)).sum()) / 4
    want += 2 * np.square(student.numpy() - teacher.numpy()).mean()
    args = {"invariance": 2.0, "variance": 3.0, "covariance": 5.0, "both_sides": True}
    assert float(bound("vicreg", **args)(student, teacher, torch.ones(6))) == pytest.approx(want)


def test_vicreg_refuses_to_collapse():
    """A projected teacher that shrinks to a point has no squared distance, yet a loss."""
    point = torch.full((6, 4), 0.3, dtype=torch.float64)
    assert float(bound("mse")(point, point, torch.ones(6))) == 0
    assert float(bound("vicreg")(point, point, torch.ones(6))) > 20


def test_barlow_twins_by_brute_force():
    student, teacher, _ = inputs("barlow_twins")
    c = np.corrcoef(student.numpy(), teacher.numpy(), rowvar=False)[:4, 4:]
    want = np.square(1 - np.diag(c)).sum() + 0.5 * (np.square(c).sum() - np.square(np.diag(c)).sum())
    got = bound("barlow_twins", off_diagonal=0.5)(student, teacher, torch.ones(6))
    assert float(got) == pytest.approx(want)
    torch.testing.assert_close(
        bound("barlow_twins", off_diagonal=0.5)(3 * student - 1, teacher, torch.ones(6)), got
    )


def _rotation(d):
    q, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    return q


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "cka", "similarity"])
def test_relations_do_not_see_rotation_scale_or_place(name):
    student, teacher, weight = inputs(name)
    moved = 3.0 * student @ _rotation(4) + (0.0 if name == "similarity" else 5.0)
    torch.testing.assert_close(bound(name)(moved, teacher, weight), bound(name)(student, teacher, weight))
    assert float(bound(name)(2.0 * teacher @ _rotation(4), teacher, weight)) == pytest.approx(0, abs=1e-9)
    wide = torch.cat([teacher, torch.zeros(6, 3, dtype=torch.float64)], 1)
    torch.testing.assert_close(bound(name)(student, wide, weight), bound(name)(student, teacher, weight))


def test_rkd_distance_by_hand():
    # student: a right angle with legs 3 and 4, mean distance 4; teacher: 1, 1, 2 on a line, mean 4 / 3
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher = torch.tensor([[1.0], [0.0], [2.0]])
    gaps = [3 / 4 - 3 / 4, 4 / 4 - 3 / 4, 5 / 4 - 6 / 4]
    assert float(bound("rkd_distance")(student, teacher, torch.ones(3))) == pytest.approx(
        np.mean([0.5 * g * g for g in gaps])
    )


def test_rkd_angle_by_hand():
    # cosines of the student's triangle 3, 4, 5: 0, 3 / 5, 4 / 5; the teacher's points lie on a line: -1, 1, 1
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher = torch.tensor([[1.0], [0.0], [2.0]])
    gaps = [0 + 1, 3 / 5 - 1, 4 / 5 - 1]
    assert float(bound("rkd_angle")(student, teacher, torch.ones(3))) == pytest.approx(
        np.mean([0.5 * g * g for g in gaps])
    )


def test_similarity_by_hand():
    # G of the student: rows (1, 3), (3, 25), each divided by its norm; the teacher's: (4, 6), (6, 25)
    s = np.array([[1, 3], [3, 25]]) / np.sqrt([[10], [634]])
    t = np.array([[4, 6], [6, 25]]) / np.sqrt([[52], [661]])
    assert float(bound("similarity")(STUDENT, TEACHER, MASK)) == pytest.approx(np.square(s - t).mean())


def test_cka_by_its_kernel_form():
    """HSIC of the centred Gram matrices, the definition before it is simplified for the linear kernel."""
    student, teacher, _ = inputs("cka")
    h = np.eye(6) - 1 / 6
    a, b = (h @ (z @ z.T) @ h for z in (student.numpy(), teacher.numpy()))
    want = 1 - np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
    assert float(bound("cka")(student, teacher, torch.ones(6))) == pytest.approx(want)


def test_attributes_by_hand():
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    want = (3 * math.log(2) + math.log(1 + math.exp(2))) / 2
    assert float(bound("attributes", positive_weight=3.0)(student, teacher, torch.ones(1))) == pytest.approx(
        want
    )


def test_cluster_is_cross_entropy():
    student, teacher, _ = inputs("cluster")
    torch.testing.assert_close(
        bound("cluster")(student, teacher, torch.ones(6)), F.cross_entropy(student, teacher.argmax(1))
    )


LIST = RankedBatch(torch.tensor([[3, 1, 0]]), torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2, 4]]))
SCORES = torch.tensor([[9.0, 1.0, 0.5, -1.0, 2.0]], dtype=torch.float64)


def test_kl_by_hand():
    q = np.exp([1.0, 0.5, -1.0, 2.0])
    q = q / q.sum()
    p = np.exp([2.0, 1.0]) / np.exp([2.0, 1.0]).sum()
    want = sum(a * math.log(a / b) for a, b in zip(p, [q[2], q[0]], strict=True))
    args = {"temperature": 1.0, "teacher_temperature": 1.0, "standardise": False}
    assert float(bound("kl", **args)(SCORES, LIST, torch.ones(1))) == pytest.approx(want)


def test_kl_is_zero_for_the_teachers_own_distribution():
    """A list of all items, the student's scores its own: whatever the temperature."""
    scores = torch.randn(2, 6, dtype=torch.float64)
    order = scores[:, 1:].argsort(1, descending=True) + 1
    teacher = RankedBatch(order, scores.gather(1, order), torch.zeros(2, 0, dtype=torch.int64))
    args = {"temperature": 2.0, "teacher_temperature": 2.0, "standardise": False}
    assert float(bound("kl", **args)(scores, teacher, torch.ones(2))) == pytest.approx(0, abs=1e-12)


def test_ranking_distillation_by_hand():
    # places: item 3 first (student's rank 4), item 1 second (student's rank 2, so tanh(0) = 0)
    position = math.exp(-1) / (math.exp(-1) + math.exp(-2))
    weight = position * math.tanh(0.1 * (4 - 1))
    want = weight * math.log(1 + math.exp(1.0))
    args = {"position_decay": 1.0, "discrepancy": 0.1}
    got = bound("ranking_distillation", **args, normalise=False)(SCORES, LIST, torch.ones(1))
    assert float(got) == pytest.approx(want)
    normal = bound("ranking_distillation", **args, normalise=True)(SCORES, LIST, torch.ones(1))
    assert float(normal) == pytest.approx(math.log(1 + math.exp(1.0)))


def test_ranks_are_counted_among_all_items_but_padding():
    scores = torch.tensor([[99.0, 3.0, 1.0, 2.0, 2.0]])
    assert ranks(scores, scores[:, 1:]).tolist() == [[1, 4, 2, 2]]


def test_relaxed_ranking_by_hand():
    scores = SCORES[0].tolist()
    below = math.exp(scores[2]) + math.exp(scores[4])
    both = math.exp(scores[3]) + math.exp(scores[1])
    want = -(scores[3] - math.log(both + below)) - (scores[1] - math.log(math.exp(scores[1]) + below))
    assert float(bound("relaxed_ranking")(SCORES, LIST, torch.ones(1))) == pytest.approx(want)


def test_relaxed_ranking_does_not_order_the_uninteresting():
    student, teacher, weight = inputs("relaxed_ranking")
    swapped = teacher._replace(others=teacher.others.flip(1))
    torch.testing.assert_close(
        bound("relaxed_ranking")(student, swapped, weight), bound("relaxed_ranking")(student, teacher, weight)
    )


def test_dllm2rec_by_hand():
    p = np.exp([-1.0, -2.0]) / np.exp([-1.0, -2.0]).sum()
    c = np.exp([2.0, 1.0]) / np.exp([2.0, 1.0]).sum()
    o = np.array([0.0, 1.0])  # the student's first three: 4, 1, 2
    v = 0.3 * p + 0.5 * c + 0.1 * o
    v = v / v.sum()
    negative = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(2.0))) / 2
    terms = np.log1p(np.exp([1.0, -1.0])) + negative
    assert float(bound("dllm2rec")(SCORES, LIST, torch.ones(1))) == pytest.approx(float(v @ terms))
