"""Systems and trained baselines on the settings of a GPU, run on a CPU: prepared batches, autocast, TF32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.head import DistillationHead
from recbole_kd.models.side import SideInputs
from recbole_kd.objectives.weighting import same_direction
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import SampledSoftmaxSpec, StudentSpec, SystemSpec
from tests.baselines.test_trained import HPARAMS as BASELINES
from tests.students import BACKBONES, MAX_LEN, SYSTEM_PARAMS, distill_spec, student_spec, tiny_split
from tests.training.test_execution import execution, profiles


def side():
    rng = torch.Generator().manual_seed(3)
    texts, users = torch.randn(30, 20, generator=rng), torch.randn(41, 9, generator=rng)
    texts[0] = users[0] = 0
    return SideInputs(41, texts, users)


def spec_of(backbone, name, distill=None, **train):
    system = SystemSpec(name=name, params=SYSTEM_PARAMS[name])
    return student_spec(backbone, distill, **train).model_copy(update={"system": system})


def trained(spec: StudentSpec, table=None, **changes):
    return fit(
        tiny_split(),
        spec,
        table,
        seed=1,
        device="cpu",
        max_item_list_length=MAX_LEN,
        side=side(),
        execution=execution(**changes),
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["llm-esr", "profile-token", "text-adapter"])
def test_prepared_batches_train_a_system_as_the_plain_path_does(backbone, name):
    quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0} if backbone == "BERT4Rec" else {}
    spec = spec_of(backbone, name, epochs=2)
    spec = spec.model_copy(update={"hparams": spec.hparams | quiet})
    plain, resident = (trained(spec, resident_steps=steps) for steps in (0, 4))
    for a, b in zip(plain.history, resident.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "bfloat16") for name in sorted(SYSTEM_PARAMS)), ("llm-esr", "float32")]
)
def test_systems_train_under_autocast(backbone, name, precision):
    spec = spec_of(backbone, name, epochs=1, softmax_precision=precision)
    exact = trained(spec_of(backbone, name, epochs=1)).history[0]["loss"]
    assert trained(spec, autocast="bfloat16").history[0]["loss"] == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["Caser", "NARM"])
def test_trained_baselines_train_under_autocast(name, precision):
    def loss(precision, autocast):
        spec = student_spec("SASRec", epochs=1, softmax_precision=precision)
        spec = spec.model_copy(update={"model": name, "hparams": BASELINES[name]})
        return trained(spec, autocast=autocast).history[0]["loss"]

    assert loss(precision, "bfloat16") == pytest.approx(loss("float32", "float32"), rel=0.02)


@pytest.mark.parametrize("backbone", ["SASRec", "GRU4Rec"])
def test_an_adaptor_that_all_items_share_learns_the_same_under_autocast(backbone):
    spec = spec_of(backbone, "text-adapter")
    split = tiny_split()

    def gradient(autocast):
        model = build_student(
            backbone, spec.hparams, n_items=30, max_len=MAX_LEN, seed=1, system=spec.system, side=side()
        )
        model.softmax_dtype = torch.bfloat16 if autocast else None
        batch = next(_batches(model, split))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, _ = model.sequence_losses(batch, None, np.random.default_rng(0), distil=False)
        loss.backward()
        assert loss.dtype == torch.float32
        return torch.cat([p.grad.flatten() for p in model.system.parameters() if p.grad is not None])

    exact, lower = gradient(False), gradient(True)
    assert torch.linalg.norm(lower - exact) < 0.05 * torch.linalg.norm(exact)


def _batches(model, split):
    batches = SequenceBatches(split.train, MAX_LEN, 16, shift=model.shift, packed=model.packed)
    return batches.epoch(np.random.default_rng(2))


def test_a_teacher_of_an_adaptor_is_compared_in_full_precision():
    spec = spec_of("SASRec", "text-adapter", distill_spec(), epochs=2)
    history = trained(spec, profiles(), autocast="bfloat16").history
    assert np.isfinite(history[0]["loss_distil"])


class TensorFloat(TorchDispatchMode):
    """Cuts the factors of float32 products to the 10 bits of mantissa that TF32 keeps."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() == "aten::mm" and args[0].dtype == torch.float32:
            args = [(a.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32) for a in args]
        return function(*args, **(kwargs or {}))


def test_a_profile_is_known_again_where_products_have_ten_bits():
    unit = torch.nn.functional.normalize(torch.randn(64, 384, generator=torch.Generator().manual_seed(1)))
    with TensorFloat():
        assert not bool(((unit @ unit.t()).diag() > 1 - 1e-5).any()), "the simulation cuts nothing"
        found = same_direction(unit, unit)
    assert torch.equal(found, torch.eye(64, dtype=torch.bool))


@pytest.mark.parametrize("how", ["watch", "pcgrad"])
def test_gradients_are_told_apart_where_a_table_is_frozen(how):
    spec = spec_of("SASRec", "text-adapter", distill_spec(gradient_conflict=how), epochs=2)
    assert np.isfinite(trained(spec, profiles()).history[0]["gradient_cosine"])


def test_a_loss_of_its_own_refuses_a_teacher_and_a_sampled_loss():
    with pytest.raises(SpecError, match="llm-esr has a loss of its own and learns from no teacher"):
        trained(spec_of("SASRec", "llm-esr", distill_spec()), profiles())
    spec = spec_of("SASRec", "llm-esr")
    sampled = SampledSoftmaxSpec(name="sampled-softmax", negatives=2, log_q=True)
    with pytest.raises(SpecError, match="has a loss of its own"):
        trained(spec.model_copy(update={"train": spec.train.model_copy(update={"loss": sampled})}))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 8), ("two-phase", 3), ("fine-tune-last", 6)])
def test_experts_cool_down_over_the_epochs_that_distil(schedule, last):
    spec = student_spec(
        "SASRec",
        distill_spec(projector="experts", schedule=schedule, distil_epochs=3, fine_tune_epochs=2),
        epochs=8,
    )
    seen = []

    def note(row):
        seen.append(float(heads[0].projection.temperature))

    heads = []
    plain = DistillationHead.anneal

    def anneal(self, share):
        heads.append(self)
        plain(self, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationHead, "anneal", anneal)
        fit(
            tiny_split(),
            spec,
            profiles(),
            seed=1,
            device="cpu",
            max_item_list_length=MAX_LEN,
            on_epoch=note,
            execution=execution(),
        )
    assert seen[0] == pytest.approx(1.0)
    assert seen[last - 1] == pytest.approx(0.01)
    assert all(t > 0.011 for t in seen[: last - 1])
