"""Recformer: layout of the sentences by hand, encoder against transformers, losses by hand, two stages."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_kd.baselines.pretraining import Part, merge, pretrain
from recbole_kd.baselines.recformer import model as recformer
from recbole_kd.baselines.recformer.encoder import LanguageEncoder, load_encoder
from recbole_kd.baselines.recformer.pretraining import RecformerPretraining, hide
from recbole_kd.baselines.recformer.tokens import CLS, KEY, PADDING, VALUE, newest_first, tokenise
from recbole_kd.errors import SpecError
from recbole_kd.metrics import per_user
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.models.build import build_student
from recbole_kd.models.side import SideInputs
from recbole_kd.ranking import rank_targets
from recbole_kd.training.attach import check_average
from recbole_kd.training.checkpoint import Checkpoint
from recbole_kd.training.fit import fit
from recbole_kd.training.spec import PretrainSpec, StudentSpec
from tests.baselines import traits
from tests.baselines.encoders import write_encoder
from tests.baselines.traits import pop_ndcg, trait_attributes, trait_split
from tests.students import MAX_LEN, student_spec

HPARAMS = {
    "encoder": "tiny",
    "layers": None,
    "train_layers": None,
    "train_words": True,
    "pooling": "cls",
    "max_items": 3,
    "tokens_per_attribute": 6,
    "tokens_per_item": 10,
    "max_tokens": 40,
    "temperature": 0.05,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bert(folder):
    return load_encoder(folder)


def encoder(folder, **changes):
    model, tokenizer = load_encoder(folder)
    keys = ("layers", "train_layers", "train_words", "max_items", "pooling", "precision")
    return LanguageEncoder(model, **{k: HPARAMS[k] for k in keys} | changes).eval(), tokenizer


def test_a_history_is_one_line_of_keys_and_values_newest_first(bert):
    _, tokenizer = bert
    items = [
        (),
        (("title", "jazz number 3"), ("category", "jazz")),
        (("title", "chess number 1 2 3 4 5"),),
        (),
    ]
    tokens = tokenise(items, tokenizer, per_attribute=6, per_item=7)
    line = tokens.lay_out(torch.tensor([[2, 1, 0], [1, 0, 0], [3, 0, 0]]), 40)
    words = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in line.ids]
    second = ["title", "chess", "number", "1", "2", "3"]  # cut to 6 tokens an attribute
    first = ["title", "jazz", "number", "3", "category", "jazz"]
    assert words[0] == ["[CLS]", *second, *first]
    assert words[1] == ["[CLS]", *first, *["[PAD]"] * 6]
    assert words[2] == ["[CLS]", *["[PAD]"] * 12]  # an item without text
    kinds = [KEY, VALUE, VALUE, VALUE, KEY, VALUE]
    assert line.types[0].tolist() == [CLS, KEY, *[VALUE] * 5, *kinds]
    assert line.types[1].tolist() == [CLS, *kinds, *[PADDING] * 6]
    assert line.places[0].tolist() == [0, *[1] * 6, *[2] * 6]
    assert line.places[1].tolist() == [0, *[1] * 6, *[0] * 6]
    assert line.mask.sum(1).tolist() == [13, 7, 1]
    cut = tokens.lay_out(torch.tensor([[2, 1]]), 9)
    assert tokenizer.convert_ids_to_tokens(cut.ids[0].tolist()) == ["[CLS]", *second, "title", "jazz"]
    short = tokenise(items, tokenizer, per_attribute=6, per_item=5)
    assert short.length.tolist() == [0, 5, 5, 0]


def test_newest_first():
    rows = [[3, 7, 9, 4], [5, 0, 0, 0], [6, 2, 0, 0]]
    lengths = [4, 1, 2]
    found = newest_first(torch.tensor(rows), torch.tensor(lengths), 3)
    for row, n, ours in zip(rows, lengths, found.tolist(), strict=True):
        expected = row[:n][::-1][:3]
        assert ours == expected + [0] * (3 - len(expected))


@torch.no_grad()
def test_without_types_and_places_it_is_the_encoder_itself(folder, bert):
    ours, tokenizer = encoder(folder)
    tokens = tokenise(trait_attributes(), tokenizer, per_attribute=6, per_item=10)
    line = tokens.lay_out(torch.tensor([[4, 20, 7], [9, 0, 0]]), 40)
    reference = bert[0].eval()
    typed = ours.states(line)
    ours.types.weight.zero_()
    ours.places.weight.zero_()
    plain = reference(input_ids=line.ids, attention_mask=line.mask.long()).last_hidden_state
    torch.testing.assert_close(ours.states(line)[line.mask], plain[line.mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(line), F.normalize(plain[:, 0], dim=1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(typed, plain, atol=1e-4)
    mean, _ = encoder(folder, pooling="mean")
    mean.load_state_dict(ours.state_dict())
    expected = torch.stack([plain[0][line.mask[0]].mean(0), plain[1][line.mask[1]].mean(0)])
    torch.testing.assert_close(mean(line), F.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_fewer_blocks_are_the_first_ones(folder, bert):
    ours, tokenizer = encoder(folder, layers=1)
    ours.types.weight.zero_()
    ours.places.weight.zero_()
    tokens = tokenise(trait_attributes(), tokenizer, per_attribute=6, per_item=10)
    line = tokens.lay_out(torch.tensor([[4, 20, 7]]), 40)
    given = {"input_ids": line.ids, "attention_mask": line.mask.long()}
    below = bert[0].eval()(**given, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(ours.states(line), below, rtol=1e-4, atol=1e-5)
    with pytest.raises(SpecError, match="3 of the encoder's 2 blocks"):
        encoder(folder, layers=3)


def test_bfloat16_is_for_training_steps_and_near_float32(folder):
    exact, tokenizer = encoder(folder)
    rough, _ = encoder(folder, precision="bfloat16")
    rough.load_state_dict(exact.state_dict())
    tokens = tokenise(trait_attributes(), tokenizer, per_attribute=6, per_item=10)
    line = tokens.lay_out(torch.tensor([[4, 20, 7], [9, 8, 0]]), 40)
    assert torch.equal(rough(line), exact(line))
    for one in (exact, rough):
        one.train()
        for module in one.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    direction = torch.randn(24, generator=torch.Generator().manual_seed(0))
    gradients = []
    for one in (exact, rough):
        (one(line) @ direction).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    assert rough(line).dtype == torch.float32
    assert not torch.equal(rough(line), exact(line))
    torch.testing.assert_close(rough(line), exact(line), rtol=0, atol=0.01)
    assert F.cosine_similarity(*gradients, dim=0) > 0.999
    with pytest.raises(SpecError, match=r"hparams\.precision: 'half' is not one of auto, float32, bfloat16"):
        encoder(folder, precision="half")


def test_what_is_trained(folder):
    some, _ = encoder(folder, train_layers=1, train_words=False)
    trained = {name for name, p in some.named_parameters() if p.requires_grad}
    assert {"types.weight", "places.weight"} < trained
    assert any(name.startswith("model.encoder.layer.1.") for name in trained)
    assert not any(name.startswith(("model.encoder.layer.0.", "model.embeddings.")) for name in trained)


@torch.no_grad()
def test_longformer_attends_globally_from_its_first_token(tmp_path):
    source = write_encoder(tmp_path / "longformer", longformer=True)
    ours, tokenizer = encoder(source)
    ours.types.weight.zero_()
    ours.places.weight.zero_()
    tokens = tokenise(trait_attributes(), tokenizer, per_attribute=6, per_item=10)
    line = tokens.lay_out(torch.tensor([[4, 20, 7], [9, 8, 0]]), 40)
    reference = load_encoder(source)[0].eval()
    everywhere = torch.zeros_like(line.ids)
    everywhere[:, 0] = 1
    given = {"input_ids": line.ids, "attention_mask": line.mask.long()}
    expected = reference(**given, global_attention_mask=everywhere).last_hidden_state
    local = reference(**given).last_hidden_state
    torch.testing.assert_close(ours.states(line)[line.mask], expected[line.mask], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(local[:, 0], expected[:, 0], atol=1e-3)


def test_hidden_words(bert):
    _, tokenizer = bert
    tokens = tokenise(trait_attributes(), tokenizer, per_attribute=6, per_item=10)
    line = tokens.lay_out(torch.arange(1, 81).view(40, 2), 40)
    vocabulary = len(tokenizer)
    hidden, ids = hide(line, 0.5, tokenizer.mask_token_id, vocabulary, np.random.default_rng(0))
    assert not hidden[:, 0].any()
    assert not hidden[~line.mask].any()
    assert torch.equal(ids[~hidden], line.ids[~hidden])
    n = int(hidden.sum())
    masked = int((ids[hidden] == tokenizer.mask_token_id).sum())
    left = int((ids[hidden] == line.ids[hidden]).sum())
    assert 0.44 < n / int(line.mask[:, 1:].sum()) < 0.56
    assert 0.72 < masked / n < 0.88
    assert 0.05 < left / n < 0.17


def spec_of(epochs=3, **args):
    given = {"mlm_weight": 0.1, "mlm_rate": 0.3} | args
    return PretrainSpec(
        datasets=["self"],
        epochs=epochs,
        learning_rate=0.002,
        weight_decay=0.0,
        batch_size=32,
        seed=4,
        args=given,
    )


def pretraining(folder, spec, **hparams):
    split = trait_split()
    corpus = merge([Part.of(split, attributes=trait_attributes())])
    torch.manual_seed(0)
    return RecformerPretraining(corpus, {**HPARAMS, "encoder": folder, **hparams}, {}, spec, MAX_LEN), corpus


@torch.no_grad()
def test_losses_of_a_pretraining_step_by_hand(folder):
    model, corpus = pretraining(folder, spec_of(mlm_weight=0.2))
    model.eval()
    batch = next(
        SequenceBatches(corpus.train, MAX_LEN, 6, shift=True, packed=False).epoch(np.random.default_rng(0))
    )
    batch = replace(batch, user=torch.where(batch.user == batch.user[1], batch.user[0], batch.user))
    loss = float(model.step_loss(batch, None, np.random.default_rng(1)))
    rng = np.random.default_rng(1)
    drawn = [int(n) for n in rng.integers(1, batch.length.numpy() + 1)]
    targets, lines, items = [], [], []
    for row, n in enumerate(drawn):
        past = batch.item_seq[row, :n].tolist()[::-1][:3]
        targets.append(int(batch.target[row, n - 1]))
        lines.append(past + [0] * (3 - len(past)))
        items.append([targets[-1]])
    history = model.tokens.lay_out(torch.tensor(lines), 40)
    item = model.tokens.lay_out(torch.tensor(items), 40)
    s, v = model.encoder(history), model.encoder(item)
    contrast = 0.0
    for i in range(6):
        scores = {
            j: math.exp(float(s[i] @ v[j]) / 0.05)
            for j in range(6)
            if j == i or (targets[j] != targets[i] and int(batch.user[j]) != int(batch.user[i]))
        }
        contrast -= math.log(scores[i] / sum(scores.values()))
    words = 0.0
    for line in (history, item):
        hidden, ids = hide(line, 0.3, model._mask, len(model.encoder.words), rng)
        states = model.encoder.states(replace(line, ids=ids))[hidden]
        logits = model.head(states) @ model.encoder.words.T + model.head_bias
        words += float(F.cross_entropy(logits, line.ids[hidden]))
    assert loss == pytest.approx(contrast / 6 + 0.2 * words, rel=1e-4)


def run_pretraining(folder, spec, checkpoint=None):
    model, corpus = pretraining(folder, spec)
    return pretrain(model, corpus, spec, max_len=MAX_LEN, packed=False, device="cpu", checkpoint=checkpoint)


def test_pretraining_lowers_its_loss_and_resumes_where_it_stopped(folder, tmp_path):
    whole, losses = run_pretraining(folder, spec_of(3))
    assert losses[-1] < losses[0]
    stop = tmp_path / "stop.partial"
    run_pretraining(folder, spec_of(2), stop)
    resumed, again = run_pretraining(folder, spec_of(3), stop)
    assert again == losses
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def trained(folder, split, state=None, attributes=None, epochs=4, hparams=None, kept=None, **train):
    base = student_spec("SASRec", epochs=epochs, learning_rate=0.002, train_batch_size=16, **train)
    spec = StudentSpec(
        model="Recformer", hparams={**HPARAMS, **(hparams or {})}, train=base.train, distill=None
    )
    side = SideInputs(
        split.dataset.n_users,
        pretrained=state,
        attributes=attributes or trait_attributes(),
        language_encoder=folder,
    )
    return fit(
        split, spec, None, seed=1, device="cpu", max_item_list_length=MAX_LEN, side=side, **(kept or {})
    )


def test_an_interrupted_training_goes_on_in_its_stage(folder, tmp_path, monkeypatch):
    """Killed in stage 1 and in the first and last epoch of stage 2: matrix, best epoch, dropout of torch."""
    monkeypatch.setattr("recbole_kd.training.checkpoint._SHARE", 0)
    split = trait_split(traits.SPEC.model_copy(update={"users": 48}))
    options = {"epochs": 30, "stopping_step": 1, "hparams": {"max_items": 1, "layers": 1}}
    whole = trained(folder, split, **options)
    stages = [row["phase"] for row in whole.history]
    second = stages.index("stage 2") + 1
    assert 2 < second < len(stages) < 30

    deaths = [2, second, len(stages)]

    def die(row):
        if deaths and row["epoch"] == deaths[0]:
            raise KeyboardInterrupt

    kept = {"checkpoint": Checkpoint(tmp_path / "c", 1e-9), "on_epoch": die}
    while deaths:
        with pytest.raises(KeyboardInterrupt):
            trained(folder, split, kept=kept, **options)
        del deaths[0]
    resumed = trained(folder, split, kept=kept, **options)
    assert [part["epoch"] for part in resumed.resumed] == [1, second - 1, len(stages) - 1]
    without = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in r.history] for r in (whole, resumed)
    ]
    assert str(without[0]) == str(without[1])  # NaN is equal to NaN there
    assert all(torch.equal(resumed.state_dict[k], v) for k, v in whole.state_dict.items())
    assert (resumed.best_epoch, resumed.stopped_early) == (whole.best_epoch, whole.stopped_early)


def test_stage_one_encodes_every_epoch_and_stage_two_keeps_the_matrix(folder, monkeypatch):
    seen, encoded = [], []
    plain_begin, plain_encode = recformer.Recformer.begin_epoch, recformer.Recformer.encoded_items

    def begin(self):
        plain_begin(self)
        seen.append((self.stage, self.item_matrix.clone()))

    def encode(self):
        encoded.append(self.stage)
        return plain_encode(self)

    monkeypatch.setattr(recformer.Recformer, "begin_epoch", begin)
    monkeypatch.setattr(recformer.Recformer, "encoded_items", encode)
    result = trained(folder, trait_split(), epochs=40, stopping_step=1, hparams={"max_items": 2})
    stages = [stage for stage, _ in seen]
    first = stages.count(1)
    assert 2 <= first < len(stages) < 40
    assert stages == sorted(stages)
    assert encoded == [1] * first
    phases = [row["phase"] for row in result.history]
    assert phases == ["stage 1"] * first + ["stage 2"] * (len(phases) - first)
    # The matrix moved from epoch to epoch, then stayed at that of the best epoch of stage 1.
    assert not torch.equal(seen[0][1], seen[1][1])
    values = [row["valid_ndcg@10"] for row in result.history]
    best = int(np.argmax(values[:first]))
    for _, matrix in seen[first:]:
        assert torch.equal(matrix, seen[best][1])
    assert result.best_epoch == int(np.argmax(values)) + 1
    assert result.stopped_early


@torch.no_grad()
def test_the_item_matrix_holds_the_items_alone_over_tau(folder):
    side = SideInputs(41, attributes=trait_attributes(), language_encoder=folder)
    model = build_student("Recformer", HPARAMS, n_items=81, max_len=MAX_LEN, seed=1, side=side).eval()
    model.begin_epoch()
    table, bias = model.item_table()
    assert bias is None
    assert not table[0].any()
    line = model.tokens.lay_out(torch.tensor([[17]]), 40)
    torch.testing.assert_close(table[17], model.encoder(line)[0] / 0.05)
    state = model.serve_states(torch.tensor([[3, 7, 9, 17, 0, 0, 0, 0]]), torch.tensor([4]))
    own = model.encoder(model.tokens.lay_out(torch.tensor([[17, 9, 7]]), 40))
    torch.testing.assert_close(state, own)
    assert not table.requires_grad


def test_fine_tuning_begins_where_pretraining_ended(folder):
    state, _ = run_pretraining(folder, spec_of(1))
    side = SideInputs(41, attributes=trait_attributes(), language_encoder=folder, pretrained=state)
    model = build_student("Recformer", HPARAMS, n_items=81, max_len=MAX_LEN, seed=1, side=side)
    own = dict(model.encoder.named_parameters())
    assert set(state) == {name for name, p in own.items() if p.requires_grad}
    assert all(torch.equal(own[name], value) for name, value in state.items())
    wrong = replace(side, pretrained={**state, "types.weight": torch.zeros(2, 2)})
    with pytest.raises(SpecError, match=r"do not fit the encoder: types\.weight"):
        build_student("Recformer", HPARAMS, n_items=81, max_len=MAX_LEN, seed=1, side=wrong)


def test_it_beats_popularity_where_texts_tell(folder):
    split = trait_split()
    state, losses = run_pretraining(folder, spec_of(6, mlm_weight=0.1))
    assert losses[-1] < losses[0]
    result = trained(folder, split, state, epochs=4, stopping_step=2)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    ranks = rank_targets(result.model, split.test, max_len=MAX_LEN, batch_size=64)
    assert per_user(ranks.rank, "NDCG@10").mean() > 1.5 * pop_ndcg(split)


def test_averaged_weights_are_refused():
    """Its item matrix is encoded by the first weights of an epoch, which an average would not be."""
    trained = student_spec("SASRec").train
    spec = StudentSpec(model="Recformer", hparams=HPARAMS, train=trained, distill=None)
    check_average(recformer.Recformer, spec)
    spec = spec.model_copy(update={"train": trained.model_copy(update={"weight_average": 0.9})})
    with pytest.raises(SpecError, match=r"train\.weight_average: 0\.9, but Recformer keeps no averaged"):
        check_average(recformer.Recformer, spec)
