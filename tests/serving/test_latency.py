"""serve-latency: who is measured, in which order, against what; never how fast."""

from __future__ import annotations

import json

import pytest
import torch

from recbole_kd.benchmark.cli import main
from recbole_kd.serving.latency import System, history_lengths, make_systems, measure
from recbole_kd.serving.student import load_student
from tests.serving.conftest import write_record


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def test_systems_take_turns_on_the_same_requests(make_run):
    plain, distilled = (load_student(make_run("SASRec", distilled=d)) for d in (False, True))
    calls: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def record(name):
        return lambda item_seq, length: calls.append((name, item_seq, length))

    systems = [
        System("g", "a", "torch", True, plain, record("a")),
        System("g", "b", "torch", False, distilled, record("b")),
        System("g", "c", "onnx", True, plain, record("c")),
    ]
    rows = measure(systems, batch=4, rounds=30)
    assert len(calls) % 3 == 0
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 33
    orders = set()
    lengths = set(history_lengths(plain).tolist())
    for turn in rounds:
        assert {name for name, _, _ in turn} == {"a", "b", "c"}
        orders.add("".join(name for name, _, _ in turn))
        assert all(torch.equal(turn[0][1], seq) and torch.equal(turn[0][2], n) for _, seq, n in turn)
        assert turn[0][1].shape == (4, 8)
        assert {min(n, 8) for n in lengths} >= set(turn[0][2].tolist())
    assert len(orders) > 3
    assert not torch.equal(rounds[0][0][1], rounds[1][0][1])
    assert [row.ratio is None for row in rows] == [True, False, True]
    assert rows[1].ratio == pytest.approx(rows[1].p50 / rows[0].p50)
    assert rows[0].parameters == rows[1].parameters
    assert rows[0].flops == rows[1].flops
    for row in rows:
        assert row.p50 <= row.p95 <= row.p99


def test_every_form_answers_alike(make_run):
    trained = load_student(make_run("GRU4Rec"))
    forms = ("torch", "recbole", "torchscript", "torch-export")
    systems = make_systems([(trained, "g", True)], forms)
    given = torch.tensor([[4, 2, 9, 0, 0, 0, 0, 0]]), torch.tensor([3])
    with torch.inference_mode():
        first, *others = (s.score(*given) for s in systems)
    for other in others:
        torch.testing.assert_close(first, other, atol=1e-5, rtol=0)


def test_cli_on_an_experiment_and_on_runs(make_run, place, capsys):
    results = place / "results"
    runs = [make_run(b, distilled=d) for b in ("SASRec", "GRU4Rec") for d in (False, True)]
    folder = write_record(results, runs)
    fast = ("--rounds", 3, "--batch", 1, "--batch", 5, "--forms", "torch,recbole")
    assert call("serve-latency", "trial", "--results", results, *fast, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["rows"]
    assert len(rows) == 2 * 2 * 2 * 2  # batch x backbone x plain/distilled x form
    assert {r["group"] for r in rows} == {"tiny SASRec", "tiny GRU4Rec"}
    for row in rows:
        assert (row["ratio"] is None) == (" plain " in row["name"])
    assert call("serve-latency", folder, *fast) == 0
    assert "1 (reference)" in capsys.readouterr().out
    assert call("serve-latency", runs[0].name, runs[1].name, "--results", results, *fast) == 0
    out = capsys.readouterr().out
    assert "tiny SASRec plain" in out
    assert "tiny SASRec kd" in out
    assert call("serve-latency", runs[0], runs[2], "--results", results, *fast) == 2
    assert "differ in backbone" in capsys.readouterr().err
    assert call("serve-latency", "trial", "--results", results, "--forms", "onyx") == 2
    assert "did you mean 'onnx'" in capsys.readouterr().err
    assert call("serve-latency", "trial", "--results", results, "--variant", "kdd") == 2
    assert "plain, kd" in capsys.readouterr().err
