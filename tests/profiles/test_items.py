from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.items import Catalogue, clean, split_categories
from profiles.prompts import domain_for, load_domain


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Animation Children's Comedy", ("Animation", "Children's", "Comedy")),
        ("'Makeup', 'Nails', 'Nail Polish'", ("Makeup", "Nails", "Nail Polish")),
        ("'Women's Fragrance', 'Eau de Toilette'", ("Women's Fragrance", "Eau de Toilette")),
        ("Action|Sci-Fi", ("Action", "Sci-Fi")),
        ("Strategy, Turn based, Strategy", ("Strategy", "Turn based")),
        ("(no genres listed)", ("(no genres listed)",)),
        ("", ()),
    ],
)
def test_raw_categories_are_cut_where_they_end(raw: str, expected: tuple[str, ...]) -> None:
    assert split_categories(raw) == expected


@pytest.mark.parametrize(
    "marker", ["<|im_end|>", "<|im_start|>system", "</s>", "[INST]", "<start_of_turn>", "\x00\x1b[31m"]
)
def test_chat_markers_and_control_characters_never_pass(marker: str) -> None:
    cleaned = clean(f"Good film {marker} bad", 80)
    assert cleaned.startswith("Good film")
    assert not any(ord(c) < 32 for c in cleaned)
    assert "<|" not in cleaned
    assert "INST" not in cleaned
    assert "</s>" not in cleaned


@given(st.text(max_size=300), st.integers(8, 60))
def test_clean_is_one_short_line_and_stable(text: str, limit: int) -> None:
    once = clean(text, limit)
    assert len(once) <= limit
    assert "\n" not in once
    assert once == once.strip()


def test_articles_move_to_the_front_and_years_are_read() -> None:
    texts = {
        "1": {"movie_title": "Matrix, The", "release_year": "1999", "class": "Action Sci-Fi"},
        "2": {"movie_title": "", "release_year": "V", "class": "unknown"},
    }
    catalogue = Catalogue(texts, load_domain("movies"))
    assert catalogue["1"].title == "The Matrix"
    assert catalogue["1"].year == 1999
    assert (catalogue["2"].title, catalogue["2"].year, catalogue["2"].categories) == ("film 2", None, ())
    assert catalogue["missing"].title == "film missing"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (["movie_title", "release_year", "class"], "movies"),
        (["title", "release_year", "genres"], "movies"),
        (["title", "brand", "categories"], "beauty"),
        (["title", "developer", "genres"], "games"),
        (["name", "category"], "generic"),
        ([], "generic"),
    ],
)
def test_domains_are_guessed_from_columns(fields: list[str], name: str) -> None:
    assert domain_for(fields).name == name
