import pytest

from recbole_kd.benchmark.marked_yaml import merge, parse_marked, plain
from recbole_kd.errors import SpecError


def test_lines_of_keys_at_every_depth():
    data = parse_marked("a: 1\nb:\n  c: 2\n  d:\n    - e: 3\n", "x.yaml")
    assert str(data.where("b")) == "x.yaml:2"
    assert str(data["b"].where("d")) == "x.yaml:4"
    assert str(data["b"]["d"][0].where("e")) == "x.yaml:5"


def test_numbers_in_exponent_form_are_numbers():
    data = parse_marked("a: 1e-3\nb: 1.0e-3\nc: -2E+5\nd: e5\ne: 12\nf: .5e1", "x.yaml")
    assert plain(data) == {"a": 0.001, "b": 0.001, "c": -200000.0, "d": "e5", "e": 12, "f": 5.0}


def test_key_given_twice_names_both_lines():
    with pytest.raises(SpecError, match=r"x\.yaml:3: key 'a' is given twice \(first at line 1\)"):
        parse_marked("a: 1\nb: 2\na: 3\n", "x.yaml")


@pytest.mark.parametrize("text", ["a: [1,\nb: 2", "a: b: c", "\t- x"])
def test_malformed_names_the_line(text):
    with pytest.raises(SpecError, match=r"x\.yaml:\d+: not valid YAML"):
        parse_marked(text, "x.yaml")


def test_python_objects_are_refused():
    with pytest.raises(SpecError, match=r"x\.yaml:1"):
        parse_marked("a: !!python/object/apply:os.system ['true']", "x.yaml")


def test_merge_is_deep_and_keeps_the_winner_s_line():
    low = parse_marked("a: {x: 1, y: 2}\nb: 1", "low.yaml")
    high = parse_marked("\n\na:\n  y: 3\n", "high.yaml")
    both = merge(low, high)
    assert plain(both) == {"a": {"x": 1, "y": 3}, "b": 1}
    assert str(both["a"].where("y")) == "high.yaml:4"
    assert str(both["a"].where("x")) == "low.yaml:1"
    assert plain(low) == {"a": {"x": 1, "y": 2}, "b": 1}
