import json

import pytest
import yaml

from recbole_kd.benchmark.plan import make_plan
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.benchmark.teacher_cost import teacher_costs, total_line
from recbole_kd.errors import SpecError


def costs(experiment, results):
    plan = make_plan(load_experiment(experiment).cells, results)
    return {cost.variants: cost for cost in teacher_costs(plan, results)}


@pytest.fixture
def no_network(monkeypatch):
    """Fail at the first connection that anything tries to open."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def with_teachers(write_experiment, **variants):
    teachers = {name: {"teacher": name, **more} for name, more in variants.items()}
    return write_experiment("llm", {"variants": {"plain": {}, **teachers}, "controls": "none"})


def test_an_api_teacher_is_counted_by_the_planner_of_the_profiles(
    place, write_experiment, tmp_path, no_network, capsys
):
    with_teachers(write_experiment, template={}, openai={})
    found = costs("llm", tmp_path / "r")
    assert found[("template",)].calls == 0
    assert found[("template",)].note == "no language model"
    api = found[("openai",)]
    # One call for each of the 30 users; the price table says 0.15 and 0.60 USD per million tokens.
    assert (api.model, api.calls, api.completion_tokens) == ("gpt-4o-mini", 30, 30 * 250)
    assert api.usd == pytest.approx((0.15 * api.prompt_tokens + 0.60 * 30 * 250) / 1e6)
    assert "four characters" in api.note
    assert not (tmp_path / "r").exists()
    from profiles.commands import plan

    plan("tiny", "openai", tmp_path / "other", (), None, 400, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["calls"], said["prompt_tokens"], said["likely_usd"]) == (30, api.prompt_tokens, api.usd)
    assert total_line(found.values()).startswith("LLM cost: 30 calls, ")


def test_answers_in_the_store_are_not_counted_again(place, write_experiment, tmp_path):
    from profiles.build import histories_of, make_author
    from profiles.spec import load_teacher_spec
    from profiles.store import Call, Store
    from profiles.strategies import STRATEGIES
    from recbole_kd.benchmark import rooms
    from recbole_kd.data.load import load_dataset, load_item_texts
    from recbole_kd.data.split import make_split

    with_teachers(write_experiment, openai={})
    dataset, _ = rooms.dataset("tiny")
    split, texts = make_split(load_dataset(dataset), dataset.split), load_item_texts(dataset)
    spec = load_teacher_spec("openai")
    histories = histories_of(spec, split, texts, "movies")
    author = make_author(spec, split, texts, "movies", histories)
    first = [next(STRATEGIES[spec.writer.history.strategy](author.job(h))) for h in histories[:12]]
    calls = [Call(m.digest, "words", 1, 10, 0.1, 0.0, "stop") for turn in first for m in turn]
    with Store(rooms.profiles_folder(tmp_path / "r") / "profiles.sqlite") as store:
        store.add_calls(author.writer, calls)
    found = costs("llm", tmp_path / "r")[("openai",)]
    assert found.calls == 18
    assert found.completion_tokens == 18 * 10
    assert "12 of 30 users have their texts" in found.note


def test_an_unknown_price_or_tokenizer_is_said(place, write_experiment, tmp_path, no_network):
    writer = {"model": "nobody-knows-it", "api": {"tokenizer": str(tmp_path / "no-such-folder")}}
    with_teachers(write_experiment, openai={"profile": {"writer": writer}})
    found = costs("llm", tmp_path / "r")[("openai",)]
    assert (found.calls, found.usd) == (30, None)
    assert "no price known for nobody-knows-it" in found.note
    assert "cannot be loaded, tokens at four characters each" in found.note
    assert "1 without a known price" in total_line([found])


def test_a_teacher_that_cannot_be_counted_does_not_stop_the_plan(place, write_experiment, tmp_path):
    missing = {"backend": "local", "model": str(tmp_path / "none.gguf"), "revision": "0123456789abcdef"}
    with_teachers(write_experiment, smollm2={"profile": {"writer": missing}})
    found = costs("llm", tmp_path / "r")[("smollm2",)]
    assert found.calls is None
    assert found.note.startswith("unknown: ")
    assert "1 that cannot be counted" in total_line([found])
    # Without a stated revision nobody knows which weights are meant, and so which runs.
    with_teachers(write_experiment, smollm2={"profile": {"writer": {**missing, "revision": None}}})
    with pytest.raises(SpecError, match=r"llm\.yaml:\d+: model '.*none\.gguf': no such file or folder"):
        costs("llm", tmp_path / "r")


def test_the_shipped_teacher_costs_nothing_and_a_placebo_shares_its_texts(place, monkeypatch, tmp_path):
    # ml-100k comes with RecBole.
    monkeypatch.delenv("RECBOLE_KD_DATA")
    experiment = {
        "experiment": "shipped",
        "datasets": ["ml-100k"],
        "backbones": ["SASRec"],
        "variants": {"plain": {}, "llm": {"teacher": "smollm2"}, "mixed": {"teacher": "shuffled"}},
        "controls": "none",
    }
    (place / "properties/experiment/shipped.yaml").write_text(yaml.safe_dump(experiment))
    found = costs("shipped", tmp_path / "r")
    assert list(found) == [("llm", "mixed")]
    shipped = found[("llm", "mixed")]
    assert (shipped.calls, shipped.prompt_tokens, shipped.usd) == (0, 0, 0.0)
    assert "ship" in shipped.note
    assert not (tmp_path / "r").exists()


def test_a_plan_of_chosen_cells(place, write_experiment, tmp_path, capsys):
    from recbole_kd.benchmark.cli import main

    with_teachers(write_experiment, openai={})
    arguments = ["plan", "llm", "--results", str(tmp_path / "r"), "--json", "--only"]
    for only, count, teachers in (("variant=plain", 2, 0), ("variant=openai & seed=1", 1, 1)):
        with pytest.raises(SystemExit) as end:
            main([*arguments, only])
        assert not end.value.code
        found = json.loads(capsys.readouterr().out)
        assert len(found["cells"]) == found["to_run"] == count
        assert [c["calls"] for c in found["llm"]] == [30] * teachers
