"""The batch-file route: calls leave as JSONL and answers come back as JSONL, hours later.

The format is that of OpenAI's Batch API, which vLLM's ``run-batch`` reads as well.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profiles.llm.base import Reply, Request
from profiles.llm.endpoint import body
from profiles.llm.openai_api import OpenAIBackend
from profiles.progress import Progress, tracked
from profiles.spec import WriterSpec
from recbole_kd.errors import StoreError

URL = "/v1/chat/completions"


class BatchFileBackend(OpenAIBackend):
    """Answers nothing itself: it collects the calls that the store lacks.

    Attributes
    ----------
    pending : list of Request
        Of all rounds since it was last emptied.
    """

    def __init__(self, spec: WriterSpec) -> None:
        super().__init__(spec)
        self.pending: list[Request] = []

    def write(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """Collect; users who are a round ahead of others ask in a call of their own."""
        self.pending += [request for batch in batches for request in batch]
        yield []


@dataclass
class Answers:
    """What an answer file held.

    Attributes
    ----------
    replies : list of Reply
        Usable answers to calls that were asked for.
    failed : dict of str to str
        Call -> what the provider said.
    unknown : list of str
        Ids that nobody asked for (another job, another prompt version).
    repeated : list of str
        Ids that stand twice; the first answer counts.
    missing : list of str
        Calls without a line.
    """

    replies: list[Reply] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_batch_file(
    path: Path, requests: Sequence[Request], backend: OpenAIBackend, progress: Progress | None = None
) -> int:
    """Write one line per call, whole or not at all; return the number of calls.

    Raises
    ------
    StoreError
        There is nothing left to ask.
    """
    if not requests:
        raise StoreError(f"{path}: nothing left to ask, nothing was written; every answer is in the store")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            for request in tracked(requests, progress, len(requests)):
                content = body(request.message, backend.model, backend.decoding) | (
                    backend.api.extra_body or {}
                )
                line = {"custom_id": request.key, "method": "POST", "url": URL, "body": content}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(requests)


def read_batch_file(path: Path, requests: Sequence[Request], progress: Progress | None = None) -> Answers:
    """Read an answer file and match it with the calls that wait for an answer.

    Raises
    ------
    StoreError
        The file is missing, or a line is not an answer; nothing was taken over.
    """
    asked = {request.key for request in requests}
    seen: set[str] = set()
    answers = Answers()
    try:
        # Not splitlines, which also splits at separators that may stand inside a JSON string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); give the output file of the batch") from error
    for number, line in enumerate(tracked(lines, progress, len(lines)), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            key = str(record["custom_id"])
            reply, reason = _answer(key, record)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise StoreError(
                f"{path}, line {number}: not an answer of a batch ({type(error).__name__}); give the output "
                "file of the batch, not its input"
            ) from error
        if key in seen:
            answers.repeated.append(key)
        elif key not in asked:
            answers.unknown.append(key)
        elif reply is not None:
            answers.replies.append(reply)
        else:
            answers.failed[key] = reason
        seen.add(key)
    answers.missing = [request.key for request in requests if request.key not in seen]
    return answers


def _answer(key: str, record: dict[str, Any]) -> tuple[Reply | None, str]:
    response = record["response"]
    if record.get("error") or not response or int(response.get("status_code", 200)) != 200:
        status = response.get("status_code") if response else None
        return None, f"status {status}" if status else "error"
    content = response["body"]
    choice = content["choices"][0]
    usage = content.get("usage") or {}
    text = choice["message"].get("content") or ""
    prompt, completion = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    finish = str(choice.get("finish_reason") or "stop")
    return Reply(key, text, prompt, completion, 0.0, finish, complete=True), ""
