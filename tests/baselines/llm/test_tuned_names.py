"""A checkpoint belongs to one model: names of what tuned re-rankers go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

from profiles.spec import load_teacher_spec
from recbole_kd.baselines.llm.base import Context
from recbole_kd.baselines.llm.tuned import rankers
from recbole_kd.baselines.llm.tuned.rankers import TallRecRanker
from tests.tiny_lm import TITLES, byte_tokenizer, params_of, tiny_answers, tiny_llama, toy_split


class Asked(Exception):
    """Training would begin."""


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where a model's checkpoint would lie, equal in all but the model."""

    def tune(task: Any, spec: Any, *, file: Path, fingerprint: str, **more: Any) -> None:
        assert fingerprint in file.name
        raise Asked(file.name)

    monkeypatch.setattr(rankers, "tune", tune)

    def of(model: str, revision: str | None = None) -> str:
        llm = load_teacher_spec("smollm2", {"writer": {"model": model, "revision": revision}}).writer
        context = Context(
            split=toy_split(), titles=TITLES, domain="movies", llm=llm, profiles={}, seed=1, device="cpu",
            max_len=10, store=tmp_path / "calls.sqlite", sets=lambda part: None, retrieve=lambda part: None,
            progress=lambda done, total: None,
        )  # fmt: skip
        ranker = TallRecRanker(params_of("ranker", "tallrec", shots=8, valid_users=6), context)
        ranker.__dict__["lm"] = tiny_answers(True)  # nothing of a hub is loaded
        with pytest.raises(Asked) as name:
            ranker.fit()
        return str(name.value)

    return of


def test_two_models_of_the_hub_have_two_checkpoints(checkpoint: Any) -> None:
    first = checkpoint("nobody/small")
    assert checkpoint("nobody/small") == first
    # The last one is called alike, but by somebody else.
    assert len({first, checkpoint("nobody/large"), checkpoint("somebody/small")}) == 3
    assert checkpoint("nobody/small", "0123456789abcdef") != first


def test_exchanged_weights_have_a_checkpoint_of_their_own(checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    byte_tokenizer().save_pretrained(folder)
    found = []
    for seed in (0, 1, 0):
        tiny_llama(seed).save_pretrained(folder)
        found.append(checkpoint(str(folder)))
    assert found[0] == found[2] != found[1]
