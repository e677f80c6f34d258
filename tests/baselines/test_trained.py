"""BPR, FPMC, NARM and Caser in sequence mode against RecBole's classes, position by position."""

import numpy as np
import pytest
import torch

from recbole_kd.baselines.caser import windows
from recbole_kd.baselines.trained import pairwise_loss
from recbole_kd.errors import SpecError
from recbole_kd.models.build import build_student, student_class
from recbole_kd.models.mixin import padded_batch
from recbole_kd.models.side import SideInputs
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import StudentSpec
from tests.students import MAX_LEN, student_spec, tiny_split

N_ITEMS, N_USERS = 30, 41
HPARAMS = {
    "BPR": {"embedding_size": 8, "loss_type": "BPR"},
    "FPMC": {"embedding_size": 8, "loss_type": "BPR"},
    "NARM": {
        "embedding_size": 8,
        "hidden_size": 12,
        "n_layers": 1,
        "dropout_probs": [0.2, 0.3],
        "loss_type": "CE",
    },
    "Caser": {
        "embedding_size": 8,
        "window": 5,
        "dropout_prob": 0.2,
        "reg_weight": 1e-3,
        "nv": 2,
        "nh": 3,
        "loss_type": "CE",
    },
}
ITEMS = torch.tensor([[3, 7, 9, 4, 8, 2, 0, 0], [5, 1, 0, 0, 0, 0, 0, 0], [11, 12, 13, 14, 15, 16, 17, 18]])
LENGTHS = torch.tensor([6, 2, 8])
USERS = torch.tensor([4, 40, 1])


def model_of(name, seed=0):
    model = build_student(
        name, HPARAMS[name], n_items=N_ITEMS, max_len=MAX_LEN, seed=seed, side=SideInputs(N_USERS)
    )
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    return model.eval()


def recbole_scores(model, item_seq, length, user):
    """RecBole's own scores with the same parameters."""
    if type(model).__name__ == "Caser":
        rows = torch.arange(len(item_seq))
        item_seq = windows(item_seq, rows, length - 1, 5)
    interaction = {"user_id": user, "item_id_list": item_seq, "item_length": length}
    plain = type(model).__mro__[2]
    assert plain.__module__.startswith("recbole.")
    return plain.full_sort_predict(model, interaction).view(len(user), N_ITEMS)


@pytest.mark.parametrize("name", HPARAMS)
@torch.no_grad()
def test_serving_equals_recboles_full_sort_predict(name):
    model = model_of(name)
    items, _ = model.item_table()
    ours = model.serve_states(ITEMS, LENGTHS, USERS) @ items.t()
    torch.testing.assert_close(ours, recbole_scores(model, ITEMS, LENGTHS, USERS))


@pytest.mark.parametrize("name", HPARAMS)
@torch.no_grad()
def test_every_position_of_a_training_row_is_recboles_prefix(name):
    model = model_of(name)
    batch = padded_batch(ITEMS, LENGTHS, USERS)
    batch = type(batch)(**{**vars(batch), "target": ITEMS.roll(-1, 1) * (batch.segment < 3)})
    batch.target[torch.arange(3), LENGTHS - 1] = 0
    states = model.states(batch, None, None)
    items, _ = model.item_table()
    rows, columns = torch.nonzero(batch.target, as_tuple=True)
    prefixes = torch.where(torch.arange(8) <= columns[:, None], ITEMS[rows], 0)
    theirs = recbole_scores(model, prefixes, columns + 1, USERS[rows])
    torch.testing.assert_close(states @ items.t(), theirs)


@pytest.mark.parametrize("name", ["NARM", "Caser"])
def test_cross_entropy_loss_is_recboles(name):
    model = model_of(name)
    target = torch.tensor([3, 8, 20])
    rows = torch.arange(3)
    item_seq = windows(ITEMS, rows, LENGTHS - 1, 5) if name == "Caser" else ITEMS
    interaction = {"user_id": USERS, "item_id_list": item_seq, "item_length": LENGTHS, "item_id": target}
    theirs = type(model).__mro__[2].calculate_loss(model, interaction)
    ours = model.rec_loss(model.serve_states(ITEMS, LENGTHS, USERS), target, np.random.default_rng(0))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["BPR", "FPMC"])
def test_pairwise_loss_is_recboles_for_the_same_negatives(name):
    model = model_of(name)
    items, _ = model.item_table()
    target = torch.tensor([3, 8, 20])
    drawn = np.random.default_rng(5).integers(1, N_ITEMS - 1, size=3)
    negative = torch.from_numpy(drawn + (drawn >= target.numpy()))
    interaction = {"user_id": USERS, "item_id_list": ITEMS, "item_length": LENGTHS}
    interaction |= {"item_id": target, "neg_item_id": negative}
    theirs = type(model).__mro__[2].calculate_loss(model, interaction)
    state = model.serve_states(ITEMS, LENGTHS, USERS)
    torch.testing.assert_close(pairwise_loss(state, items, target, np.random.default_rng(5)), theirs)


def test_a_negative_is_never_the_target_nor_padding():
    items = torch.eye(5)
    target = torch.randint(1, 5, (4000,))
    # A state that points away from padding and from the target: either as a negative would show.
    state = items[target] - items[0]
    loss = pairwise_loss(state, items, target, np.random.default_rng(0))
    assert loss.item() == pytest.approx(-np.log(1 / (1 + np.exp(-1.0))), abs=1e-6)


@pytest.mark.parametrize("name", HPARAMS)
def test_training_beats_chance_and_loads_strictly_into_recbole(name):
    split = tiny_split()
    train = student_spec("SASRec", epochs=12, learning_rate=0.02).train
    spec = StudentSpec(model=name, hparams=HPARAMS[name], train=train, distill=None)
    result = fit(split, spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < losses[0] - 0.05
    plain = student_class(name).__mro__[2]
    assert set(result.state_dict) == set(result.model.state_dict())
    assert plain.__name__ == name


def test_a_catalogue_of_one_item_has_no_negative():
    with pytest.raises(SpecError, match="needs two items, one of them as the negative"):
        pairwise_loss(torch.ones(1, 2), torch.ones(2, 2), torch.tensor([1]), np.random.default_rng(0))
