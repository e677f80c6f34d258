"""An interrupted training goes on to the bit; a file that does not fit or is damaged is named, not used."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from recbole_kd.baselines import SYSTEMS
from recbole_kd.baselines.llm_esr import Bank
from recbole_kd.baselines.unisrec import WhitenedExperts
from recbole_kd.benchmark.devices import execution_of
from recbole_kd.data.profile_table import ProfileTable
from recbole_kd.data.teacher_lists import TeacherLists
from recbole_kd.models.build import build_student
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.experts import Experts
from recbole_kd.models.list_head import ListHead
from recbole_kd.models.rec_loss import RecLoss
from recbole_kd.models.side import SideInputs
from recbole_kd.random_state import set_stream_state, stream_state
from recbole_kd.ranking import rank_targets
from recbole_kd.training import checkpoint as checkpoints
from recbole_kd.training.average import WeightAverage
from recbole_kd.training.checkpoint import Carrier, Checkpoint, Keeper
from recbole_kd.training.diagnostics import Watch
from recbole_kd.training.distributed import Shards
from recbole_kd.training.early_stopping import EarlyStopping
from recbole_kd.training.fit import fit
from recbole_kd.training.schedules import Schedule
from recbole_kd.training.spec import DiagnosticsSpec, StudentSpec, SystemSpec
from tests import students
from tests.students import HPARAMS, MAX_LEN, distill_spec, student_spec, tiny_split

ALWAYS = 1e-9
N_USERS = 25
SYSTEM_PARAMS = {
    **students.SYSTEM_PARAMS,
    "llm-esr": {**students.SYSTEM_PARAMS["llm-esr"], "alpha": 0.5},
    "unisrec": {
        "setting": "transductive",
        "n_experts": 3,
        "adaptor_dropout": 0.2,
        "temperature": 0.07,
        "freeze_encoder": True,
    },
}
OWN = {
    "NARM": {"embedding_size": 8, "hidden_size": 12, "n_layers": 1, "dropout_probs": [0.2, 0.3]},
    "Caser": {"embedding_size": 8, "window": 5, "dropout_prob": 0.2, "reg_weight": 1e-3, "nv": 2, "nh": 3},
}
WATCHED = DiagnosticsSpec(
    enabled=True, users=40, seed=0, k=3, folds=4, clusters=4, collapse_rank=2.0, collapse_variance=0.01
)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """However long a write takes, the next epoch is kept as well."""
    monkeypatch.setattr(checkpoints, "_SHARE", 0)


@pytest.fixture(scope="module")
def split():
    return tiny_split(N_USERS - 1)


def vectors(n, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def profiles():
    mask = np.arange(N_USERS)[:, None] % 7 > 0
    return ProfileTable(vectors(N_USERS, 10)[:, None], mask, {}, 0.9, "p", verified=True)


def lists():
    items = np.stack([np.random.default_rng(u).permutation(np.arange(1, 30))[:6] for u in range(N_USERS)])
    score = -np.tile(np.arange(6, dtype=np.float32), (N_USERS, 1))
    return TeacherLists(items, score, {}, 1.0, "l", verified=True)


def side():
    items, users = torch.from_numpy(vectors(30, 20, 3)), torch.from_numpy(vectors(N_USERS, 9, 4))
    items[0] = users[0] = 0
    return SideInputs(N_USERS, items, users)


def of_system(backbone, name):
    system = SystemSpec(name=name, params=SYSTEM_PARAMS[name])
    return student_spec(backbone, epochs=3).model_copy(update={"system": system})


def of_own(name):
    train = student_spec("SASRec", epochs=3).train
    return StudentSpec(model=name, hparams={**OWN[name], "loss_type": "CE"}, train=train, distill=None)


def taught(name, epochs=4, train=None, **distill):
    return student_spec(name, distill_spec(**distill), epochs=epochs, **(train or {}))


SAMPLED = {"name": "sampled-softmax", "negatives": 4, "log_q": True}
RELAXED = {"interesting": 3, "interesting_decay": 2.0, "others": 4}
CASES = {
    "SASRec": (student_spec("SASRec", epochs=3, weight_average=0.9), None),
    "GRU4Rec": (student_spec("GRU4Rec", epochs=3, clip_grad_norm=0.5, weight_decay=0.01), None),
    "BERT4Rec": (student_spec("BERT4Rec", epochs=3, learning_rate_schedule="linear"), None),
    "kept late": (student_spec("SASRec", epochs=4, learning_rate_schedule="linear", keep_from=0.75), None),
    "sampled": (student_spec("GRU4Rec", epochs=3, loss=SAMPLED), None),
    "alternate": (
        taught("SASRec", projector="mlp", schedule="alternate-batches", alternate_every=3, distil_epochs=3),
        profiles(),
    ),
    "reset": (taught("SASRec", reset_optimizer=True, distil_epochs=2), profiles()),
    "pcgrad": (taught("GRU4Rec", gradient_conflict="pcgrad", train={"weight_average": 0.5}), profiles()),
    "experts": (taught("SASRec", projector="experts", distil_epochs=4), profiles()),
    "lists": (
        taught("SASRec", objective="relaxed_ranking", objective_args=RELAXED, distil_epochs=4),
        lists(),
    ),
    "plateau": (
        taught("GRU4Rec", 30, schedule="fine-tune-last", fine_tune_epochs=3, train={"stopping_step": 1}),
        profiles(),
    ),
    "llm-esr": (of_system("SASRec", "llm-esr"), None),
    "rlmrec-items": (of_system("GRU4Rec", "rlmrec-items"), None),
    "unisrec": (of_system("SASRec", "unisrec"), None),
    "early": (student_spec("GRU4Rec", epochs=40, stopping_step=2, learning_rate=0.05), None),
    "NARM": (of_own("NARM"), None),
    "Caser": (of_own("Caser"), None),
}


class Killed(Exception):
    pass


def trained(split, case, path=None, *, die=None, diagnostics=None, said=None, seed=1, **more):
    """Train a case, dying when epoch ``die`` is told; ``path`` names the checkpoint."""
    spec, teacher = CASES[case] if isinstance(case, str) else case

    def on_epoch(row):
        if row["epoch"] == die:
            raise Killed

    kept = None
    if path is not None:
        say = [] if said is None else said
        kept = Checkpoint(path, ALWAYS, made_by=lambda: {"code": "here"}, say=say.append)
    options = {"side": side() if spec.system else None, "diagnostics": diagnostics, **more}
    return fit(
        split,
        spec,
        teacher,
        seed=seed,
        device="cpu",
        max_item_list_length=MAX_LEN,
        on_epoch=on_epoch,
        checkpoint=kept,
        **options,
    )


@pytest.fixture(scope="module")
def uninterrupted(split):
    """Results by case, each trained once."""
    return cache(lambda case: trained(split, case))


def interrupted(split, case, path, deaths, **more):
    for epoch in deaths:
        with pytest.raises(Killed):
            trained(split, case, path, die=epoch, **more)
        # Somebody else trains and draws in between.
        torch.rand(7)
    return trained(split, case, path, **more)


def same(a, b):
    """Equal to the bit, NaN to NaN."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def told(result):
    """Everything of a result but seconds."""
    return {
        "history": [{k: v for k, v in row.items() if k != "seconds"} for row in result.history],
        "state": dict(result.state_dict),
        "head": {k: v for k, v in result.model.state_dict().items() if "distil_head" in k},
        "ends": (result.best_epoch, result.epochs, result.stopped_early, result.n_parameters),
        "diagnostics": result.diagnostics,
        "states": result.states,
    }


