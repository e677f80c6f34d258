from __future__ import annotations

import json

from recbole_kd.data.report import split_report, split_report_lines
from recbole_kd.data.split import make_split


def test_the_box_names_every_short_user_and_the_filter(tiny, tiny_spec):
    lengths = [1, 2, 2, 3, 5, 6]
    rows = [(f"u{u}", f"i{k}", 3.0, 10.0 * k + u) for u, n in enumerate(lengths) for k in range(n)]
    spec = tiny_spec(filter={"min_rating": 2.0})
    report = split_report(
        make_split(tiny([*rows, ("u5", "bad", 1.0, 0.0)], filter={"min_rating": 2.0}), spec.split), spec
    )
    assert json.loads(json.dumps(report)) == report
    assert (report["users"], report["items"], report["interactions"]) == (6, 6, 19)
    box = "\n".join(split_report_lines(report))
    assert "users with 1: 1, users with 2: 2, users with 3: 1" in box
    assert "rating >= 2" in box
    assert "dropped 1 by rating" in box
    assert "valid 2 users; test 3 users" in box


def test_no_short_users_no_line(ml_100k):
    spec, split = ml_100k
    lines = split_report_lines(split_report(split, spec))
    assert not any(line.startswith("short users") for line in lines)
    assert lines[0].startswith("ml-100k: 943 users, 1,682 items, 100,000 interactions, 106.0 per user")
