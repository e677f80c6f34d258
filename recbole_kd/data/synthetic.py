"""Users with a hidden trait: the positive control, a dataset on which distillation must find something.

Every user has one trait, every item belongs to one. An interaction is with an item of the user's own trait
with probability ``own_share``, else with any item. The words of an item name its trait; its id does not. So a
profile that is written from the train history and the words of its items shows the trait, while somebody who
sees ids only must find out from a few co-occurrences which items belong together.

How hard that is can be said. Users and items form a bipartite block model: a user has ``d_u`` train items,
an item ``d_i`` users, and a step from one to the other keeps the trait with probability about ``own_share``.
With ids alone, efficient methods can find the blocks only if ``d_u * d_i * own_share ** 4`` exceeds 1
(the threshold of Kesten and Stigum; for block models Decelle et al., Phys. Rev. E 84, 066106, 2011, where it
is a conjecture for many blocks). Just above it there is something to find, but gradient descent on the next
item hardly does; labelled users, which is what profiles are, make it an ordinary estimation.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from recbole_kd.errors import DataError
from recbole_kd.strict import Strict, digest

# Raised when the same parameters would give other files.
FORMAT = 1

THEMES = (
    "sailing", "chess", "gardening", "astronomy", "pottery", "boxing", "baking", "jazz",
    "camping", "knitting", "robotics", "horses", "archery", "poetry", "surfing", "history",
    "carpentry", "ballet", "fishing", "geology", "opera", "cycling", "cheese", "photography",
    "magic", "aviation", "beekeeping", "skiing", "law", "perfume", "trains", "yoga",
    "dinosaurs", "finance", "tattoos", "opals", "wrestling", "insects", "calligraphy", "volcanoes",
    "submarines", "wine", "puppets", "golf", "folklore", "medicine", "drums", "deserts",
)  # fmt: skip
"""A trait's name, as it stands in the words of its items."""

_DAY = 86400
_START = 1_600_000_000


class SyntheticSpec(Strict):
    """Parameters of the generator (``synthetic`` in a dataset YAML)."""

    users: int = Field(ge=3)
    traits: int = Field(ge=2, le=len(THEMES))
    items_per_trait: int = Field(ge=2)
    shortest: int = Field(ge=4, description="interactions of a user, validation and test included")
    longest: int = Field(ge=4)
    own_share: float = Field(ge=0, le=1, description="probability that an interaction follows the trait")
    seed: int

    @model_validator(mode="after")
    def _fits(self) -> SyntheticSpec:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} exceeds longest {self.longest}")
        if self.longest > (self.items_per_trait if self.own_share == 1 else self.n_items // 2):
            raise ValueError(f"longest {self.longest} is too long for so few items; nobody repeats an item")
        return self

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.traits * self.items_per_trait

    @property
    def signal(self) -> float:
        """d_u * d_i * own_share ** 4 of a leave-one-out split; below 1 ids alone do not tell."""
        length = (self.shortest + self.longest) / 2 - 2
        return length * (self.users * length / self.n_items) * self.own_share**4


def generate(spec: SyntheticSpec) -> tuple[list[list[int]], list[int]]:
    """Draw the histories.

    Returns
    -------
    histories : list of list of int
        Items (from 0) of every user in time order, none twice; item i belongs to trait
        ``i // items_per_trait``.
    traits : list of int
        Of every user.
    """
    rng = np.random.default_rng(spec.seed)
    traits = rng.permutation(np.arange(spec.users) % spec.traits)
    histories = []
    for trait in traits.tolist():
        length = int(rng.integers(spec.shortest, spec.longest + 1))
        history: list[int] = []
        own = 0
        while len(history) < length:
            # Whoever has seen everything of their trait looks elsewhere.
            follows = rng.random() < spec.own_share and own < spec.items_per_trait
            low = trait * spec.items_per_trait if follows else 0
            item = int(rng.integers(low, low + spec.items_per_trait if follows else spec.n_items))
            if item not in history:
                history.append(item)
                own += item // spec.items_per_trait == trait
        histories.append(history)
    return histories, traits.tolist()


def atomic_files(name: str, spec: SyntheticSpec) -> dict[str, str]:
    """File name -> content: ``.inter``, ``.item`` (title, category), ``.user`` (trait; nobody reads it)."""
    histories, traits = generate(spec)
    clock = np.random.default_rng([spec.seed, 1])
    starts = clock.integers(0, 365, size=spec.users).tolist()
    inter = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, history in enumerate(histories):
        inter += [
            f"u{user}\ti{item}\t{_START + (starts[user] + day) * _DAY + user}"
            for day, item in enumerate(history)
        ]
    words = ["item_id:token\ttitle:token_seq\tcategory:token_seq"]
    for item in range(spec.n_items):
        theme = THEMES[item // spec.items_per_trait]
        words.append(f"i{item}\t{theme} number {item % spec.items_per_trait + 1}\t{theme}")
    people = ["user_id:token\ttrait:token"] + [f"u{u}\t{THEMES[trait]}" for u, trait in enumerate(traits)]
    parts = {"inter": inter, "item": words, "user": people}
    return {f"{name}.{kind}": "\n".join(lines) + "\n" for kind, lines in parts.items()}


def materialise(name: str, spec: SyntheticSpec, root: Path) -> Path:
    """Folder of the atomic files below ``root``; written, whole or not at all, where it is missing.

    Raises
    ------
    DataError
        The folder cannot be written.
    """
    folder = root / "synthetic" / f"{name}-{digest([FORMAT, name, spec.canonical()], 8)}"
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        temporary.mkdir(parents=True)
        for file, content in atomic_files(name, spec).items():
            (temporary / file).write_text(content, encoding="utf-8")
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}); set RECBOLE_KD_DATA to a folder that can"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


__all__ = ["THEMES", "SyntheticSpec", "atomic_files", "generate", "materialise"]
