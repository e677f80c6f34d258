"""The commands as a user types them, on a dataset of atomic files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from profiles.cli import app
from profiles.store import Store
from recbole_kd.errors import LeakageError, StoreError, UserError

from .conftest import GENRES, HISTORIES
from .fault_server import serve

COMMANDS = (
    *("build", "encode", "plan", "show", "stats", "verify", "export", "import", "export-batch"),
    *("import-batch", "corrupt", "audit", "refresh"),
)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user, items in HISTORIES.items():
        lines += [f"{user}\t{item}\t{3 + i % 3}\t{10 * i}" for i, item in enumerate(items)]
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    items += [f"{token}\t{title}\t{year}\t{genres}" for token, (title, year, genres) in GENRES.items()]
    (folder / "tiny.item").write_text("\n".join(items) + "\n")
    spec = {
        "name": "tiny",
        "domain": "movies",
        "source": "path",
        "path": str(folder),
        "fields": {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"},
        "text": {"title": "movie_title", "fields": ["movie_title", "release_year", "class"]},
        "filter": {"min_rating": None, "min_user_inter": 0, "min_item_inter": 0, "iterate": True},
        "split": {"protocol": "leave-one-out", "seed": 1, "quantile": 0.8, "valid_user_share": 0.2},
        "max_item_list_length": 50,
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(spec))
    return str(path)


TFIDF = [
    *("--set", "encoder.kind=tfidf", "--set", "encoder.model=null", "--set", "encoder.pooling=null"),
    *("--set", "encoder.max_tokens=null", "--set", "encoder.dimension=4"),
]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def flat(output: str) -> str:
    return " ".join(output.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    output = run(command, "--help")
    assert f"run_benchmark.py profiles {command}" in flat(re.sub(r"[│╭╮╰╯─]", " ", output))


def test_the_list_of_commands_is_complete() -> None:
    assert sorted(c.name or c.callback.__name__ for c in app.registered_commands) == sorted(COMMANDS)


def test_build_show_stats_verify_export_import(dataset: str, tmp_path: Path) -> None:
    store = tmp_path / "out"
    built = flat(run("build", dataset, "template", "--folder", store, *TFIDF))
    path = Path(re.findall(r"wrote (\S+\.parquet)", built)[0])
    assert path.is_file()
    assert "8 profiles" in built
    shown = flat(run("show", "u7", "--folder", store))
    assert "from 3 interactions" in shown
    assert "They mainly watch drama" in shown
    assert json.loads(run("stats", "--folder", store, "--json"))[0]["users"] == 8
    assert "8 profiles" in run("verify", dataset, "--folder", store)
    run("export", tmp_path / "p.parquet", "--folder", store, "--dataset", "tiny")
    assert "8 new" in run("import", tmp_path / "p.parquet", "--folder", tmp_path / "second")
    encoded = run(
        "encode",
        dataset,
        "template",
        "--folder",
        tmp_path / "second",
        "--out",
        tmp_path / "e.parquet",
        *TFIDF,
    )
    assert "e.parquet" in flat(encoded)
    ours, theirs = pd.read_parquet(path), pd.read_parquet(tmp_path / "e.parquet")
    assert ours["history_hash"].tolist() == theirs["history_hash"].tolist()


def test_verify_finds_a_profile_that_saw_the_validation_item(dataset: str, tmp_path: Path) -> None:
    run("build", dataset, "template", "--folder", tmp_path, *TFIDF)
    from dataclasses import replace

    from recbole_kd.data.history import history_hash

    with Store(tmp_path / "profiles.sqlite") as store:
        sound = store.profiles(user="u3")[0]
        seen = HISTORIES["u3"][:-1]
        store.add_profiles([replace(sound, history_last=len(seen), history_hash=history_hash(seen))])
    with pytest.raises(
        LeakageError, match=r"1 problems.*user 'u3'.*saw 5 interactions, the train part has 4"
    ):
        run("verify", dataset, "--folder", tmp_path)


def test_plan_build_and_budget_with_an_endpoint(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    with serve() as server:
        profile = tmp_path / "mine.yaml"
        profile.write_text(
            "extends: openai\nname: mine\n"
            f"writer: {{api: {{base_url: '{server.url}', key_variable: NO_KEY}}}}\n"
        )
        planned = json.loads(run("plan", dataset, profile, "--folder", tmp_path, "--json"))
        assert (planned["users"], planned["calls"]) == (8, 8)
        assert planned["usd"] == pytest.approx((planned["prompt_tokens"] * 0.15 + 8 * 250 * 0.60) / 1e6)
        assert [row["users"] for row in planned["scaled"]] == [10**6, 10**8, 10**9]
        table = flat(run("plan", dataset, profile, "--folder", tmp_path))
        assert "prices of" in table
        with pytest.raises(StoreError, match="nothing was asked"):
            run("build", dataset, profile, "--folder", tmp_path, "--budget", "0.0001")
        assert not server.attempts
        run(
            "build",
            dataset,
            profile,
            "--folder",
            tmp_path,
            "--budget",
            "1",
            "--quiet",
            *TFIDF,
            "--set",
            "encoder.dimension=2",
        )
        assert sum(server.attempts.values()) == 8
        assert json.loads(run("plan", dataset, profile, "--folder", tmp_path, "--json"))["calls"] == 0


def test_batch_commands_and_study_commands(dataset: str, tmp_path: Path) -> None:
    out = run("export-batch", dataset, "openai", tmp_path / "c.jsonl", "--folder", tmp_path)
    assert "8 calls to answer" in out
    from .test_plan import answers

    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    answers(tmp_path / "a.jsonl", lines[:-1])
    out = flat(run("import-batch", dataset, "openai", tmp_path / "a.jsonl", "--folder", tmp_path))
    assert "7 answers taken, 0 unusable, 1 missing" in out
    assert lines[-1]["custom_id"] in out
    out = flat(
        run(
            "corrupt",
            dataset,
            "template",
            "--kind",
            "attribute-swap",
            "--rate",
            "0",
            "--rate",
            "1",
            "--folder",
            tmp_path,
            *TFIDF,
        )
    )
    assert out.count("wrote ") == 2
    out = flat(
        run(
            "audit", dataset, "template", "--folder", tmp_path, "--out", tmp_path / "audit.parquet", "--quiet"
        )
    )
    assert "movies/template" in out
    assert len(pd.read_parquet(tmp_path / "audit.parquet")) == 8
    out = flat(
        run(
            "refresh",
            dataset,
            "openai",
            "--policy",
            "never",
            "--policy",
            "drift",
            "--policy",
            "every-n",
            "--n",
            2,
            "--folder",
            tmp_path,
            "--out",
            tmp_path / "r.parquet",
        )
    )
    assert "every-n" in out
    events = pd.read_parquet(tmp_path / "r.parquet")
    assert set(events["policy"]) == {"never", "drift", "every-n"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "nowhere", "template"), "nowhere"),
        (("build", "DATA", "tmplate"), "did you mean 'template'"),
        (("build", "DATA", "template", "--set", "encoder.pooling=men"), "encoder.pooling"),
        (("encode", "DATA", "openai"), "8 of 8 users have no text"),
        (("show", "u99"), "no profile of user 'u99'"),
        (("corrupt", "DATA", "template", "--kind", "swap", "--rate", "0.5"), "unknown corruption 'swap'"),
        (("corrupt", "DATA", "template", "--kind", "noise", "--rate", "7"), "corruption: rate"),
        (("import", "DATA"), "not a file of exported profiles"),
    ],
)
def test_mistakes_are_one_line_with_a_mend(
    arguments: tuple, message: str, dataset: str, tmp_path: Path
) -> None:
    given = [dataset if a == "DATA" else a for a in arguments]
    with pytest.raises(UserError) as caught:
        run(*given, "--folder", tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*.parquet"))
