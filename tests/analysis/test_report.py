"""The report: self-contained, everything escaped, usable in a browser at desktop and phone width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import latent_ranks, write_experiment

from analysis.load import load_results
from analysis.report import build_report, write_report
from recbole_kd.errors import StoreError

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & \u4e2d"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    directory = write_experiment(
        root,
        latent_ranks(80, {"kd-llm": 0.5}),
        variants=("plain", "kd-llm", "kd-<b>bold</b>"),
        skip=[("toy", "SASRec", "kd-<b>bold</b>", 2)],
        failures=[{"cell": "toy-sasrec-kd-<b>bold</b>-2", "error": EVIL, "traceback": f"Traceback\n{EVIL}"}],
    )
    users = [
        {
            "dataset": "toy",
            "user": "u00001",
            "history": [EVIL, "Heat (1995)"],
            "profile": EVIL,
            "grounding": 0.5,
            "target": "Fargo",
            "before": ["Titanic"],
            "after": ["Fargo", EVIL],
        },
        {"user": 3, "history": "not a list", "grounding": None},
    ]
    trials = [
        {"number": i, "value": 0.1 + i / 100 if i else None, "params": {"lr": 0.001, "x": EVIL}}
        for i in range(4)
    ]
    (directory / "users.json").write_text(json.dumps(users))
    (directory / "tuning.json").write_text(
        json.dumps([{"name": EVIL, "metric": "NDCG@10", "trials": trials}])
    )
    return write_report(directory)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_nothing_is_loaded_and_text_stays_text(page: Path) -> None:
    parser = Page()
    parser.feed(page.read_text(encoding="utf-8"))
    assert [t for t, _ in parser.tags].count("script") == 1
    for tag, attributes in parser.tags:
        assert not [a for a in attributes if a.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/png;base64,", "#")), (tag, value[:40])
        if tag == "img":
            assert attributes.get("alt")
    assert "".join(parser.text).count(EVIL) >= 6
    anchors = {a["href"][1:] for t, a in parser.tags if t == "a" and a.get("href")}
    assert anchors <= {a["id"] for _, a in parser.tags if a.get("id")}


def test_page_has_every_part(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in (
        "Protocol",
        "leave-one-out",
        "Reservations",
        "Main table",
        "Every test",
        "power",
        "Tuning history",
        "Gains by train history",
        "cost",
        "Users",
        "Top items before",
        "Runs",
        "Traceback",
    ):
        assert part in text, part
    assert "8 of 9 cells finished" in text


def test_same_results_same_bytes(page: Path) -> None:
    assert build_report(load_results(page.parent)) == page.read_text(encoding="utf-8")


def test_unfinished_experiment_has_a_report(tmp_path: Path) -> None:
    every = [("toy", "SASRec", v, s) for v in ("plain", "kd") for s in (0, 1, 2)]
    directory = write_experiment(tmp_path, latent_ranks(5), skip=every)
    assert "0 of 6 cells finished" in write_report(directory).read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["{", "{}", "[1]"])
def test_malformed_extras_are_one_line(tmp_path: Path, content: str) -> None:
    directory = write_experiment(tmp_path, latent_ranks(10), variants=("plain",))
    (directory / "users.json").write_text(content)
    with pytest.raises(StoreError, match=r"users\.json"):
        write_report(directory)
    assert not (directory / "report.html").exists()


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
<script>
const heads = document.querySelector("#table-main thead").rows[0].cells;
const column = Array.from(heads).findIndex((h) => h.textContent.startsWith("NDCG@10"));
const rows = () => Array.from(document.querySelector("#table-main tbody").rows);
const values = () => rows().map((r) => r.cells[column].dataset.sort);
const result = { title: document.title, before: values() };
heads[column].querySelector("button").click();
result.down = values();
heads[column].querySelector("button").click();
result.up = values();
result.aria = heads[column].getAttribute("aria-sort");
result.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
result.width = document.documentElement.clientWidth;
result.broken = Array.from(document.images).filter((i) => !i.complete || !i.naturalWidth).length;
parent.postMessage(JSON.stringify(result), "*");
</script>
"""

FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", (told) => {
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = told.data;
  document.body.append(note);
});
</script><iframe width="%d" height="800" src="%s"></iframe></body>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, tmp_path: Path, width: int) -> None:
    # The probe is a second script, which the page's own policy rightly refuses: drop the policy here.
    source = page.read_text(encoding="utf-8")
    opened, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    assert count == 1
    copy = tmp_path / "page.html"
    copy.write_text(opened.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    # A window is never narrower than 500 pixels; a frame is.
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % (width, copy.name), encoding="utf-8")
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--window-size=1400,900", "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-500:]
    probe = json.loads(found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert probe["title"] == "trial: report"
    assert probe["broken"] == 0
    assert probe["overflow"] <= 0, probe
    assert width - 40 < probe["width"] <= width
    known = [float(v) for v in probe["before"] if v is not None]
    assert [float(v) for v in probe["down"] if v is not None] == sorted(known, reverse=True)
    assert [float(v) for v in probe["up"] if v is not None] == sorted(known)
    assert probe["aria"] == "ascending"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_own_script_passes_the_pages_policy(page: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert '<button type="button">' in dom
    assert "<title>trial: report</title>" in dom
