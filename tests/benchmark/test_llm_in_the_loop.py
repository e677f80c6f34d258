"""Zero-shot re-ranking as a cell: doubles that know everything or nothing, kills, dying servers, profiles."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from profiles.store import Store
from recbole_kd.benchmark.artefacts import read_split
from recbole_kd.benchmark.cli import main
from recbole_kd.benchmark.resolve import load_experiment
from recbole_kd.errors import SpecError
from tests.baselines.llm import answering as double
from tests.baselines.llm.answering import answering, shown

SMALL = {
    "hparams": {"n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "train": {"epochs": 1, "train_batch_size": 16},
}
CANDIDATES = {"retriever": {"backbone": "SASRec", "variant": "plain"}, "top": 5}


@pytest.fixture
def loop(place, write_experiment):
    """Write an experiment whose ranker asks the server at a given address."""

    def write(url, name="loop", params=None, variants=None, **changes):
        api = {"base_url": url, "key_variable": "NO_KEY", "concurrency": 1, "attempts": 1, "timeout": 20}
        profile = {"extends": "openai", "name": "double", "description": "a double"}
        profile["writer"] = {"model": "gpt-4o-mini", "api": api}
        (place / "properties" / "profile" / "double.yaml").write_text(yaml.safe_dump(profile))
        ranker = {"ranker": "llmrank", "llm": {"profile": "double"}, "params": params or {}}
        write_experiment(
            name,
            {
                "seeds": [1],
                "variants": {"plain": SMALL, "llm": ranker, **(variants or {})},
                "candidates": {**CANDIDATES, **changes},
                "controls": [],
            },
        )
        return place / "results"

    return write


def run(results, name="loop", ok=True):
    with pytest.raises(SystemExit) as end:
        main(["run", name, "--results", str(results), "--workers", "0"])
    assert bool(end.value.code) != ok


def found(results, name="loop"):
    record = json.loads((results / name / "experiment.json").read_text())
    return {c["variant"]: results / "runs" / c["cell"] for c in record["cells"]}


def ranks(path):
    table = pd.read_parquet(path / "ranks.parquet")
    table = table[table["split"] == "test"].drop(columns="split")
    return table.astype({"user": str, "item": str}).set_index("user")


def test_an_unparsable_model_leaves_the_retrievers_ranks(loop):
    with answering(lambda prompt: "As a language model I cannot watch films.") as server:
        results = loop(server.url)
        run(results)
    runs = found(results)
    pd.testing.assert_frame_equal(ranks(runs["plain"]), ranks(runs["llm"]))
    said = json.loads((runs["llm"] / "manifest.json").read_text())["ranker"]["parts"]["test"]
    assert said["answers_unusable"] == 3 * said["users"] >= said["calls"]  # two shuffles may be alike
    assert said["unparsed"] == 3 * said["candidates"]
    from analysis.load import load_results
    from analysis.tables import candidates_table

    (note,) = candidates_table(load_results(results / "loop")).notes
    assert note.startswith(f"tiny SASRec llm: {said['messages']} answers; {said['answers_unusable']} times")
    assert f" {said['unparsed']} times it left a candidate" in note


def test_an_oracle_reaches_the_ceiling(loop, place):
    """It finds the user by the history in the prompt and puts the target first, if it is shown."""
    targets = {}

    def oracle(prompt):
        history = tuple(re.findall(r"\d+\. (Title \d+)", prompt.split("</history>")[0]))
        titles = shown(prompt)
        titles.sort(key=lambda title: title != targets[history])
        return json.dumps(titles)

    with answering(oracle) as server:
        results = loop(server.url, params={"history": 1000})
        # The oracle's knowledge comes from the split, not from the code under test.
        run(results, ok=False)
        split = read_split(next((results / "cache" / "splits").glob("*.npz")))
        tokens = split.dataset.item_tokens
        for row, target in enumerate(split.test.targets):
            seen = tuple(f"Title {tokens[i][1:]}" for i in split.test.history.row(row))
            targets[seen] = f"Title {tokens[target][1:]}"
        run(results)
    runs = found(results)
    before, after = ranks(runs["plain"])["rank"], ranks(runs["llm"])["rank"]
    retrieved = before <= 5
    assert 0 < retrieved.sum() < len(before)
    assert (after[retrieved] == 1).all()
    pd.testing.assert_series_equal(before[~retrieved], after[~retrieved])


def test_places_are_summed_over_shuffles(loop):
    """A model that always names the first two shown: its position bias averages out into these sums."""
    with answering(lambda prompt: "\n".join(shown(prompt)[:2])) as server:
        results = loop(server.url, params={"bootstrap": 2})
        run(results)
        prompts = list(server.asked)
    run_path = found(results)["llm"]
    table = pd.read_parquet(run_path / "candidates.parquet")
    for _, rows in table.groupby("user", observed=True):
        titles = ["Title " + item[1:] for item in rows["item"]]
        orders = [shown(p) for p in prompts if set(shown(p)) == set(titles)]
        if len(orders) != 2:  # another user has the same candidates
            continue
        sums = np.zeros(5)
        for order in orders:
            whole = order[:2] + [title for title in titles if title not in order[:2]]
            sums += [whole.index(title) for title in titles]
        expected = np.lexsort((rows["slot"], sums))
        assert np.argsort(-rows["score"].to_numpy(), kind="stable").tolist() == expected.tolist()


@pytest.mark.slow
def test_a_killed_run_pays_for_no_answer_twice(loop, repo_root):
    code = "import sys; from recbole_kd.benchmark.cli import main; main(sys.argv[1:])"
    with answering(lambda prompt: "\n".join(shown(prompt)[::-1]), pause=0.05) as server:
        results = loop(server.url)
        command = [sys.executable, "-c", code, "run", "loop", "--results", str(results), "--workers", "0"]
        process = subprocess.Popen(command, cwd=results.parent, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while server.asked.total() < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
        before = dict(server.asked)
        stored = stored_calls(results)
        assert 0 < stored < 90
        run(results)
        twice = [prompt for prompt, n in server.asked.items() if n > 1]
        total = server.asked.total()
    # What was in flight when the process died was answered but never stored; only that is asked again.
    assert len(before) - stored == len(twice) <= 2
    said = json.loads((found(results)["llm"] / "manifest.json").read_text())["ranker"]["parts"]["test"]
    assert total == said["messages"] + len(twice)
    # The same experiment under another name buys nothing.
    fresh = results.parent / "again"
    (fresh / "cache").mkdir(parents=True)
    (results / "cache" / "llm").rename(fresh / "cache" / "llm")
    run(fresh)
    pd.testing.assert_frame_equal(ranks(found(results)["llm"]), ranks(found(fresh)["llm"]))


def stored_calls(results):
    with Store(results / "cache" / "llm" / "calls.sqlite") as store:
        return store._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0]


def test_a_server_that_dies_loses_nothing_that_was_answered(loop):
    with answering(lambda prompt: "\n".join(shown(prompt)), dies_after=30) as server:
        results = loop(server.url)
        run(results, ok=False)
        failure = json.loads((results / "loop" / "experiment.json").read_text())["failures"][0]
        assert "stored, run the same command again" in failure["error"]
        assert stored_calls(results) == 30
        server.dies_after = None
        run(results)
        assert set(server.asked.values()) == {1}
    assert not json.loads((results / "loop" / "experiment.json").read_text())["failures"]


@contextmanager
def killable(port, log, pause=0.0):
    """The double in a process of its own; what is left of it at the end is killed."""
    command = [sys.executable, "-m", double.__name__, str(port), str(log), str(pause)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        # A busy machine takes its time to start a process.
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_server_process_that_is_killed_loses_nothing_that_was_answered(loop, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, url = tmp_path / "asked", f"http://127.0.0.1:{port}/v1"

    def asked():
        # The last line may be half written.
        text = log.read_text() if log.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    results = loop(url)
    with killable(port, log, pause=0.05) as process:

        def kill():
            while len(asked()) < 20 and process.poll() is None:
                time.sleep(0.02)
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        run(results, ok=False)
        killer.join()
        assert process.wait() < 0
    before, stored = asked(), stored_calls(results)
    # One call at a time: at most the one in flight was answered and not received.
    assert 19 <= len(before) - 1 <= stored <= len(before) < 60
    with killable(port, log):
        run(results)
    times = Counter(asked())
    assert [n for n in times.values() if n > 1] == [2] * (len(before) - stored)
    said = json.loads((found(results)["llm"] / "manifest.json").read_text())["ranker"]["parts"]["test"]
    assert len(times) == said["messages"] == stored_calls(results)


def test_money_tokens_and_seconds_are_those_of_the_answers(loop):
    with answering(lambda prompt: "\n".join(shown(prompt))) as server:
        results = loop(server.url, max_users=6, params={"bootstrap": 1})
        run(results)
        words = sum(len(prompt.split()) for prompt in server.asked)
    path = found(results)["llm"]
    said = json.loads((path / "manifest.json").read_text())["ranker"]["parts"]["test"]
    assert (said["calls"], said["prompt_tokens"], said["completion_tokens"]) == (6, words, 6 * 5 * 2)
    assert said["usd"] == pytest.approx((0.15 * words + 0.6 * 60) / 1e6)
    usage = pd.read_parquet(path / "usage.parquet")
    assert len(usage) == 6
    assert usage["usd"].sum() == pytest.approx(said["usd"])


def test_profiles_stand_beside_or_instead_of_the_history(loop):
    variants = {
        name: {
            "ranker": "llmrank",
            "llm": {"profile": "double"},
            "params": {"profile": name, "bootstrap": 1},
            "inputs": {"teacher": "words"},
        }
        for name in ("beside", "instead")
    }
    teacher = {"extends": "template", "name": "words", "description": "no neural network"}
    teacher["encoder"] = {"kind": "tfidf", "dimension": 2}
    with answering(lambda prompt: "\n".join(shown(prompt))) as server:
        results = loop(server.url, params={"bootstrap": 1}, variants=variants)
        (results.parent / "properties" / "profile" / "words.yaml").write_text(yaml.safe_dump(teacher))
        run(results)
        prompts = list(server.asked)
    split = read_split(next((results / "cache" / "splits").glob("*.npz")))
    n = len(split.test)
    kinds = [("<profile>" in p, "<history>" in p) for p in prompts]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        (False, True): n,
        (True, True): n,
        (True, False): n,
    }
    with Store(results / "cache" / "profiles" / "profiles.sqlite") as store:
        texts = {p.text for p in store.profiles()}
    given = {p.split("<profile>")[1].split("</profile>")[0].strip() for p in prompts if "<profile>" in p}
    assert given == texts


def test_writing_the_profile_is_a_cost_of_the_ranker_that_reads_it_apart_from_its_requests(loop):
    """A model writes the profiles; each costs once per user, whoever is asked about."""
    from analysis.load import load_results
    from analysis.tables import cost_frame, cost_table

    def answer(prompt):
        if "<candidates>" in prompt:
            return "\n".join(shown(prompt))
        return f"They like {re.findall('Title [0-9]+', prompt)[-1]} and films with a plot."

    reads = {
        "ranker": "llmrank",
        "llm": {"profile": "double"},
        "params": {"profile": "instead", "bootstrap": 1},
        "inputs": {"teacher": "written"},
    }
    with answering(answer) as server:
        results = loop(server.url, variants={"reads": reads}, params={"bootstrap": 1}, max_users=4)
        teacher = {"extends": "double", "name": "written", "description": "the double writes"}
        teacher |= {"encoder": {"kind": "tfidf", "dimension": 2}, "writer": {"prompt": "plain"}}
        (results.parent / "properties" / "profile" / "written.yaml").write_text(yaml.safe_dump(teacher))
        run(results)
        prompts = Counter(server.asked)
    written = [p for p in prompts.elements() if "<candidates>" not in p]
    assert len(written) == 30
    assert prompts.total() == 30 + 4 + 4
    words = sum(len(p.split()) for p in written) + 30 * 9
    manifest = json.loads((found(results)["reads"] / "manifest.json").read_text())
    cost = manifest["cost"]
    assert manifest["serving_needs"] == "language model, texts"
    assert (cost["read_users"], cost["read_calls"], cost["llm_calls"]) == (30, 30, 0)
    assert cost["read_prompt_tokens"] + cost["read_completion_tokens"] == words
    frame = cost_frame(load_results(results / "loop")).set_index("variant")
    assert frame.loc["reads", "profile_tokens"] == pytest.approx(words / 30)
    price = (0.15 * (words - 270) + 0.6 * 270) / 1e6
    assert frame.loc["reads", "profile_usd_per_1000"] == pytest.approx(1000 * price / 30, abs=1e-4)
    assert frame.loc["reads", "profile_seconds"] > 0
    requests = [p for p in prompts if "<profile>" in p]
    per_user = sum(len(p.split()) for p in requests) / 4 + 10
    assert frame.loc["reads", "tokens_per_user"] == pytest.approx(per_user)
    assert frame.loc[["plain", "llm"], "profile_tokens"].isna().all()
    table = cost_table(load_results(results / "loop"))
    assert "Profile tokens/user" in [column.name for column in table.columns]
    assert "once per user and profile" in table.caption


def test_seeds_that_ask_the_same_pay_once(loop, write_experiment):
    """Popularity retrieves the same for every seed: in its order the prompts are equal, in shuffles not."""
    with answering(lambda prompt: "\n".join(shown(prompt)[::-1])) as server:
        results = loop(server.url)
        given = {"llm": {"profile": "double"}, "ranker": "llmrank"}
        given = {
            "backbones": ["Pop"],
            "seeds": [1, 2, 3],
            "variants": {"plain": {}, "llm": given | {"params": {"shown": "retriever", "bootstrap": 1}}},
            "candidates": {"retriever": {"backbone": "Pop", "variant": "plain"}, "top": 5},
        }
        write_experiment("seeds", given)
        run(results, "seeds")
        assert 0 < server.asked.total() == len(server.asked) <= 30
        record = json.loads((results / "seeds" / "experiment.json").read_text())
        paths = {results / "runs" / c["cell"] for c in record["cells"] if c["variant"] == "llm"}
        assert len(paths) == 3
        assert (
            len({json.loads((p / "manifest.json").read_text())["metrics"]["test"]["MRR"] for p in paths}) == 1
        )
        before = server.asked.total()
        given["variants"]["llm"]["params"] = {"bootstrap": 1}
        write_experiment("shuffled", given)
        run(results, "shuffled")
        assert server.asked.total() > before + 30


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ({"params": {"profile": "beside"}}, "inputs: {teacher: PROFILE}"),
        ({"inputs": {"teacher": "template"}}, "inputs.teacher is not read"),
        ({"inputs": {"items": "minilm"}}, "inputs of a ranker are"),
        ({"params": {"prompt": "sequental"}}, "did you mean 'sequential'"),
        ({"params": {"bootstrap": 0}}, "params.bootstrap = 0"),
        ({"params": {"shown": "retriever"}}, "set it to 1"),
        ({"params": {"profile": "besides"}}, "params.profile"),
        ({"llm": {"profile": "template"}}, "answers no question in the loop"),
        ({"llm": {"profile": "smolm2"}}, "no profile 'smolm2'"),
        ({"llm": {"batchsize": 3}}, "unknown key 'batchsize'; did you mean 'batch_size'"),
    ],
)
def test_a_slip_names_the_mend(write_experiment, variant, said):
    listed = {"plain": SMALL, "llm": {"ranker": "llmrank", **variant}}
    path = write_experiment("wrong", {"variants": listed, "candidates": CANDIDATES})
    with pytest.raises(SpecError) as error:
        load_experiment(path)
    assert said in str(error.value)


def test_speed_changes_no_address_and_prompts_do(write_experiment):
    def address(**variant):
        listed = {"plain": SMALL, "llm": {"ranker": "llmrank", **variant}}
        path = write_experiment("one", {"variants": listed, "candidates": CANDIDATES, "seeds": [1]})
        return load_experiment(path).cells[-1].cell

    assert address() == address(llm={"device": "cpu"})
    greedy = {"decoding": {"temperature": 0.0}}
    assert address(llm=greedy) == address(llm={**greedy, "batch_size": 3})
    # Words that are drawn are drawn for a batch at a time.
    assert address() != address(llm={"batch_size": 3})
    others = [{"params": {"prompt": "recency"}}, {"llm": {"decoding": {"temperature": 0.0}}}]
    assert len({address(), *(address(**other) for other in others)}) == 3


def test_every_method_is_scored_on_the_same_candidates(loop):
    """Composed ranks and ranks among the candidates, against lists sorted from the run's own scores."""
    wide = {**SMALL, "hparams": {**SMALL["hparams"], "inner_size": 16}}
    with answering(lambda prompt: "\n".join(shown(prompt)[::-1])) as server:
        results = loop(server.url, variants={"wide": wide}, max_users=20)
        run(results)
    runs = found(results)
    table = pd.read_parquet(results / "loop" / "candidates.parquet")
    assert set(table.groupby("variant").size()) == {20}
    held = pd.read_parquet(runs["llm"] / "candidates.parquet")
    for name, path in runs.items():
        mine = table[table["variant"] == name].set_index("user")
        own = ranks(path)["rank"]
        assert (mine["rank"] == own[mine.index]).all()
        for user, row in mine.iterrows():
            sets = held[held["user"].astype(str) == user].sort_values("place")
            place = np.flatnonzero(sets["item"] == row["item"])
            retriever = ranks(runs["plain"])["rank"][user]
            if not len(place):
                assert np.isnan(row["candidate_rank"])
                assert row["composed"] == retriever > 5
            elif name == "plain":
                assert row["candidate_rank"] == row["composed"] == place[0] + 1 == retriever
            elif name == "llm":
                order = np.argsort(-sets["score"].to_numpy(), kind="stable")
                assert row["candidate_rank"] == row["composed"] == np.flatnonzero(order == place[0])[0] + 1
                assert own[user] == row["composed"]
            else:  # another student's order of the candidates is that of its full ranking
                assert row["candidate_rank"] <= min(own[user], 5)
    text = (results / "loop" / "table.md").read_text()
    assert "the same candidates for every method" in text
    assert "20 users sampled with seed 2026" in text
    assert "different protocols" not in text


