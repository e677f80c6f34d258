"""What a manifest and a failure say about the machine holds no key."""

from __future__ import annotations

import pytest

from recbole_kd.benchmark import machine

SECRET = "sk-test-0123456789abcdef"


@pytest.mark.parametrize("end", ["", "\r", "\r\n", " "])
def test_a_key_is_redacted_without_the_line_end_of_its_variable(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET + end)
    told = machine.redact(f"Illegal header value {f'Bearer {SECRET}{end}'.encode()!r}")
    assert SECRET not in told
    assert "<SOME_API_KEY>" in told


def test_a_key_is_redacted_as_an_error_escapes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-test\r0123456789"
    monkeypatch.setenv("SOME_API_KEY", secret)
    assert "0123456789" not in machine.redact(f"Illegal header value {secret.encode()!r}")
