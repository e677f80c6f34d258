"""What an experiment says about candidates, and what a file of ``properties/ranker`` says about a ranker."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from recbole_kd.strict import Strict


class RetrieverSpec(Strict):
    """The cell of the sweep whose best items are the candidates; its seed is that of the ranker's cell."""

    backbone: str
    variant: str


class CandidatesSpec(Strict):
    """The one candidate protocol of an experiment (``candidates:``; ``retriever: null`` = none)."""

    retriever: RetrieverSpec | None
    top: int = Field(ge=2, description="N: candidates of every user")
    max_users: int | None = Field(ge=1, description="seeded sample of the evaluated users; null = all")
    seed: int = Field(ge=0, description="who is sampled; 50 users are among the 100 of the same seed")
    exclude_seen: bool = Field(description="whether items of the user's history are no candidates")
    oracle_candidates: bool = Field(
        description="the target takes the last place where it was missed; stated beside every number"
    )
    parts: list[Literal["valid", "test"]] = Field(min_length=1, description="what rankers are asked for")

    @field_validator("parts")
    @classmethod
    def _test_is_reported(cls, value: list[str]) -> list[str]:
        if "test" not in value:
            raise ValueError("must name 'test', the part that is reported")
        return [part for part in ("valid", "test") if part in value]

    def sets(self) -> dict[str, Any]:
        """What decides the candidate sets, beside the retriever."""
        return self.model_dump(
            mode="json", include={"top", "max_users", "seed", "exclude_seen", "oracle_candidates"}
        )


class RankerFile(Strict):
    """``properties/ranker/<name>.yaml``: the one place of a ranker's defaults."""

    ranker: str = Field(description="a name of recbole_kd.baselines.llm.RANKERS")
    llm: dict[str, Any] | None = Field(
        description="'profile': a file of properties/profile, whose writer is the model; other keys are laid "
        "over that writer (model, decoding, batch_size, ...); null: the ranker brings its own"
    )
    params: dict[str, Any]


class RankerSpec(Strict):
    """A ranker as a cell sees it: registry name, parameters, canonical WriterSpec of its model."""

    name: str
    params: dict[str, Any]
    llm: dict[str, Any] | None
