"""A real vLLM on the demo model, started by the interpreter that CALLGATE_VLLM_PYTHON names (`make test-vllm VLLM_PYTHON=...`)."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.llm.embedded import shipped_model
from tests.conftest import free_port

MODEL = "smollm2"
SLOTS = 2  # answers at a time, so that a queue is soon there
START_S = 420
SERVER = [
    "-m",
    "vllm.entrypoints.openai.api_server",
    "--served-model-name",
    MODEL,
    "--host",
    "127.0.0.1",
    "--dtype",
    "float32",
]
SERVER += [
    "--max-model-len",
    "2048",
    "--max-num-seqs",
    str(SLOTS),
    "--enforce-eager",
    "--scheduling-policy",
    "priority",
]
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, without /v1. Skips, saying so, without an interpreter that has vLLM."""
    python = os.environ.get("CALLGATE_VLLM_PYTHON")
    if not python:
        pytest.skip("CALLGATE_VLLM_PYTHON names no interpreter with vLLM; see `make test-vllm`")
    folder = tmp_path_factory.mktemp("vllm")
    environment = {**os.environ, **SETTINGS}
    convert = [python, str(Path(__file__).with_name("convert.py")), str(shipped_model()), str(folder / "model")]
    subprocess.run(convert, env=environment, check=True, capture_output=True)
    port = free_port()
    command = [python, *SERVER, "--model", str(folder / "model"), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, server, folder / "log")
        yield url
    finally:
        server.terminate()
        server.wait(60)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5):  # noqa: S310 - loopback
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")