def ranks(result, split):
    return rank_targets(result.model, split.test, max_len=MAX_LEN, batch_size=16).rank.tolist()


TWICE = ("SASRec", "reset", "plateau")
# Of every kind of state that is carried, one case is fast.
LONG = ("pcgrad", "experts", "rlmrec-items", "early", "Caser")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in LONG else c for c in CASES])
def test_an_interrupted_training_ends_as_if_it_had_not_been(case, split, uninterrupted, tmp_path):
    spec, _ = CASES[case]
    whole = uninterrupted(case)
    last = whole.epochs
    deaths = [2, last] if case in TWICE else [last]
    resumed = interrupted(split, case, tmp_path / "c", deaths)
    assert [r["epoch"] for r in resumed.resumed] == [death - 1 for death in deaths]
    assert {r["code"] for r in resumed.resumed} == {"here"}
    assert same(told(whole), told(resumed))
    assert ranks(whole, split) == ranks(resumed, split)
    assert resumed.seconds["train"] == pytest.approx(
        sum(r["seconds"] for r in resumed.history) - resumed.seconds["valid"]
    )
    assert 0 < resumed.seconds_before < sum(resumed.seconds.values())
    if case in ("plateau", "early"):
        assert 2 < last < spec.train.epochs


@pytest.mark.parametrize("death", [2, 4])
def test_diagnostics_of_a_resumed_training(death, tmp_path):
    """Death before and after the end of distillation, whose states are remembered."""
    big = tiny_split(n_users=30)
    mask = np.arange(31)[:, None] > 0
    table = ProfileTable(vectors(31, 10)[:, None], mask, {}, 1.0, "p", verified=True)
    case = taught("SASRec", projection="teacher", distil_epochs=2), table
    whole = trained(big, case, diagnostics=WATCHED)
    resumed = interrupted(big, case, tmp_path / "c", [death], diagnostics=WATCHED)
    assert whole.diagnostics["distilled"]["epoch"] == 2
    assert "distilled.state" in whole.states
    assert same(told(whole), told(resumed))


