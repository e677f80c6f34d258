"""Texts and vectors are found by everything that decides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from profiles.build import teacher_digest
from profiles.content import content_of, decoding_digest, digest_of_weights, weights_of
from profiles.spec import TeacherSpec, load_teacher_mapping
from profiles.write import Author
from profiles.yamlfile import merge
from recbole_kd.baselines.llm.asking import writer_of
from recbole_kd.data.types import Split
from recbole_kd.errors import SpecError
from tests.profiles.fakes import EchoBackend

ENDPOINT = {
    "base_url": None,
    "key_variable": "KEY",
    "concurrency": 4,
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "timeout": 9.0,
    "attempts": 2,
}
THINKS = {"chat_template_kwargs": {"enable_thinking": True}}


def asked(backend: str, **changes: Any) -> TeacherSpec:
    writer = {"backend": backend, "model": "m", "prompt": "plain"}
    base = merge(load_teacher_mapping("smollm2"), {"writer": writer})
    if backend == "openai":
        plain = {"repetition_penalty": 1.0, "no_repeat_ngram": 0}
        base = merge(base, {"writer": {"api": ENDPOINT, "decoding": plain}})
    return TeacherSpec.model_validate(merge(base, {"writer": changes}))


CASES = [
    ("openai", {"api": {"extra_body": THINKS}}, True),
    ("openai", {"api": {"extra_body": {}}}, False),
    ("openai", {"api": {"concurrency": 9}}, False),
    ("openai", {"batch_size": 3}, False),
    ("openai", {"decoding": {"temperature": 0.7}, "batch_size": 3}, False),
    ("local", {"batch_size": 3}, False),
    ("local", {"decoding": {"temperature": 0.7}, "batch_size": 3}, True),
]


@pytest.mark.parametrize(("backend", "change", "decides"), CASES)
def test_what_an_answer_depends_on_is_in_every_key(
    backend: str, change: dict, decides: bool, split: Split, texts: dict
) -> None:
    calm = {"decoding": change["decoding"]} if "decoding" in change else {}
    one, other = asked(backend, **calm), asked(backend, **change)
    differs = teacher_digest(one, split, texts) != teacher_digest(other, split, texts)
    assert differs == decides
    assert (content_of(one.canonical()["writer"]) != content_of(other.canonical()["writer"])) == decides
    stored = [Author(s.writer, texts, [], backend=EchoBackend(s.writer)).writer for s in (one, other)]
    assert (stored[0] != stored[1]) == decides
    ranked = [writer_of(EchoBackend(s.writer), s.writer, "p") for s in (one, other)]
    assert (ranked[0] != ranked[1]) == decides


def test_a_tokenizer_decides_where_it_cuts_histories(split: Split, texts: dict) -> None:
    """The store needs no such key: what the tokenizer decided stands in the message."""
    for most, decides in ((None, False), (512, True)):
        one = asked("openai", history={"max_tokens": most})
        other = asked("openai", history={"max_tokens": most}, api={"tokenizer": "folder"})
        assert (teacher_digest(one, split, texts) != teacher_digest(other, split, texts)) == decides
        assert decoding_digest(one.writer) == decoding_digest(other.writer)


def test_weights_of_a_folder_are_part_of_the_address(
    split: Split, texts: dict, template: dict, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"old")
    encoder = {"kind": "transformers", "model": str(tmp_path), "pooling": "mean", "max_tokens": 8}
    spec = TeacherSpec.model_validate(merge(template, {"encoder": encoder}))
    before, known = teacher_digest(spec, split, texts), weights_of(spec.canonical())
    assert list(known) == ["encoder weights"]
    (tmp_path / "model.safetensors").write_bytes(b"tuned")
    assert teacher_digest(spec, split, texts) != before
    assert weights_of(spec.canonical()) != known
    local = asked("local", model=str(tmp_path), revision=None).canonical()
    assert "writer weights" in weights_of(local)
    # An endpoint's model and a package's file are what their names say.
    assert weights_of({"writer": asked("openai", model=str(tmp_path)).canonical()["writer"]}) == {}
    assert weights_of({"writer": asked("local", model="package:nobody/x.gguf").canonical()["writer"]}) == {}
    # A stated revision names them, here or not.
    stated = asked("local", model=str(tmp_path / "gone"), revision="abcd").canonical()["writer"]
    assert weights_of({"writer": stated}) == {}
    with pytest.raises(SpecError, match="no such file or folder"):
        weights_of({"encoder": spec.canonical()["encoder"] | {"model": str(tmp_path / "gone")}})


def test_every_part_of_a_folder_counts(tmp_path: Path) -> None:
    for name in ("model.safetensors", "2_Dense/model.safetensors", "1_Pooling/config.json", "own_code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    seen = {digest_of_weights(str(tmp_path))}
    for number, name in enumerate(("2_Dense/model.safetensors", "1_Pooling/config.json", "own_code.py"), 1):
        (tmp_path / name).write_bytes(b"new")
        seen.add(digest_of_weights(str(tmp_path)))
        assert len(seen) == number + 1
    (tmp_path / ".cache" / "lock.json").write_bytes(b"x")
    (tmp_path / "README.md").write_bytes(b"x")
    assert digest_of_weights(str(tmp_path)) in seen


def test_the_middle_of_a_large_file_counts(tmp_path: Path) -> None:
    large = tmp_path / "model.safetensors"
    with large.open("wb") as stream:
        stream.truncate((1 << 30) + (8 << 20))
    before = digest_of_weights(str(tmp_path))
    with large.open("r+b") as stream:
        stream.seek(1 << 29)
        stream.write(b"tuned" * (8 << 20))
    assert digest_of_weights(str(tmp_path)) != before
