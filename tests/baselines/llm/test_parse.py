"""Answers as language models write them, and the order that they mean."""

import pytest

from recbole_kd.baselines.llm.parse import parse_ranking, plain

FILMS = [
    "Toy Story",
    "Heat",
    "12 Angry Men",
    "Alien",
    "Alien 3",
    "Amélie",
    "Good, the Bad and the Ugly",
    "1984",
]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("1. Heat\n2. Alien\n3. Toy Story", [1, 3, 0]),
        ("1) Heat\n2) alien 3\n3) Alien", [1, 4, 3]),
        ("[1] Heat\n[2] Amelie", [1, 5]),
        ("- **Heat**\n- Toy Story", [1, 0]),
        ("12 Angry Men\n1984\nHeat", [2, 7, 1]),
        ("1. 12 Angry Men\n2. 1984", [2, 7]),
        ("Here is my ranking:\n\n1. Heat (a thriller you will like)\n2. Toy Story - fun", [1, 0]),
        ('["Heat", "Toy Story"]', [1, 0]),
        ('```json\n{"ranking": [{"title": "Alien 3"}, {"title": "Heat"}]}\n```', [4, 1]),
        ("[2, 1, 5]", [1, 0, 4]),
        ("2, 1, 5", [1, 0, 4]),
        ("[2] > [1] > [5]", [1, 0, 4]),
        ("1. 2\n2. 1\n3. 5", [1, 0, 4]),
        ("2\n1\n5", [1, 0, 4]),
        ("Heat, Toy Story, Alien", [1, 0, 3]),
        ("I would go with Alien 3 first, then Heat and perhaps Toy Story.", [4, 1, 0]),
        ("1. Haet\n2. Toy Storry", [0]),  # .75 is too far, .95 is near
        ("1. Heat\n2. Heat\n3. Heat", [1]),
        ("1. Terminator\n2. Heat", [1]),
        ("The Good, the Bad and the Ugly", [6]),
        ("99, 0, 3", [2]),
        ("", []),
        ("I cannot help with that.", []),
        ("[]", []),
    ],
)
def test_orders(text, order):
    assert parse_ranking(text, FILMS, 0.9) == order


def test_a_lower_threshold_reads_worse_spelling_and_one_reads_none():
    assert parse_ranking("1. Haet\n2. Toy Storry", FILMS, 0.7) == [1, 0]
    assert parse_ranking("1. Toy Storry", FILMS, 1.0) == []


def test_items_of_one_title_are_taken_in_the_order_shown():
    assert parse_ranking("Heat\nHeat\nAlien", ["Heat", "Alien", "Heat"], 0.9) == [0, 2, 1]


def test_a_number_is_an_order_number_beside_titles_and_a_candidate_without():
    assert parse_ranking("3. Toy Story\n1. Heat", FILMS, 0.9) == [0, 1]
    assert parse_ranking("3.\n1.", FILMS, 0.9) == [2, 0]


def test_plain_drops_what_models_change():
    assert plain('  "Amélie",  (2001) ') == "amelie 2001"
    assert plain("L.A. Confidential") == plain("l a confidential")
