"""Answer logits: padding and a shared beginning change nothing; answers begin with different tokens."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("peft")

from profiles.spec import load_teacher_spec
from recbole_kd.baselines.llm.tuned.lm import adapter_state, check_llm, load_adapters, with_adapters
from recbole_kd.errors import SpecError, StoreError
from tests.tiny_lm import LORA, tiny_answers, tiny_llama


def test_logits_are_those_of_each_prompt_alone() -> None:
    lm = tiny_answers()
    prompts = [lm.encode(text) for text in ("Yes or no?", "a", "A much longer question, is it not?\n")]
    found = lm.logits(prompts)
    for row, prompt in enumerate(prompts):
        alone = lm.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(found[row], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_shared_beginning_changes_nothing(batch_size: int) -> None:
    lm = tiny_answers()
    prompts = [
        lm.encode("The same long beginning: " + rest) for rest in ("a?", "bcd?", "a", "xyz zyx?", "a?")
    ]
    tokens = lm.answers("x\n", ("Yes", "No"))
    found = lm.logits_of_shared(prompts, tokens, batch_size)
    torch.testing.assert_close(found, lm.logits(prompts)[:, tokens], atol=1e-4, rtol=1e-4)


def test_prompts_that_share_nothing_or_are_one() -> None:
    lm = tiny_answers()
    for texts in (["abc", "xyz!"], ["only one prompt of some length"]):
        prompts = [lm.encode(text) for text in texts]
        found = lm.logits_of_shared(prompts, [5, 7, 9], 3)
        torch.testing.assert_close(found, lm.logits(prompts)[:, [5, 7, 9]], atol=1e-4, rtol=1e-4)


def test_answer_tokens_follow_the_prompt() -> None:
    lm = tiny_answers()
    assert lm.answers("Q\n", ("Yes", "No")) == [lm.encode("Y")[0], lm.encode("N")[0]]
    with pytest.raises(SpecError, match="begin with the same token"):
        lm.answers("Q\n", ("Yes", "Yeah"))


def test_cut_keeps_short_titles_and_whole_tokens() -> None:
    lm = tiny_answers()
    assert lm.cut("abc", 3) == "abc"
    assert lm.cut("abcdef", 3) == "abc"


def test_adapters_begin_as_nothing_and_only_they_are_trained() -> None:
    plain = tiny_answers()
    wrapped = tiny_answers(adapters=True)
    prompt = [plain.encode("Is it?\n")]
    torch.testing.assert_close(plain.logits(prompt), wrapped.logits(prompt))
    learned = [name for name, p in wrapped.model.named_parameters() if p.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)
    # rank 4 on q (32 -> 32) and v (32 -> 16) of two layers
    assert sum(v.numel() for v in adapter_state(wrapped.model).values()) == 2 * (4 * 64 + 4 * 48)


def test_adapters_of_one_seed_are_equal_and_leave_the_global_stream() -> None:
    torch.manual_seed(3)
    models = [tiny_llama() for _ in range(3)]
    state = torch.get_rng_state()
    one, same, other = (
        adapter_state(with_adapters(m, LORA, s)) for m, s in zip(models, (1, 1, 2), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_adapters_come_back_from_their_state() -> None:
    trained, fresh = tiny_answers(adapters=True), tiny_answers(adapters=True)
    with torch.no_grad():
        for p in trained.model.parameters():
            if p.requires_grad:
                p.normal_(generator=torch.Generator().manual_seed(1))
    prompt = [trained.encode("Is it?\n")]
    assert not torch.allclose(trained.logits(prompt), fresh.logits(prompt))
    load_adapters(fresh.model, adapter_state(trained.model))
    assert torch.equal(trained.logits(prompt), fresh.logits(prompt))
    with pytest.raises(StoreError, match="another model"):
        load_adapters(fresh.model, dict(list(adapter_state(trained.model).items())[1:]))


def test_unknown_projection_is_an_error() -> None:
    with pytest.raises(SpecError, match="no 'query'"):
        with_adapters(tiny_llama(), LORA.model_copy(update={"targets": ("query",)}), 0)


def test_models_without_weights_here_are_refused() -> None:
    writer = load_teacher_spec("smollm2").writer
    check_llm(writer, LORA)
    with pytest.raises(SpecError, match=r"backend 'local'.*not 'none'"):
        check_llm(None, LORA)
    with pytest.raises(SpecError, match="not 'template'"):
        check_llm(load_teacher_spec("template").writer, LORA)


def test_quantised_without_bitsandbytes_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match="bitsandbytes, which is not installed; pip install"):
        check_llm(load_teacher_spec("smollm2").writer, LORA.model_copy(update={"quantise": "4bit"}))