FORGET = {
    "bank": ("llm-esr", Bank, "load_carried_state"),
    "noise": ("unisrec", WhitenedExperts, "load_carried_state"),
    "gumbel": ("experts", Experts, "load_carried_state"),
    "drawn": ("lists", ListHead, "load_carried_state"),
    "negatives": ("sampled", RecLoss, "load_state_dict"),
    "average": ("SASRec", WeightAverage, "load_state_dict"),
    "dropout": ("SASRec", ByteDropout, "load_state_dict"),
    "optimizer": ("GRU4Rec", torch.optim.Adam, "load_state_dict"),
    "schedule": ("plateau", Schedule, "load_state_dict"),
    "stopping": ("early", EarlyStopping, "load_state_dict"),
}


QUICK = ("bank", "dropout", "optimizer")


@pytest.mark.parametrize(
    "what", [w if w in QUICK else pytest.param(w, marks=pytest.mark.slow) for w in FORGET]
)
def test_what_is_forgotten_is_seen(what, split, uninterrupted, tmp_path, monkeypatch):
    """The comparison above can fail: without one part the rest of the training is another one."""
    case, owner, method = FORGET[what]
    whole = uninterrupted(case)
    with pytest.raises(Killed):
        trained(split, case, tmp_path / "c", die=whole.epochs)
    monkeypatch.setattr(owner, method, lambda self, state: None)
    assert not same(told(whole), told(trained(split, case, tmp_path / "c")))


@pytest.mark.slow
def test_torch_s_own_stream_is_kept(split, uninterrupted, tmp_path, monkeypatch):
    """Caser has dropout layers of RecBole's."""
    whole = uninterrupted("Caser")
    with pytest.raises(Killed):
        trained(split, "Caser", tmp_path / "c", die=3)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    assert not same(told(whole), told(trained(split, "Caser", tmp_path / "c")))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_module_with_a_stream_says_where_it_is(name):
    spec = SystemSpec(name=name, params=SYSTEM_PARAMS[name])
    model = build_student(
        "SASRec", HPARAMS["SASRec"], n_items=30, max_len=MAX_LEN, seed=1, system=spec, side=side()
    )
    kinds = (torch.Generator, np.random.Generator, ByteDropout)
    drawing = [m for m in model.modules() if any(isinstance(v, kinds) for v in vars(m).values())]
    assert all(isinstance(m, Carrier) for m in drawing)
    assert bool(drawing) == (name in ("unisrec", "rlmrec-items"))
    served = {k: v.clone() for k, v in model.student_state().items()}
    assert not any(k.rpartition(".")[2] in ("stream", "drawn", "states", "filled") for k in served)