def test_candidates_added_by_hand_are_stated(loop):
    with answering(lambda prompt: "nothing") as server:
        results = loop(server.url, oracle_candidates=True, params={"bootstrap": 1})
        run(results)
    table = pd.read_parquet(results / "loop" / "candidates.parquet")
    assert table["candidate_rank"].notna().all()
    text = (results / "loop" / "table.md").read_text()
    assert text.count("ADDED BY HAND") >= 2
    pd.testing.assert_frame_equal(*(ranks(path) for path in found(results).values()))


def test_a_plan_prices_the_loop_before_and_after_the_retriever_ran(loop, capsys):
    def planned(results):
        with pytest.raises(SystemExit):
            main(["plan", "loop", "--results", str(results), "--json"])
        return json.loads(capsys.readouterr().out)["llm"][0]

    with answering(lambda prompt: "\n".join(shown(prompt)), dies_after=30) as server:
        results = loop(server.url, max_users=20)
        first = planned(results)
        assert first["model"] == "gpt-4o-mini"
        assert 55 <= first["calls"] <= 60
        assert "not retrieved yet" in first["note"]
        assert not (results / "runs").exists()
        run(results, ok=False)
        capsys.readouterr()
        second = planned(results)
        assert "30 answers stored" in second["note"]
        server.dies_after = None
        run(results)
        capsys.readouterr()
        words = sum(len(p.split()) for p in server.asked)
    assert second["calls"] == len(server.asked) - 30
    # Four characters a token against the words that the server counts.
    assert (
        words / len(server.asked) < second["prompt_tokens"] / second["calls"] < 4 * words / len(server.asked)
    )
    assert 0 < second["usd"] <= second["usd_at_most"]
    assert planned(results)["note"] == "its cells exist"


