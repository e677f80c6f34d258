"""Title log-likelihoods over a shared cache against whole strings read one by one."""

import pytest
import torch

from recbole_kd.baselines.llm.title_scores import TitleScorer

transformers = pytest.importorskip("transformers")


class Letters:
    """A token per byte."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [2 + byte for byte in text.encode()]}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def scorer(request):
    torch.manual_seed(0)
    if request.param == "llama":
        config = transformers.LlamaConfig(
            vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.GPT2Config(vocab_size=258, n_positions=256, n_embd=32, n_layer=2, n_head=4)
        model = transformers.GPT2LMHeadModel(config)
    return TitleScorer(Letters(), model.eval(), batch_size=3)


TITLES = ["Heat", "A", "Aliens", "Alien", "The Good, the Bad and the Ugly", "M", "Zulu"]


def test_scores_equal_reading_every_string_whole(scorer):
    prefix = scorer.ids("A viewer has watched: Toy Story, Jumanji.\nNext:")
    titles = [scorer.ids(f" {title}\n") for title in TITLES]
    expected = [scorer.score_whole(prefix, title) for title in titles]
    assert scorer.score(prefix, titles) == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 1


def test_scores_do_not_depend_on_the_company(scorer):
    prefix = scorer.ids("Next:")
    titles = [scorer.ids(f" {title}\n") for title in TITLES]
    together = scorer.score(prefix, titles)
    alone = [scorer.score(prefix, [title])[0] for title in titles]
    assert together == pytest.approx(alone, abs=1e-4)


def test_one_token_titles_need_no_second_reading(scorer):
    prefix = scorer.ids("Next:")
    assert scorer.score(prefix, [[70], [71]]) == pytest.approx(
        [scorer.score_whole(prefix, [70]), scorer.score_whole(prefix, [71])], abs=1e-4
    )


def test_probabilities_of_all_one_token_titles_sum_to_one(scorer):
    found = scorer.score(scorer.ids("Next:"), [[i] for i in range(258)])
    assert torch.tensor(found, dtype=torch.float64).exp().sum() == pytest.approx(1, abs=1e-4)