def test_a_finished_training_is_only_read(split, tmp_path):
    whole = trained(split, "GRU4Rec", tmp_path / "c")
    again = trained(split, "GRU4Rec", tmp_path / "c", die=1)
    assert same(told(whole), told(again))
    assert again.seconds == whole.seconds
    assert [r["epoch"] for r in again.resumed] == [3]


def changed(spec, **train):
    return spec.model_copy(update={"train": spec.train.model_copy(update=train)})


def test_a_checkpoint_of_another_training_is_named_and_not_used(split, tmp_path, monkeypatch):
    spec, _ = CASES["GRU4Rec"]
    path = tmp_path / "c"
    with pytest.raises(Killed):
        trained(split, "GRU4Rec", path, die=3)
    content = path.read_bytes()

    def refused(word, case="GRU4Rec", **more):
        said = []
        path.write_bytes(content)
        result = trained(split, case, path, said=said, **more)
        assert len(said) == 1
        assert word in said[0]
        assert said[0].endswith("training starts anew")
        assert not result.resumed
        return result

    other = refused("seed 1, now 2", seed=2)
    assert same(told(other), told(trained(split, "GRU4Rec", seed=2)))
    refused("student", (changed(spec, learning_rate=0.006), None))
    refused("execution", execution=execution_of("cpu"))
    monkeypatch.setattr(torch, "__version__", "9.9")
    refused("now 9.9")


def reading(users, items="i"):
    """Side inputs as they are read from files: vectors that come from their digests."""
    seed = sum(users.encode())
    read = torch.from_numpy(vectors(N_USERS, 9, seed))
    read[0] = 0
    return replace(side(), users=read, digests={"items": items, "users": users})


@pytest.mark.parametrize("name", ["kar", "profile-token"])
def test_a_checkpoint_is_not_used_after_an_input_changed(name, split, tmp_path):
    case, path = (of_system("SASRec", name), None), tmp_path / "c"
    with pytest.raises(Killed):
        trained(split, case, path, die=3, side=reading("old"))
    content, said = path.read_bytes(), []
    anew = trained(split, case, path, side=reading("new"), said=said)
    assert said == ["checkpoint c is of another training (inputs.users old, now new); training starts anew"]
    assert same(told(anew), told(trained(split, case, side=reading("new"))))
    path.write_bytes(content)
    trained(split, case, path, side=reading("old", "j"), said=said)
    assert "inputs.items i, now j" in said[-1]
    path.write_bytes(content)
    same_files = trained(split, case, path, side=reading("old"), said=said)
    assert said[-1] == "resumed at epoch 2"
    assert same(told(same_files), told(trained(split, case, side=reading("old"))))


@pytest.mark.parametrize("empty", [None, SideInputs(N_USERS), SideInputs(N_USERS, manifests={}, digests={})])
def test_a_student_that_reads_nothing_has_the_fingerprint_it_always_had(empty, split, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(Killed):
        trained(split, "GRU4Rec", path, die=3, side=empty)
    assert set(checkpoints.read(path)["fingerprint"]) == {
        *("format", "torch", "student", "seed", "dataset", "split", "profiles"),
        *("max_item_list_length", "device", "diagnostics", "execution"),
    }


def test_how_often_it_is_kept_is_no_part_of_the_fingerprint(split, uninterrupted, tmp_path):
    settings, said = execution_of("cpu"), []
    with pytest.raises(Killed):
        trained(split, "GRU4Rec", tmp_path / "c", die=3, execution=settings)
    other = settings.model_copy(update={"checkpoint_seconds": 5.0})
    resumed = trained(split, "GRU4Rec", tmp_path / "c", execution=other, said=said)
    assert said == ["resumed at epoch 2"]
    assert same(told(resumed), told(uninterrupted("GRU4Rec")))


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: b"", lambda content: b"PK" + content])
def test_a_damaged_checkpoint_is_named_and_not_used(damage, split, uninterrupted, tmp_path):
    path, said = tmp_path / "c", []
    with pytest.raises(Killed):
        trained(split, "GRU4Rec", path, die=3)
    path.write_bytes(damage(path.read_bytes()))
    result = trained(split, "GRU4Rec", path, said=said)
    assert len(said) == 1
    assert "damaged" in said[0]
    assert not result.resumed
    assert same(told(result), told(uninterrupted("GRU4Rec")))


