"""Models trained at once equal the same models trained alone, stream by stream."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from recbole_kd.errors import SpecError
from recbole_kd.models import stacked as stacked_model
from recbole_kd.models.cross_entropy import catalogue_cross_entropy
from recbole_kd.models.stacked import _StackedCrossEntropy
from recbole_kd.training import run
from recbole_kd.training.execution import ExecutionSpec
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import GbceSpec
from recbole_kd.training.stacked import StackedAdam, fit_stacked
from tests.students import BACKBONES, MAX_LEN, distill_spec, student_spec, tiny_split
from tests.training.test_execution import execution

PLACE = {"device": "cpu", "max_item_list_length": MAX_LEN}


def alone(spec, seed, **how):
    return fit(tiny_split(), spec, None, seed=seed, **PLACE, **how)


def together(specs, seeds, **how):
    return fit_stacked(tiny_split(), specs, seeds, **PLACE, **how)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_seed_equals_its_solo_run(name):
    spec = student_spec(name, epochs=3, weight_average=0.9)
    seeds = [1, 2, 7]
    for got, seed in zip(together([spec] * 3, seeds), seeds, strict=True):
        want = alone(spec, seed)
        for mine, theirs in zip(got.history, want.history, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert got.best_epoch == want.best_epoch
        assert got.n_parameters == want.n_parameters
        for key, weight in want.state_dict.items():
            torch.testing.assert_close(got.state_dict[key], weight, rtol=0, atol=2e-3, msg=key)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_first_steps_agree_to_rounding(name):
    """Before rounding can grow: two epochs at a small rate, dropout on."""
    spec = student_spec(name, epochs=2, learning_rate=1e-4)
    for got, seed in zip(together([spec] * 2, [3, 4]), [3, 4], strict=True):
        want = alone(spec, seed)
        assert got.history[1]["loss"] == pytest.approx(want.history[1]["loss"], rel=1e-5)


def test_cells_of_a_grid_stop_each_on_its_own():
    specs = [
        student_spec("SASRec", learning_rate=rate, stopping_step=patience, epochs=8)
        for rate, patience in ((0.005, 8), (1e-9, 1), (1e-9, 3))
    ]
    specs.append(student_spec("SASRec", learning_rate_schedule="linear", epochs=5))
    specs.append(student_spec("SASRec", keep_from=0.5, stopping_step=1, epochs=8, learning_rate=1e-9))
    results = together(specs, [1, 1, 1, 2, 1])
    for got, spec in zip(results, specs, strict=True):
        want = alone(spec, 2 if spec is specs[3] else 1)
        assert (got.epochs, got.best_epoch) == (want.epochs, want.best_epoch)
        assert got.history[-1]["loss"] == pytest.approx(want.history[-1]["loss"], rel=1e-3)
    assert [r.epochs for r in results] == [8, 2, 4, 5, 6]
    assert [r.stopped_early for r in results] == [False, True, True, True, True]


def test_clipping_is_by_the_norm_of_each_model():
    specs = [student_spec("SASRec", epochs=2, clip_grad_norm=limit) for limit in (0.05, None)]
    for got, spec in zip(together(specs, [1, 2]), specs, strict=True):
        want = alone(spec, 1 if spec is specs[0] else 2)
        assert got.history[-1]["loss"] == pytest.approx(want.history[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_precision_of_the_device_is_that_of_a_solo_run(name):
    spec, seeds, low = student_spec(name, epochs=2), [1, 2], execution(autocast="bfloat16")
    exact, stacked = together([spec] * 2, seeds), together([spec] * 2, seeds, execution=low)
    solo = [alone(spec, seed, execution=low) for seed in seeds]
    far, near = [], []
    for full, got, want in zip(exact, stacked, solo, strict=True):
        assert got.history[-1]["loss"] == pytest.approx(want.history[-1]["loss"], rel=1e-4)
        assert all(w.dtype == torch.float32 for w in got.state_dict.values() if w.is_floating_point())
        far.append(abs(full.history[0]["loss"] - want.history[0]["loss"]))
        near.append(abs(got.history[0]["loss"] - want.history[0]["loss"]))
    assert min(far) > 0
    if name != "BERT4Rec":  # alone, its last block has other shapes, whose bfloat16 products round otherwise
        assert sum(near) < sum(far) / 2


@pytest.mark.parametrize("name", BACKBONES)
def test_products_are_lower_and_the_loss_is_not(name, monkeypatch):
    """Every forward pass, and only it, is in the precision of the device; the softmax is out of it."""
    entered, lowered, of_loss = [], [], []
    real = ExecutionSpec.precision, stacked_model._inputs, stacked_model.lower

    @contextmanager
    def precision(self, device):
        entered.append(device)
        with real[0](self, device):
            yield

    def inputs(*args):
        lowered.append(torch.is_autocast_enabled("cpu"))
        return real[1](*args)

    def softmax(h, items, dtype):
        of_loss.append((torch.is_autocast_enabled("cpu"), h.dtype, items.dtype))
        return real[2](h, items, dtype)

    monkeypatch.setattr(ExecutionSpec, "precision", precision)
    monkeypatch.setattr(stacked_model, "_inputs", inputs)
    monkeypatch.setattr(stacked_model, "lower", softmax)
    together([student_spec(name, epochs=1)] * 2, [1, 2], execution=execution(autocast="bfloat16"))
    assert lowered
    assert all(lowered)
    assert entered == ["cpu"] * len(lowered)
    assert of_loss == [(False, torch.float32, torch.float32)] * len(lowered)
    assert not torch.is_autocast_enabled("cpu")


def test_settings_of_the_process_and_memory_of_evaluation_are_in_force(monkeypatch):
    memory, during = [], []
    real = run.rank_targets
    monkeypatch.setattr(run, "rank_targets", lambda *a, **k: memory.append(k["memory_mb"]) or real(*a, **k))

    def now():
        return torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()

    def on_epoch(place, row):
        during.append(now())

    before = now()
    assert before == ("highest", False)
    how = execution(tf32=True, deterministic=True, eval_memory_mb=77)
    together([student_spec("SASRec", epochs=1)] * 2, [1, 2], execution=how, on_epoch=on_epoch)
    assert during == [("high", True)] * 2
    assert memory == [77, 77]
    assert now() == before


def test_what_a_stack_cannot_honour_changes_nothing():
    spec, asked = student_spec("SASRec", epochs=1), {"resident_steps": 4, "checkpoint_seconds": 1e-9}
    how = execution(**asked, compile=True, cuda_graphs=True)
    for plain, other in zip(
        together([spec] * 2, [1, 2]), together([spec] * 2, [1, 2], execution=how), strict=True
    ):
        assert all(torch.equal(plain.state_dict[k], w) for k, w in other.state_dict.items())
    said = how.of_stack().canonical()
    assert {k: v for k, v in how.canonical().items() if said[k] != v} == {
        **asked,
        "compile": True,
        "cuda_graphs": True,
    }
    assert not any(said[k] for k in ("resident_steps", "checkpoint_seconds", "compile", "cuda_graphs"))


def test_results_are_independent_of_the_stack():
    got = together([student_spec("GRU4Rec", epochs=1)] * 2, [1, 2])
    before = {k: v.clone() for k, v in got[1].state_dict.items()}
    for weight in got[0].model.parameters():
        weight.data.fill_(7.0)
    assert all(torch.equal(got[1].state_dict[k], v) for k, v in before.items())


def test_what_cannot_be_stacked_is_refused():
    taught = student_spec("SASRec", distill_spec())
    sampled = student_spec("SASRec", loss=GbceSpec(name="gbce", negatives=4, calibration=0.5))
    for spec in (taught, sampled):
        with pytest.raises(SpecError, match="trains alone"):
            together([spec], [1])
    with pytest.raises(SpecError, match="differ"):
        together([student_spec("SASRec"), student_spec("SASRec", train_batch_size=4)], [1, 1])


def test_the_stacked_softmax_equals_the_single_ones(monkeypatch):
    monkeypatch.setattr("recbole_kd.models.stacked.LOGITS_BYTES", {"cpu": 1})  # blocks of 16 rows
    torch.manual_seed(0)
    h = torch.randn(3, 40, 5, dtype=torch.float64, requires_grad=True)
    items = torch.randn(3, 11, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 11, dtype=torch.float64, requires_grad=True)
    target, sizes = torch.randint(0, 11, (3, 40)), (40, 17, 1)
    weight = torch.zeros(3, 40, dtype=torch.float64)
    for s, n in enumerate(sizes):
        weight[s, :n] = 1 / n
    got = _StackedCrossEntropy.apply(h, items, bias, target, weight, None)
    want = torch.stack(
        [catalogue_cross_entropy(h[s, :n], items[s], target[s, :n], bias[s]) for s, n in enumerate(sizes)]
    )
    torch.testing.assert_close(got, want)
    scale = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    over = (h, items, bias)
    for a, b in zip(
        torch.autograd.grad((scale * got).sum(), over),
        torch.autograd.grad((scale * want).sum(), over),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_adam_equals_torch_with_a_rate_and_decay_of_each():
    torch.manual_seed(0)
    start = torch.randn(3, 4, 2)
    stacked = {"w": start.clone()}
    rates, decays = [0.1, 0.01, 0.05], [0.0, 0.1, 0.0]
    ours = StackedAdam(stacked, rates, decays)
    singles = [start[s].clone().requires_grad_() for s in range(3)]
    theirs = [
        torch.optim.Adam([w], lr=r, weight_decay=d) for w, r, d in zip(singles, rates, decays, strict=True)
    ]
    for active in ([0, 1, 2], [1], [0, 2], [0, 1, 2]):
        gradient = torch.randn(len(active), 4, 2)
        for row, s in enumerate(active):
            singles[s].grad = gradient[row].clone()
            theirs[s].step()
        ours.step({"w": gradient}, None if len(active) == 3 else torch.tensor(active))
    torch.testing.assert_close(stacked["w"], torch.stack([w.detach() for w in singles]))
