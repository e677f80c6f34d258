"""UniSRec: parts by hand, zeroed texts against a plain cosine SASRec, pre-training that can be resumed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_kd.baselines.pretraining import Corpus, Part, in_batch_infonce, load_learned, merge, pretrain
from recbole_kd.baselines.unisrec import ADAPTOR, ENCODER, WhitenedExperts, text_inputs
from recbole_kd.baselines.unisrec_pretraining import UniSRecPretraining, drop_items
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.metrics import per_user
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.sasrec import SASRecKD
from recbole_kd.models.side import SideInputs
from recbole_kd.ranking import rank_targets
from recbole_kd.training import fit as fitting
from recbole_kd.training.spec import PretrainSpec, SystemSpec
from tests.baselines.traits import pop_ndcg, trait_split, trait_vectors
from tests.students import HPARAMS, MAX_LEN, student_spec, tiny_split

PARAMS = {
    "setting": "transductive",
    "n_experts": 3,
    "adaptor_dropout": 0.2,
    "temperature": 0.07,
    "freeze_encoder": True,
}
N_ITEMS = 30


def pretrain_spec(epochs=3, **args):
    given = {"sequence_weight": 0.001, "item_drop": 0.3, "word_drop": 0.2} | args
    return PretrainSpec(
        datasets=["self"],
        epochs=epochs,
        learning_rate=0.002,
        weight_decay=0.0,
        batch_size=6,
        seed=4,
        args=given,
    )


def texts(n=N_ITEMS, dim=20, seed=3):
    vectors = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    vectors[0] = 0
    return vectors


def trained(side, epochs=2, split=None, **params):
    spec = student_spec("SASRec", epochs=epochs)
    spec = spec.model_copy(update={"system": SystemSpec(name="unisrec", params={**PARAMS, **params})})
    return fitting.fit(
        split or tiny_split(), spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN, side=side
    )


def corpus():
    return merge([Part.of(tiny_split(), texts=texts(), altered=texts(seed=4))])


def test_experts_whiten_and_mix():
    torch.manual_seed(0)
    experts = WhitenedExperts(5, 3, 4, 0.0)
    for parameter in experts.parameters():
        parameter.data.normal_()
    x = torch.randn(6, 5)
    experts.eval()
    gate = torch.softmax(x @ experts.gate, 1)
    expected = torch.zeros(6, 3)
    for e in range(4):
        expected += gate[:, [e]] * ((x - experts.bias[e]) @ experts.weight[e])
    torch.testing.assert_close(experts(x), expected)


def test_gate_is_noisy_while_training_only():
    torch.manual_seed(0)
    experts = WhitenedExperts(5, 3, 4, 0.0).train()
    x = torch.randn(6, 5)
    assert torch.equal(WhitenedExperts(5, 3, 4, 0.0).eval().gates(x), torch.full((6, 4), 0.25))
    experts.noise.data.normal_()
    experts.reseed(9)
    epsilon = torch.randn(6, 4, generator=torch.Generator().manual_seed(9))
    spread = torch.log1p(torch.exp(x @ experts.noise)) + 0.01
    torch.testing.assert_close(experts.gates(x), torch.softmax(epsilon * spread, 1))
    state = torch.random.get_rng_state()
    experts(x)
    assert torch.equal(torch.random.get_rng_state(), state)  # a stream of its own


def test_infonce_by_hand():
    rng = np.random.default_rng(0)
    q, k = (F.normalize(torch.from_numpy(rng.normal(size=(4, 3))), dim=1) for _ in range(2))
    alike = torch.zeros(4, 4, dtype=torch.bool)
    alike[0, 2] = alike[2, 0] = alike[1, 1] = True
    total = 0.0
    for i in range(4):
        allowed = [j for j in range(4) if j == i or not alike[i, j]]
        scores = {j: math.exp(float(q[i] @ k[j]) / 0.07) for j in allowed}
        total -= math.log(scores[i] / sum(scores.values()))
    assert float(in_batch_infonce(q, k, 0.07, alike)) == pytest.approx(total / 4)


def test_dropped_items_leave_a_shorter_piece():
    batches = SequenceBatches(tiny_split().train, MAX_LEN, 5, shift=True, packed=True)
    rng = np.random.default_rng(0)
    for batch in batches.epoch(rng):
        lost = torch.from_numpy(rng.random(tuple(batch.item_seq.shape)) < 0.6)
        copy = drop_items(batch, lost)
        for piece in range(len(batch.length)):
            was = batch.segment == piece
            kept = batch.item_seq[was & ~lost].tolist() or batch.item_seq[was].tolist()[-1:]
            now = copy.segment == piece
            assert copy.item_seq[now].tolist() == kept
            assert copy.position[now].tolist() == list(range(len(kept)))
            assert int(copy.length[piece]) == len(kept)


class CosineSASRec(SASRecKD):
    """SASRec whose next item is softmax(cos / tau): what UniSRec is without texts, written anew."""

    def sequence_losses(self, batch, dropout, rng, *, distil):
        carries = batch.target > 0
        state = F.normalize(self.encode(batch, dropout)[-1][carries], dim=-1)
        items = self.item_embedding.weight / self.item_embedding.weight.norm(dim=1, keepdim=True).clamp_min(
            1e-9
        )
        items = torch.cat([torch.zeros_like(items[:1]), items[1:]])
        return F.cross_entropy(state @ items.T / 0.07, batch.target[carries]), None

    def item_table(self):
        return F.normalize(self.item_embedding.weight, dim=1), None


def test_with_zeroed_texts_it_is_sasrec_with_a_cosine(monkeypatch):
    ours = trained(SideInputs(41, texts() * 0), epochs=3)
    monkeypatch.setattr("recbole_kd.models.build.student_class", lambda model, system=None: CosineSASRec)
    spec = student_spec("SASRec", epochs=3)
    plain = fitting.fit(tiny_split(), spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN)
    assert [r["loss"] for r in ours.history] == pytest.approx([r["loss"] for r in plain.history], rel=1e-4)
    for key, value in plain.state_dict.items():
        torch.testing.assert_close(ours.state_dict[key], value, rtol=1e-3, atol=1e-4)


def test_inductive_has_no_ids_and_transductive_learns_them():
    inductive = trained(SideInputs(41, texts()), epochs=4, setting="inductive")
    assert not inductive.state_dict["item_embedding.weight"].any()
    assert inductive.history[-1]["loss"] < inductive.history[0]["loss"]
    transductive = trained(SideInputs(41, texts()), epochs=4)
    assert transductive.state_dict["item_embedding.weight"][1:].any()
    assert transductive.history[-1]["loss"] < transductive.history[0]["loss"]
    with pytest.raises(SpecError, match="'abductive' is not one of inductive, transductive"):
        trained(SideInputs(41, texts()), setting="abductive")


def test_scores_are_cosines_over_tau():
    model = trained(SideInputs(41, texts())).model
    table, bias = model.item_table()
    assert bias is None
    assert not table[0].any()
    torch.testing.assert_close(table[1:].norm(dim=1), torch.full((N_ITEMS - 1,), 1 / 0.07))
    state = model.serve_states(torch.tensor([[3, 7, 9, 0, 0, 0, 0, 0]]), torch.tensor([3]))
    assert float(state.detach().norm()) == pytest.approx(1.0)
    unit = text_inputs(texts())
    assert float((unit[1:] ** 2).mean()) == pytest.approx(1.0)


def test_parts_stand_side_by_side_and_only_their_train_part_is_there():
    one, two = tiny_split(seed=0), tiny_split(n_users=7, n_items=12, seed=1)
    both = merge([Part.of(one, texts=texts()), Part.of(two, texts=texts(12, seed=8))])
    assert len(both.train) == len(one.train) + 7
    assert [both.train.row(r).tolist() for r in range(3)] == [one.train.row(r).tolist() for r in range(3)]
    assert both.train.row(40).tolist() == [i + N_ITEMS - 1 for i in two.train.row(0).tolist()]
    assert torch.equal(both.texts[N_ITEMS], texts(12, seed=8)[1])
    # Other validation and test parts, same corpus: nothing of them is read.
    other = replace(one, valid=two.valid, test=two.test)
    again = merge([Part.of(other, texts=texts()), Part.of(two, texts=texts(12, seed=8))])
    assert np.array_equal(again.train.items, both.train.items)
    assert set(vars(both)) == {"train", "texts", "altered", "attributes"}


def pretrained(spec, data=None, checkpoint=None):
    data = data or corpus()
    model = UniSRecPretraining(data, HPARAMS["SASRec"], PARAMS, spec, MAX_LEN)
    return pretrain(model, data, spec, max_len=MAX_LEN, packed=True, device="cpu", checkpoint=checkpoint)


def test_pretraining_lowers_its_loss_and_resumes_where_it_stopped(tmp_path):
    whole, losses = pretrained(pretrain_spec(4))
    assert losses[-1] < losses[0]
    stop = tmp_path / "stop.partial"
    pretrained(pretrain_spec(2), checkpoint=stop)
    resumed, again = pretrained(pretrain_spec(4), checkpoint=stop)
    assert again == losses
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_damaged_checkpoint_of_pretraining_is_named(tmp_path):
    """A flipped bit, which torch's own format does not find."""
    stop = tmp_path / "stop.partial"
    pretrained(pretrain_spec(1), checkpoint=stop)
    content = bytearray(stop.read_bytes())
    content[len(content) // 2] ^= 1
    stop.write_bytes(content)
    with pytest.raises(StoreError, match=r"stop\.partial: damaged .*delete it"):
        pretrained(pretrain_spec(2), checkpoint=stop)


def test_losses_of_a_step_by_hand():
    """Without dropout, noise and alterations: both terms recomputed from the student's own states."""
    spec = pretrain_spec(sequence_weight=0.5, item_drop=0.0)
    split = tiny_split()
    data = Corpus(split.train, texts(), None, None)
    hparams = {**HPARAMS["SASRec"], "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    model = UniSRecPretraining(data, hparams, {**PARAMS, "adaptor_dropout": 0.0}, spec, MAX_LEN).eval()
    batch = next(
        SequenceBatches(split.train, MAX_LEN, 4, shift=True, packed=True).epoch(np.random.default_rng(0))
    )
    with torch.no_grad():
        loss = float(model.step_loss(batch, None, np.random.default_rng(1)))
        table = model.student.system["adaptor"](text_inputs(texts()))
        table[0] = 0
        side = SideInputs(0, texts())
        plain = build_student(
            "SASRec",
            hparams,
            n_items=N_ITEMS,
            max_len=MAX_LEN,
            seed=4,
            system=SystemSpec(name="unisrec", params={**PARAMS, "setting": "inductive"}),
            side=side,
        ).eval()
        load_learned(plain, model.learned(), (*ENCODER, ADAPTOR))
        states = plain.final(plain.encode(batch, None)[-1])
    rows = [
        (b, c)
        for b in range(batch.target.shape[0])
        for c in range(batch.target.shape[1])
        if batch.target[b, c]
    ]
    user = {at: int(batch.user[batch.segment[at]]) for at in rows}
    unit = F.normalize(table, dim=1)
    first = 0.0
    for at in rows:
        own = int(batch.target[at])
        scores = {at: math.exp(float(states[at] @ unit[own]) / 0.07)}
        for to in rows:
            if int(batch.target[to]) != own and user[to] != user[at]:
                scores[to] = math.exp(float(states[at] @ unit[int(batch.target[to])]) / 0.07)
        first -= math.log(scores[at] / sum(scores.values()))
    ends = [max(a for a in rows if int(batch.segment[a]) == p) for p in range(len(batch.length))]
    second = 0.0
    for at in ends:
        scores = {at: math.exp(1 / 0.07)}
        for to in ends:
            if int(batch.target[to]) != int(batch.target[at]) and user[to] != user[at]:
                scores[to] = math.exp(float(states[at] @ states[to]) / 0.07)
        second -= math.log(scores[at] / sum(scores.values()))
    assert loss == pytest.approx(first / len(rows) + 0.5 * second / len(ends), rel=1e-4)


def test_fine_tuning_begins_where_pretraining_ended_and_leaves_the_encoder():
    state, _ = pretrained(pretrain_spec(1))
    side = SideInputs(41, texts(), pretrained=state)
    result = trained(side, epochs=2)
    for name, value in state.items():
        same = torch.equal(result.state_dict[name], value)
        assert same == name.startswith(("position_embedding", "trm_encoder"))
    moved = trained(side, epochs=2, freeze_encoder=False)
    name = "trm_encoder.layer.0.feed_forward.dense_1.weight"
    assert not torch.equal(moved.state_dict[name], state[name])
    with pytest.raises(ValueError, match=r"do not fit: .*nonsense"):
        trained(SideInputs(41, texts(), pretrained={**state, "nonsense": torch.zeros(1)}))


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_it_beats_popularity_where_texts_tell(setting):
    split, vectors = trait_split(), trait_vectors()
    data = merge([Part.of(split, texts=vectors)])
    state, losses = pretrained(pretrain_spec(6, item_drop=0.2), data)
    assert losses[-1] < losses[0]
    side = SideInputs(split.dataset.n_users, vectors, pretrained=state)
    result = trained(side, epochs=6, split=split, setting=setting)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    ranks = rank_targets(result.model, split.test, max_len=MAX_LEN, batch_size=64)
    assert per_user(ranks.rank, "NDCG@10").mean() > 1.5 * pop_ndcg(split)
