"""Parameters of a ranker as a strict model, and what they let it know of a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from recbole_kd.baselines.llm.base import Context
from recbole_kd.baselines.llm.candidates import CandidateSets
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

PROFILE = ("none", "beside", "instead")


class Params(Strict):
    """Base of the parameters of one ranker; no field has a default (they stand in ``properties/ranker``)."""


P = TypeVar("P", bound=Params)


def read_params(model: type[P], params: Mapping[str, Any]) -> P:
    """Validate the parameters of a ranker.

    Raises
    ------
    SpecError
        One line that names the parameter.
    """
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise SpecError(f"params.{name} = {first.get('input')!r}: {first['msg']}") from error


def check_profile(value: str) -> None:
    """Refuse another value of ``params.profile`` than those of ``PROFILE``.

    Raises
    ------
    SpecError
    """
    if value not in PROFILE:
        raise SpecError(f"params.profile: '{value}' is unknown; use one of {', '.join(PROFILE)}")


def known_of(
    context: Context, sets: CandidateSets, row: int, history: int, profile: str
) -> tuple[list[str], str | None]:
    """Titles of a user's last ``history`` items, oldest first, and the stored profile.

    Parameters
    ----------
    profile : str
        ``none``; ``beside`` the history; ``instead`` of it (a user without a profile keeps the history).
    """
    text = None if profile == "none" else context.profiles.get(int(sets.users[row]))
    if text is not None and profile == "instead":
        return [], text
    return [context.titles[item] for item in sets.eval_set.history.row(row)[-history:]], text