def test_a_state_that_does_not_fit_leaves_nothing_behind(split, uninterrupted, tmp_path):
    """A layout that changed unnoticed: the parameters are in already when the stream is missing."""
    path, said = tmp_path / "c", []
    with pytest.raises(Killed):
        trained(split, "unisrec", path, die=3)
    content = checkpoints.read(path)
    del content["training"]["carried"]["system.adaptor"]["stream"]
    checkpoints.write(path, content)
    result = trained(split, "unisrec", path, said=said)
    assert len(said) == 1
    assert "does not fit" in said[0]
    assert same(told(result), told(uninterrupted("unisrec")))


class Arbitrary:
    pass


def test_nothing_but_tensors_and_plain_values_is_read(tmp_path):
    said = []
    checkpoints.write(tmp_path / "c", {"fingerprint": Arbitrary()})
    keeper = Keeper(Checkpoint(tmp_path / "c", ALWAYS, say=said.append), {})
    assert keeper.found() is None
    assert "damaged" in said[0]


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_checkpoints_keep_their_distance(tmp_path, monkeypatch):
    clock, written = Clock(), []
    monkeypatch.setattr(checkpoints, "time", clock)
    monkeypatch.setattr(checkpoints, "_SHARE", 20)

    def slow(path, content):
        clock.now += took
        written.append(clock.now)

    monkeypatch.setattr(checkpoints, "write", slow)
    keeper = Keeper(Checkpoint(tmp_path / "c", 60), {})
    took = 1.0
    for now in (101, 159, 160, 200, 220, 221, 300):
        clock.now = now
        keeper.offer(dict)
    assert written == [161, 222, 301]
    took = 10.0  # a twentieth of the time at most
    for now in (361, 500, 570, 571):
        clock.now = now
        keeper.offer(dict)
    assert written[3:] == [371, 581]


def test_zero_seconds_and_a_short_training_write_nothing(split, tmp_path):
    for seconds in (0, 3600):
        fit(
            split,
            CASES["GRU4Rec"][0],
            None,
            seed=1,
            device="cpu",
            max_item_list_length=MAX_LEN,
            checkpoint=Checkpoint(tmp_path / "c", seconds),
        )
    assert not list(tmp_path.iterdir())


class Alone(Shards):
    """A distributed training of one process, without a process group."""

    def sum_gradients(self, parameters):
        pass

    def sum(self, value):
        return value


def test_a_distributed_training_is_not_kept(split, tmp_path):
    trained(split, "GRU4Rec", tmp_path / "c", shards=Alone(0, 1))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_costs_a_line(split, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    result = trained(split, "GRU4Rec", tmp_path / "file" / "c", said=said)
    assert len(said) == 1
    assert "could be written" in said[0]
    assert result.epochs == 3


def test_what_a_killed_writer_left_goes(tmp_path):
    path = tmp_path / "c"
    (tmp_path / ".c.tmp").write_bytes(b"half")
    checkpoints.write(path, {"a": torch.ones(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    (tmp_path / ".c.tmp").write_bytes(b"half")
    Checkpoint(path, 1).remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.SFC64])
def test_streams_go_on_where_they_were(kind):
    stream, other = (np.random.Generator(kind(seed)) for seed in (1, 2))
    stream.integers(0, 9, size=3, dtype=np.int32)  # half of a 64-bit word is kept back
    set_stream_state(other, stream_state(stream))
    assert other.bytes(9) == stream.bytes(9)
    assert other.integers(0, 1 << 60, 5).tolist() == stream.integers(0, 1 << 60, 5).tolist()


def test_a_watch_without_distillation_has_nothing_to_keep():
    watch = Watch.__new__(Watch)
    watch.views = {}
    assert watch.state_dict() == {}
