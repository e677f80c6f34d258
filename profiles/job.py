"""A dataset, its split and a profile spec, brought together for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from profiles.history import UserHistory
from profiles.progress import Progress
from profiles.spec import TeacherSpec, load_teacher_spec
from profiles.store import Store
from profiles.write import Author, Price
from profiles.yamlfile import merge
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError, StoreError

STORE = "profiles.sqlite"


@dataclass(frozen=True)
class ProfileJob:
    """What most commands work on.

    Attributes
    ----------
    dataset : str
        Name of a dataset YAML, or a path.
    spec : TeacherSpec
    folder : Path
        Holds the store and the embedding files.
    """

    dataset: str
    spec: TeacherSpec
    folder: Path

    @classmethod
    def of(cls, dataset: str, profile: str, folder: Path, changes: Sequence[str] = ()) -> ProfileJob:
        """Read the specs; ``changes`` are ``key.path=value`` as on the command line."""
        return cls(dataset, load_teacher_spec(profile, parse_changes(changes)), folder)

    @cached_property
    def dataset_spec(self) -> Any:
        """Spec of the dataset.

        Raises
        ------
        SpecError
            A bad file, or a domain that no prompt knows.
        """
        from profiles.prompts import load_domain
        from recbole_kd.data.spec import read_dataset_spec

        spec = read_dataset_spec(self.dataset)
        try:
            load_domain(spec.domain)
        except SpecError as error:
            raise SpecError(f"dataset '{self.dataset}': domain: {error}") from error
        return spec

    @cached_property
    def split(self) -> Split:
        """Split of the dataset."""
        from recbole_kd.data.load import load_dataset
        from recbole_kd.data.split import make_split

        return make_split(load_dataset(self.dataset_spec), self.dataset_spec.split)

    @cached_property
    def texts(self) -> dict[str, dict[str, str]]:
        """Item texts."""
        from recbole_kd.data.load import load_item_texts

        return load_item_texts(self.dataset_spec)

    @property
    def domain(self) -> str:
        """Domain of the prompts."""
        return str(self.spec.writer.domain or self.dataset_spec.domain)

    @cached_property
    def histories(self) -> list[UserHistory]:
        """What each profile may see."""
        from profiles.build import histories_of

        return histories_of(self.spec, self.split, self.texts, self.domain)

    @cached_property
    def author(self) -> Author:
        """Prompt, statistics and back-end."""
        from profiles.build import make_author

        return make_author(self.spec, self.split, self.texts, self.domain, self.histories)

    def remark(self) -> str | None:
        """What to mend before texts are written: item texts without categories."""
        from profiles.items import without_categories
        from profiles.prompts import load_domain

        spec = self.dataset_spec
        if spec.text is None:
            return None
        file = spec.folder() / f"{spec.name}.item"
        return without_categories(file, spec.text.fields, load_domain(self.domain))

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store, with the shipped profiles of this writer in it."""
        from profiles.transfer import import_shipped

        with Store(self.folder / STORE) as store:
            import_shipped(store, self.split.dataset.name, self.author.writer)
            yield store


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Turn ``writer.batch_size=8`` and the like into nested overrides.

    Raises
    ------
    SpecError
        No ``=``, or the value is not YAML.
    """
    result: dict[str, Any] = {}
    for change in changes:
        path, sign, value = change.partition("=")
        if not sign or not path:
            raise SpecError(f"--set '{change}': expected key=value, e.g. writer.batch_size=8")
        try:
            nested: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"--set '{change}': the value is not YAML") from error
        for key in reversed(path.split(".")):
            nested = {key: nested}
        result = merge(result, nested)
    return result


class Budget:
    """Stops a job before it passes a sum.

    Parameters
    ----------
    limit : float or None
        US dollars.
    price : callable
        ``price(prompt_tokens, completion_tokens)``; give ``Budget.price`` to the job instead.
    progress : callable, optional
        Called after the check.
    """

    def __init__(self, limit: float | None, price: Price, progress: Progress | None = None) -> None:
        self._limit = limit
        self._price = price
        self._progress = progress
        self.spent = 0.0

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price a call and add it up."""
        cost = self._price(prompt_tokens, completion_tokens)
        self.spent += cost or 0.0
        return cost

    def __call__(self, done: int, total: int) -> None:
        if self._limit is not None and self.spent >= self._limit and done < total:
            raise StoreError(
                f"budget of {self._limit:.2f} USD is spent after {done} of {total} users; what was written "
                "is stored, raise --budget and run the same command to go on"
            )
        if self._progress:
            self._progress(done, total)


def refuse_over_budget(estimate: float | None, limit: float | None, free: bool) -> None:
    """Refuse a job that may cost more than ``limit`` US dollars.

    Raises
    ------
    StoreError
        The estimate is higher, or there is no price to estimate with.
    """
    if limit is None or free:
        return
    if estimate is None:
        raise StoreError(
            "--budget: this model has no price; add it to a price table and give it with --prices"
        )
    if estimate > limit:
        raise StoreError(
            f"--budget {limit:.2f}: this job may cost {estimate:.2f} USD; nothing was asked. Raise the "
            "budget, or write fewer users (--users) or shorter histories (--set writer.history.max_items=20)"
        )
