"""Systems on a backbone: zeroed inputs are the plain model; parts against hand calculation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_kd.baselines.kar import HybridExpertAdaptor
from recbole_kd.baselines.llm_esr import Bank, nearest_users
from recbole_kd.baselines.profile_token import PROFILE, insert_tokens
from recbole_kd.baselines.system import principal_components
from recbole_kd.errors import SpecError
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.mixin import padded_batch
from recbole_kd.models.side import SideInputs
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import SystemSpec
from tests.students import BACKBONES, HPARAMS, MAX_LEN, SYSTEM_PARAMS, student_spec, tiny_split

N_ITEMS, N_USERS = 30, 41


def side(items=1.0, users=1.0):
    rng = torch.Generator().manual_seed(3)
    texts = torch.randn(N_ITEMS, 20, generator=rng) * items
    profiles = torch.randn(N_USERS, 9, generator=rng) * users
    texts[0] = profiles[0] = 0
    return SideInputs(N_USERS, texts, profiles)


def system(name):
    return SystemSpec(name=name, params=SYSTEM_PARAMS[name])


def built(backbone, name, inputs=None):
    return build_student(
        backbone,
        HPARAMS[backbone],
        n_items=N_ITEMS,
        max_len=MAX_LEN,
        seed=1,
        system=system(name),
        side=inputs or side(),
    )


def trained(backbone, name, inputs, epochs=2):
    spec = student_spec(backbone, epochs=epochs)
    spec = spec if name is None else spec.model_copy(update={"system": system(name)})
    return fit(tiny_split(), spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN, side=inputs)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["text-init", "text-gate", "kar", "profile-token", "rlmrec-items"])
def test_with_zeroed_inputs_it_trains_as_the_plain_backbone(backbone, name):
    plain = trained(backbone, None, None)
    zeroed = trained(backbone, name, side(0.0, 0.0))
    columns = ("loss", "valid_ndcg@10", "valid_recall@10")
    assert [[r[c] for c in columns] for r in zeroed.history] == [
        [r[c] for c in columns] for r in plain.history
    ]
    for key, value in plain.state_dict.items():
        assert torch.equal(zeroed.state_dict[key], value)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    "name", ["text-init", "text-adapter", "text-gate", "kar", "profile-token", "rlmrec-items"]
)
def test_with_inputs_it_differs_and_learns(backbone, name):
    plain = trained(backbone, None, None, epochs=1)
    result = trained(backbone, name, side(), epochs=10 if backbone == "BERT4Rec" else 3)  # random masks
    assert result.history[0]["loss"] != plain.history[0]["loss"]
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_rlmrec_contrasts_items_with_their_texts():
    model = built("SASRec", "rlmrec-items")
    items = torch.tensor([3, 8, 5])
    table, text = model.item_embedding.weight, model.system["text"].vectors
    first, _, second = model.system["map"]
    total = 0.0
    for i in items.tolist():
        scores = {}
        for j in items.tolist():
            hidden = first(text[j])
            mapped = second(torch.where(hidden > 0, hidden, 0.01 * hidden))
            scores[j] = float(torch.exp(torch.cosine_similarity(table[i], mapped, dim=0) / 0.2).detach())
        total -= np.log(scores[i] / sum(scores.values()))
    assert float(model.item_contrast(items).detach()) == pytest.approx(total / 3, rel=1e-4)
    batch = next(
        SequenceBatches(tiny_split().train, MAX_LEN, 3, shift=True, packed=True).epoch(
            np.random.default_rng(0)
        )
    )
    chosen = model._items(batch).tolist()
    own = {*batch.item_seq.flatten().tolist(), *batch.target.flatten().tolist()} - {0}
    assert own <= set(chosen)
    assert len(chosen) == len(set(chosen))
    assert 0 not in chosen


@torch.no_grad()
def test_llm_esr_hides_items_in_both_views_and_looks_both_ways():
    model = built("BERT4Rec", "llm-esr").eval()
    history = padded_batch(torch.tensor([[3, 7, 9, 4]]), torch.tensor([4]))
    batch = model.prepare(history, np.random.default_rng(2))
    hidden = batch.item_seq[0] == model.mask_token
    assert hidden.any()
    assert not hidden.all()
    states = model.both_views(batch, None)
    seen = torch.nonzero(~hidden)[-1].item()
    other = torch.where(torch.arange(4) == seen, 11, batch.item_seq)
    moved = model.both_views(replace(batch, item_seq=other), None)
    assert not torch.isclose(states[0], moved[0]).all(-1).any()  # every position sees the changed item
    # A hidden item enters as the two mask vectors, whichever item it is.
    text, ids = model.system["mask"].weight[0], model.item_embedding.weight[model.mask_token]
    seen_views = []
    model.encode, plain = (lambda b, d: seen_views.append(model._view) or plain(b, d)), model.encode
    model.both_views(batch, None)
    semantic, collaborative = (
        torch.where(hidden[:, None], mask, table[batch.item_seq[0].clamp_max(N_ITEMS - 1)])[None]
        for mask, table in ((text, model._semantic()), (ids, model.item_embedding.weight))
    )
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    read = model.system["to_semantic"](semantic, collaborative, everywhere)
    torch.testing.assert_close(seen_views[0], semantic + read)
    items, bias = model.item_table()
    assert items.shape == (N_ITEMS, 2 * HPARAMS["BERT4Rec"]["hidden_size"])
    assert bias is model.output_bias


@pytest.mark.parametrize("backbone", BACKBONES)
def test_llm_esr_learns(backbone):
    result = trained(backbone, "llm-esr", side(), epochs=3)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize(
    ("backbone", "name"), [("SASRec", "llm-esr"), ("SASRec", "profile-token"), ("GRU4Rec", "kar")]
)
@torch.no_grad()
def test_no_position_sees_a_later_item(backbone, name):
    model = built(backbone, name).eval()
    item_seq = torch.tensor([[3, 7, 9, 4, 8, 2, 5, 6]])
    user = torch.tensor([5])
    short = torch.tensor([[3, 7, 9, 0, 0, 0, 0, 0]])
    changed = torch.tensor([[3, 7, 9, 11, 12, 13, 14, 15]])
    at = torch.tensor([3])
    assert torch.equal(model.serve_states(short, at, user), model.serve_states(short, at, user))
    batch = padded_batch(item_seq, torch.tensor([8]), user)
    states = [
        model.serve_states(torch.where(torch.arange(8) < 3, rows, 0), at, user)
        for rows in (item_seq, changed)
    ]
    torch.testing.assert_close(*states)
    if name == "llm-esr":
        whole = model.both_views(batch, None)[0, 2]
        torch.testing.assert_close(whole, states[0][0], rtol=1e-4, atol=1e-5)


def test_text_init_writes_scaled_principal_components():
    inputs = side()
    inputs.items[5] = 0  # an item without a text keeps its random row
    plain = build_student("SASRec", HPARAMS["SASRec"], n_items=N_ITEMS, max_len=MAX_LEN, seed=1)
    table = built("SASRec", "text-init", inputs).item_embedding.weight.detach()
    assert torch.equal(table[5], plain.item_embedding.weight[5])
    known = [i for i in range(1, N_ITEMS) if i != 5]
    texts = inputs.items[known].double().numpy()
    texts = texts - texts.mean(0)
    expected = texts @ np.linalg.eigh(texts.T @ texts)[1][:, ::-1][:, :16]
    # Equal up to one scale and the signs of the axes: compare distances between items.
    ours = table[known].double().numpy()
    ratio = np.linalg.norm(ours, axis=0) / np.linalg.norm(expected, axis=0)
    assert np.allclose(ratio, ratio[0], rtol=1e-4)
    assert np.allclose(
        np.abs((ours * expected).sum(0)), np.linalg.norm(ours, axis=0) * np.linalg.norm(expected, axis=0)
    )


def test_more_components_than_rank_are_zeros():
    vectors = torch.zeros(4, 3)
    vectors[1:] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    found = principal_components(vectors, 3)
    assert found.shape == (4, 3)
    assert not found[0].any()
    assert not found[:, 2].any()


def test_adaptor_is_the_gated_sum_of_its_experts():
    torch.manual_seed(0)
    adaptor = HybridExpertAdaptor((4, 5), 2, 1, 6, 3)
    x = torch.randn(7, 5)
    inner = torch.nn.functional.gelu(adaptor.enter[1](x))
    weight = torch.softmax(inner @ adaptor.gate[1].weight.T, 1)
    experts = [adaptor.shared[0](inner), adaptor.shared[1](inner), adaptor.dedicated[1][0](inner)]
    expected = sum(weight[:, [e]] * out for e, out in enumerate(experts))
    torch.testing.assert_close(adaptor(x, 1), expected)


def test_tokens_stand_before_their_pieces_and_nothing_is_lost():
    split = tiny_split()
    batches = SequenceBatches(split.train, MAX_LEN, 5, shift=True, packed=True)
    for batch in batches.epoch(np.random.default_rng(0)):
        wanted = batch.user % 3 != 0
        moved = insert_tokens(batch, wanted)
        tokens = moved.item_seq == PROFILE
        assert int(tokens.sum()) == int(wanted.sum())
        assert not moved.target[tokens].any()
        for piece in range(len(batch.length)):
            before, after = batch.segment == piece, moved.segment == piece
            found = moved.item_seq[after].tolist()
            assert found == [PROFILE] * int(wanted[piece]) + batch.item_seq[before].tolist()
            assert moved.target[after & ~tokens].tolist() == batch.target[before].tolist()


def test_bank_is_the_squared_distance_to_the_neighbours_met_so_far():
    bank = Bank(torch.tensor([[0, 0], [2, 3], [1, 3], [0, 0]]), 2)
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert bank(states, torch.tensor([2, 3])).item() == 0  # nobody was met before
    ours = torch.tensor([[3.0, 1.0]], requires_grad=True)
    loss = bank(ours, torch.tensor([1]))
    assert loss.item() == pytest.approx(((3 - 0.5) ** 2 + (1 - 1.0) ** 2) / 2)
    loss.backward()
    torch.testing.assert_close(ours.grad, torch.tensor([[2.5, 0.0]]))


def test_nearest_users_by_cosine():
    profiles = torch.tensor([[0.0, 0], [1, 0], [0, 1], [2, 0.1], [0, 0]])
    assert nearest_users(profiles, 2).tolist() == [[0, 0], [3, 2], [3, 1], [1, 2], [0, 0]]


def test_a_system_without_its_vectors_says_so():
    with pytest.raises(SpecError, match="needs item vectors"):
        built("SASRec", "text-gate", SideInputs(N_USERS))
    with pytest.raises(SpecError, match="did you mean 'text-gate'"):
        build_student(
            "SASRec",
            HPARAMS["SASRec"],
            n_items=N_ITEMS,
            max_len=MAX_LEN,
            seed=1,
            system=SystemSpec(name="text-gat", params={}),
        )


def test_a_backbone_with_a_system_can_be_distilled_into():
    from recbole_kd.data.profile_table import ProfileTable
    from tests.students import distill_spec

    vectors = np.random.default_rng(0).normal(size=(N_USERS, 1, 9)).astype(np.float32)
    table = ProfileTable(vectors, np.ones((N_USERS, 1), bool), {}, 1.0, "digest")
    spec = student_spec("SASRec", distill_spec(), epochs=3)
    spec = spec.model_copy(update={"model": "SASRecKD", "system": system("text-gate")})
    result = fit(tiny_split(), spec, table, seed=1, device="cpu", max_item_list_length=MAX_LEN, side=side())
    assert [row["phase"] for row in result.history] == ["distil", "distil", "fine-tune"]
    assert result.history[1]["loss_distil"] < result.history[0]["loss_distil"]
