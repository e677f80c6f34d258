"""Vocabulary of a catalogue (``domains/*.yaml``)."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from profiles.yamlfile import read_yaml
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

FOLDER = Path(__file__).parent / "domains"
DOMAINS: tuple[str, ...] = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


class Aspect(Strict):
    """One of several profiles of a user."""

    name: str
    ask: str


class Example(Strict):
    """Demonstration for the few-shot kind."""

    facts: str
    profile: str


class Domain(Strict):
    """Words for users, items and actions, and which column plays which role."""

    name: str
    hash: str = Field(description="SHA-256 of the file, 8 digits")
    version: int
    person: str
    persons: str
    item: str
    items: str
    catalogue: str
    act: str
    acts: str
    acted: str
    category: str
    categories: str
    of_category: str
    maker: str
    tidy_titles: bool
    roles: dict[str, tuple[str, ...]]
    drop_categories: tuple[str, ...]
    aspects: tuple[Aspect, ...]
    example: Example


def load_domain(name: str) -> Domain:
    """Read ``domains/<name>.yaml``.

    Raises
    ------
    SpecError
        Unknown domain; the message offers the nearest one.
    """
    if name not in DOMAINS:
        near = difflib.get_close_matches(name, DOMAINS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(DOMAINS)},"
        raise SpecError(f"unknown domain '{name}'; {hint} or add profiles/prompts/domains/{name}.yaml")
    path = FOLDER / f"{name}.yaml"
    content = path.read_bytes()
    return read_yaml(path, Domain, {"name": name, "hash": hashlib.sha256(content).hexdigest()[:8]})


def domain_for(fields: Iterable[str]) -> Domain:
    """Guess a domain from the columns of the item file: movies, beauty, games or else generic."""
    have = {field.lower() for field in fields}
    if have & {"movie_title"} or (
        {"genres", "release_year"} <= have and not have & {"developer", "publisher"}
    ):
        return load_domain("movies")
    if have & {"developer", "publisher", "app_name"}:
        return load_domain("games")
    return load_domain("beauty" if {"brand", "categories"} <= have else "generic")
