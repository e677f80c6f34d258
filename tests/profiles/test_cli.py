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
from recbole_kd.errors import LeakageError, SpecError, StoreError, UserError

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


def test_texts_without_categories_are_named_before_anything_is_written(dataset: str, tmp_path: Path) -> None:
    assert "note:" not in run("plan", dataset, "template", "--folder", tmp_path / "out")
    spec = yaml.safe_load(Path(dataset).read_text())
    spec["text"]["fields"] = ["movie_title", "release_year"]
    Path(dataset).write_text(yaml.safe_dump(spec))
    wanted = "tiny.item: none of the text fields movie_title, release_year is known as the categories"
    assert wanted in flat(run("plan", dataset, "template", "--folder", tmp_path / "out"))
    (said,) = json.loads(run("plan", dataset, "template", "--folder", tmp_path / "out", "--json"))["remarks"]
    assert wanted in said
    assert "genres or genre or class" in said
    built = flat(run("build", dataset, "template", "--folder", tmp_path / "out", *TFIDF))
    assert wanted in built.partition("profiles:")[0]


@pytest.mark.parametrize("kind", ["attribute-swap", "invented-claims", "contradiction"])
def test_damage_about_categories_is_refused_before_anything_is_written(
    kind: str, dataset: str, tmp_path: Path
) -> None:
    spec = yaml.safe_load(Path(dataset).read_text())
    spec["text"]["fields"] = ["movie_title"]
    Path(dataset).write_text(yaml.safe_dump(spec))
    out, dose = tmp_path / "out", ("--rate", 0, "--rate", 0.5, "--folder", tmp_path / "out")
    with pytest.raises(SpecError, match=f"dataset tiny: corruption {kind} .* add a column genres or"):
        run("corrupt", dataset, "template", "--kind", kind, *dose, *TFIDF)
    assert not out.exists()
    run("corrupt", dataset, "template", "--kind", "truncation", *dose, *TFIDF)


def test_build_show_stats_verify_export_import(dataset: str, tmp_path: Path) -> None:
    store = tmp_path / "out"
    built = flat(run("build", dataset, "template", "--folder", store, *TFIDF))
    path = Path(re.findall(r"wrote (\S+\.parquet)", built)[0])
    assert path.is_file()
    assert "8 profiles" in built
    shown = flat(run("show", "u7", "--folder", store))
    assert "from 3 interactions" in shown
    assert "They mainly watch drama" in shown
    with pytest.raises(StoreError, match="no profile of user 'u99'"):
        run("show", "u99", "--folder", store)
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


def test_an_unknown_domain_of_the_dataset_is_named(dataset: str, tmp_path: Path) -> None:
    path = Path(dataset)
    path.write_text(path.read_text().replace("domain: movies", "domain: movie"))
    with pytest.raises(SpecError, match=r"tiny\.yaml': domain: unknown domain 'movie'; did you mean 'movies"):
        run("build", dataset, "template", "--folder", tmp_path / "out", *TFIDF)
    assert not (tmp_path / "out").exists()