def test_latency_of_all_methods_is_measured_in_one_run(loop, capsys):
    with answering(lambda prompt: "\n".join(shown(prompt)), pause=0.05) as server:
        results = loop(server.url, max_users=12, params={"bootstrap": 2})
        run(results)
        before = server.asked.total()
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["loop-latency", "loop", "--users", "3", "--results", str(results), "--json"])
        assert not end.value.code
        rows = {row["variant"]: row for row in json.loads(capsys.readouterr().out)}
        # Nothing comes from the store: one user to warm up and three that count, two shuffles each.
        assert server.asked.total() - before == 8
    assert rows["llm"]["users"] == rows["plain"]["users"] == 3
    assert rows["llm"]["p50_ms"] >= 100 > rows["plain"]["p50_ms"]
    from analysis.candidates import loop_frame
    from analysis.figures.every import overview
    from analysis.load import load_results
    from analysis.tables import cost_frame

    found_results = load_results(results / "loop")
    frame = cost_frame(found_results).set_index("variant")
    assert frame.loc["llm", "p50_ms"] == rows["llm"]["p50_ms"]
    assert frame.loc["llm", "calls_per_user"] == 2
    assert frame.loc["llm", "usd_per_1000"] > 0
    assert np.isnan(frame.loc["plain", "usd_per_1000"])
    assert set(loop_frame(found_results)["variant"]) == {"plain", "llm"}
    assert "serving-cost" in [name for name, _, _ in overview(found_results)]


def test_a_ranker_is_reproduced_from_its_stored_answers(loop, capsys):
    with answering(lambda prompt: "\n".join(shown(prompt)[::-1])) as server:
        results = loop(server.url)
        run(results)
        before = server.asked.total()
        path = found(results)["llm"]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["reproduce", str(path), "--json"])
        assert not end.value.code
        assert json.loads(capsys.readouterr().out)["status"] == "identical"
        assert server.asked.total() == before
    assert found(results)["plain"].is_dir()
    assert (results / "cache" / "llm").is_dir()
