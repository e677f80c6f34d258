"""The protocol table against manifests written by hand."""

import json
from pathlib import Path

import pytest
from synthetic import latent_ranks, write_experiment

from analysis import wording
from analysis.load import load_results
from analysis.tables import protocol_frame, protocol_lines, protocol_table
from analysis.write import write_outputs

STATED = {
    "split": "temporal",
    "split_parameters": {"quantile": 0.8, "seed": 3},
    "candidates": "all items",
    "seen_items": "kept",
    "loss": "CE",
    "filter": {"min_rating": 4.0, "min_user_inter": 5, "min_item_inter": 0, "iterate": True},
    "users": 1200,
    "items": 340,
    "interactions": 45678,
    "max_item_list_length": 50,
    "ties": "average rank",
    "selected_by": "NDCG@10",
}


def edited(root: Path, **changes: dict[str, str]) -> None:
    """Give every manifest the protocol above; ``changes`` by backbone (lower case)."""
    for path in root.glob("runs/*/manifest.json"):
        manifest = json.loads(path.read_text())
        own = next((v for k, v in changes.items() if f"-{k}-" in path.parent.name), {})
        manifest["protocol"] = STATED | own
        path.write_text(json.dumps(manifest))


def test_every_entry_of_a_protocol_has_a_column(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10), seeds=(0, 1))
    edited(tmp_path)
    (row,) = protocol_frame(load_results(directory)).to_dict("records")
    assert row == {
        "dataset": "toy",
        "of": "all",
        "version": "d",
        "users": 1200,
        "items": 340,
        "interactions": 45678,
        "filter": "rating \u2265 4, user \u2265 5 (iterated)",
        "split": "temporal (quantile 0.8, seed 3)",
        "split_version": "s",
        "max_length": 50,
        "candidates": "all items",
        "reranked": None,
        "seen_items": "kept",
        "ties": "average rank",
        "loss": "CE",
        "selected_by": "NDCG@10",
    }
    masked = protocol_frame(load_results(directory, masked=True))
    assert masked["seen_items"].tolist() == ["removed"]
    (line,) = protocol_lines(load_results(directory))
    assert line.startswith(
        "protocol of toy (version d): 1,200 users, 340 items, 45,678 interactions; filter: "
    )
    write_outputs(directory, figures=False)
    assert "rating \u2265 4, user \u2265 5 (iterated)" in (directory / "table.md").read_text()


def test_methods_under_another_protocol_have_a_row_of_their_own(tmp_path: Path) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10), seeds=(0,), backbones=("SASRec", "GRU4Rec"))
    edited(tmp_path, gru4rec={"loss": "BPR"})
    frame = protocol_frame(load_results(directory))
    assert dict(zip(frame["of"], frame["loss"], strict=True)) == {"SASRec": "CE", "GRU4Rec": "BPR"}
    assert len(protocol_table(load_results(directory)).rows) == 2


def test_nothing_stated_is_a_dash_and_nothing_run_an_empty_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    skip = [("toy", "SASRec", v, 0) for v in ("plain", "kd")]
    directory = write_experiment(tmp_path / "a", latent_ranks(10), seeds=(0,), skip=skip)
    assert protocol_table(load_results(directory)).to_latex()
    directory = write_experiment(tmp_path / "b", latent_ranks(10), seeds=(0,))
    table = protocol_table(load_results(directory))
    assert "\u2013" in [cell.text for cell in table.rows[0]]


@pytest.mark.parametrize(
    ("own", "note"),
    [
        (
            {"pretraining": "train part of toy, 3 epochs"},
            "Pre-training of GRU4Rec plain, GRU4Rec kd: train part of toy, 3 epochs.",
        ),
        ({"kept_epochs": "61 to 80"}, "Selected among epochs 61 to 80: GRU4Rec."),
    ],
)
def test_what_a_method_has_of_its_own_is_said_and_is_no_other_protocol(tmp_path: Path, own, note) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10), seeds=(0,), backbones=("SASRec", "GRU4Rec"))
    edited(tmp_path, gru4rec=own)
    results = load_results(directory)
    assert len(protocol_frame(results)) == 1
    assert not [said for said in results.problems if "protocols" in said]
    assert protocol_table(results).notes == (note,)
    (said,) = own.values()
    assert said not in wording.protocol(results)
    assert protocol_lines(results)[1:] == [note]