def test_every_command_ends_by_saying_where_its_output_went(dataset: str, tmp_path: Path) -> None:
    folder, texts = tmp_path / "out", tmp_path / "p.parquet"
    calls, replies = tmp_path / "c.jsonl", tmp_path / "a.jsonl"
    store = folder / "profiles.sqlite"
    read_only = f"read {store}; no output file"
    dose = ("--kind", "truncation", "--rate", "0.5")

    def last(command: str, *arguments: object) -> str:
        ran.append(command)
        return run(command, *arguments, "--folder", folder).strip().splitlines()[-1]

    ran: list[str] = []
    assert re.fullmatch(rf"wrote {folder}/template-\w+\.parquet", last("build", dataset, "template", *TFIDF))
    assert last("encode", dataset, "template", "--out", texts, *TFIDF) == f"wrote {texts}"
    assert last("plan", dataset, "template") == read_only
    assert last("show", "u7") == read_only
    assert last("stats") == read_only
    assert last("verify", dataset) == read_only
    assert last("export", texts) == f"wrote {texts}"
    assert last("import", texts) == f"wrote {store}"
    assert last("export-batch", dataset, "openai", calls) == f"wrote {calls}"
    from .test_plan import answers

    answers(replies, [json.loads(line) for line in calls.read_text().splitlines()])
    assert last("import-batch", dataset, "openai", replies) == f"wrote {store}"
    assert re.fullmatch(
        rf"wrote {folder}/template-truncation-\w+\.parquet",
        last("corrupt", dataset, "template", *dose, *TFIDF),
    )
    assert last("corrupt", dataset, "template", *dose, "--score-only", "--users", 3) == f"wrote {store}"
    assert last("audit", dataset, "template", "--out", texts) == f"wrote {texts}"
    assert last("refresh", dataset, "template", "--policy", "never", "--out", texts) == f"wrote {texts}"
    assert set(ran) == set(COMMANDS)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def drawn(*arguments: object) -> str:
    """What a command draws on stderr, without colours."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", result.stderr)


@pytest.mark.usefixtures("terminal")
def test_long_loops_have_a_bar_with_time_left(dataset: str, tmp_path: Path) -> None:
    folder, texts = ("--folder", tmp_path), tmp_path / "p.parquet"
    dose = ("--kind", "boilerplate", "--rate", "0.5")
    calls, replies = tmp_path / "c.jsonl", tmp_path / "a.jsonl"
    expected: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
        (
            ("corrupt", dataset, "template", *dose, *TFIDF),
            ("profiles template", "rate 0.5: texts damaged", "rate 0.5: audited", "rate 0.5: encoded"),
        ),
        (
            ("audit", dataset, "template", "--out", tmp_path / "scores.parquet"),
            ("prompts made", "profiles template", "profiles template audited"),
        ),
        (("encode", dataset, "template", *TFIDF), ("texts encoded",)),
        (("verify", dataset), ("profiles read", "histories checked")),
        (("export", texts), ("profiles read", "profiles written")),
        (("import", texts), ("profiles read", "rows stored")),
        (("export-batch", dataset, "openai", calls), ("prompts made", "calls written")),
        (
            ("import-batch", dataset, "openai", replies),
            ("prompts made", "lines read", "answers taken", "profiles completed"),
        ),
    ]
    from .test_plan import answers

    for arguments, titles in expected:
        if arguments[0] == "import-batch":
            answers(replies, [json.loads(line) for line in calls.read_text().splitlines()])
        shown = drawn(*arguments, *folder)
        for title in titles:
            # A finished loop: all of its units, time taken, time left.
            assert re.search(rf"{title} +\S+ (8/8|16/16) +0:\d\d:\d\d left 0:00:00", shown), (title, shown)
        if arguments[0] != "import-batch":  # its answers are taken once
            assert drawn(*arguments, *folder, "--quiet") == ""


def test_no_bar_where_stderr_is_no_terminal(dataset: str, tmp_path: Path) -> None:
    assert drawn("audit", dataset, "template", "--folder", tmp_path) == ""


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
        (("show", "u99"), "no such store"),
        (("corrupt", "DATA", "template", "--kind", "swap", "--rate", "0.5"), "unknown corruption 'swap'"),
        (("corrupt", "DATA", "template", "--kind", "noise", "--rate", "7"), "corruption: rate"),
        (("import", "DATA"), "not a file of exported profiles"),
        (("corrupt", "DATA", "template", "--kind", "truncation", "--rate", "1", "--users", "3"), "--users"),
        (("corrupt", "DATA", "template", "--kind", "noise", "--rate", "1", "--score-only"), "--score-only"),
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


@pytest.mark.parametrize("command", ["show u7", "stats", "export OUT", "verify DATASET"])
def test_a_command_that_only_reads_makes_no_store(command: str, dataset: str, tmp_path: Path) -> None:
    words = {"OUT": str(tmp_path / "p.parquet"), "DATASET": dataset}
    folder = tmp_path / "misspelt"
    with pytest.raises(StoreError, match="no such store; name its folder"):
        run(*(words.get(word, word) for word in command.split()), "--folder", folder)
    assert not folder.exists()
