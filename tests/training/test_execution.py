"""Fast paths of a device against the plain path, run on a CPU; what would wait for a GPU is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.resident import on_device
from recbole_kd.ranking import rank_targets, users_that_fit
from recbole_kd.training.execution import ExecutionSpec, compiled, plain_again
from recbole_kd.training.fit import fit
from tests.students import BACKBONES, MAX_LEN, distill_spec, student, student_spec, tiny_split

PLAIN = {
    "resident_steps": 0,
    "autocast": "float32",
    "tf32": False,
    "compile": False,
    "cuda_graphs": False,
    "deterministic": False,
    "eval_memory_mb": 64,
    "checkpoint_seconds": 0,
}


def execution(**changes):
    return ExecutionSpec(**{**PLAIN, **changes})


def trained(name, spec=None, profiles=None, **changes):
    return fit(
        tiny_split(),
        spec or student_spec(name, epochs=2),
        profiles,
        seed=1,
        device="cpu",
        max_item_list_length=MAX_LEN,
        execution=execution(**changes),
    )


def profiles():
    vectors = np.random.default_rng(0).standard_normal((41, 1, 6)).astype(np.float32)
    mask = np.arange(41)[:, None] % 3 > 0
    return ProfileTable(vectors, mask, {}, 0.6, "p", verified=False)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_batches_from_one_copy_are_those_of_the_host(name, steps):
    model, split = student(name), tiny_split()

    def prepared():
        batches = SequenceBatches(split.train, MAX_LEN, 4, shift=model.shift, packed=model.packed)
        rng = np.random.default_rng(5)
        return [model.prepare(b, rng) for b in batches.epoch(np.random.default_rng(2))]

    host, moved = prepared(), list(on_device(prepared(), "cpu", steps))
    assert len(host) == len(moved)
    for want, got in zip(host, moved, strict=True):
        for field in ("item_seq", "target", "position", "segment", "user", "length", "start", "history"):
            assert torch.equal(getattr(want, field), getattr(got, field)), field
        assert got.single == want.single
        assert torch.equal(got.target.flatten()[got.at], want.target[want.target > 0])


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("taught", [False, True])
def test_the_resident_path_trains_as_the_plain_one(name, taught):
    spec = student_spec(name, distill_spec() if taught else None, epochs=3)
    if name == "BERT4Rec":
        # It computes its last block at all positions and so draws other masks: compared without dropout.
        quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
        spec = spec.model_copy(update={"hparams": spec.hparams | quiet})
    table = profiles() if taught else None
    plain, resident = (trained(name, spec, table, resident_steps=steps) for steps in (0, 4))
    for a, b in zip(plain.history, resident.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    for key, weight in plain.state_dict.items():
        torch.testing.assert_close(resident.state_dict[key], weight, rtol=0, atol=2e-3, msg=key)


class Waits(TorchDispatchMode):
    """Counts operations whose result the host has to wait for, were the tensors on a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        masks = name.startswith(("aten::index.", "aten::index_put")) and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        asks = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique")
        if masks or name.startswith(asks):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("resident", [True, False])
def test_no_step_waits_for_the_device(name, resident):
    model, split = student(name), tiny_split()
    batches = SequenceBatches(split.train, MAX_LEN, 4, shift=model.shift, packed=model.packed)
    rng = np.random.default_rng(5)
    host = [model.prepare(b, rng) for b in batches.epoch(np.random.default_rng(2))]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    sums = torch.zeros(1)
    waits = Waits()
    model.train()
    chosen = list(on_device(host, "cpu", 2)) if resident else host
    with waits:
        for batch in chosen[:3]:
            loss, _ = model.sequence_losses(batch, None, rng, distil=False)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            sums += loss.detach()
    assert bool(waits.found) != resident, waits.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", BACKBONES)
def test_no_step_waits_for_a_gpu(name):
    model, split = student(name).cuda(), tiny_split()
    batches = SequenceBatches(split.train, MAX_LEN, 4, shift=model.shift, packed=model.packed)
    rng = np.random.default_rng(5)
    host = [model.prepare(b, rng) for b in batches.epoch(np.random.default_rng(2))]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for step, batch in enumerate(on_device(host, "cuda", 64)):
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            loss, _ = model.sequence_losses(batch, None, rng, distil=False)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", BACKBONES)
def test_bfloat16_products_stay_near_float32(name):
    exact, low = (trained(name, autocast=kind) for kind in ("float32", "bfloat16"))
    assert low.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=0.02)
    assert low.history[-1]["loss"] != exact.history[-1]["loss"]
    assert all(w.dtype == torch.float32 for w in low.state_dict.values() if w.is_floating_point())


@pytest.mark.parametrize("name", [pytest.param("SASRec", marks=pytest.mark.slow), "BERT4Rec"])
def test_a_compiled_backbone_gives_the_same_losses(name, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: real(f, backend="aot_eager", dynamic=False))
    quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    spec = student_spec(name, epochs=1)
    spec = spec.model_copy(update={"hparams": spec.hparams | quiet})
    plain, quick = (trained(name, spec, compile=on, resident_steps=2) for on in (False, True))
    assert quick.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-5)
    assert "encode" not in vars(quick.model)


def test_recurrent_backbones_are_not_compiled():
    model = student("GRU4Rec")
    compiled(model, execution(compile=True))
    assert "encode" not in vars(model)
    plain_again(model)


def test_settings_of_the_process_are_put_back():
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    with execution(tf32=True, deterministic=True).in_force():
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()) == before


def test_deterministic_mode_trains():
    one, other = (trained("SASRec", deterministic=True, resident_steps=2) for _ in range(2))
    assert [r["loss"] for r in one.history] == [r["loss"] for r in other.history]


def test_tiles_of_evaluation_fit_the_memory_and_change_no_rank():
    assert users_that_fit(1_000_000, 512) == 44
    assert users_that_fit(10**9, 1) == 1
    model, split = student("SASRec"), tiny_split()
    whole = rank_targets(model, split.test, max_len=MAX_LEN, batch_size=64)
    sizes = []
    real = model.serve_states
    model.serve_states = lambda *a: sizes.append(len(a[0])) or real(*a)
    n_items = split.dataset.n_items
    tiled = rank_targets(model, split.test, max_len=MAX_LEN, batch_size=64, memory_mb=1)
    assert sizes == [40], "a megabyte is enough for all of a tiny catalogue"
    assert users_that_fit(n_items, 1) > 40
    assert tiled.rank.tolist() == whole.rank.tolist()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_kind_of_device_has_its_defaults(kind, repo_root):
    from recbole_kd.benchmark.devices import execution_of

    found = execution_of(f"{kind}:0" if kind == "cuda" else kind)
    assert (found.resident_steps > 0) == (kind == "cuda")
    assert Path(repo_root / "properties" / "device" / f"{kind}.yaml").is_file()
