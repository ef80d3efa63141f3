"""Hosted models through the LiteLLM SDK, against a double over a socket; the SDK is imported only where one is configured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello there"}]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(180)]


def hosted(name: str, backend: Backend) -> dict[str, Any]:
    deployment = {"name": name, "provider": f"openai/{name}", "base_url": backend.base_url, "api_key_env": "HOSTED_KEY"}
    return {"name": name, "policy": None, "deadline_s": 20, "deployments": [deployment]}


@pytest.fixture
async def gateway(
    tmp_path: Path, openai_backend: Backend, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("HOSTED_KEY", "sk-hosted")
    models = [hosted(name, openai_backend) for name in ("echo", "echo-1", "fail-429", "fail-500", "context")]
    async with running(settings_for(tmp_path, openai_backend, redis_url, models=models)) as started:
        yield started


async def test_a_hosted_model_answers_whole_and_streamed_and_its_faults_are_ours(
    gateway: Gateway, openai_backend: Backend
) -> None:
    status, body, _ = await gateway.post(CHAT, {"model": "echo", "messages": MESSAGES})
    assert (status, body["model"], body["choices"][0]["message"]["content"]) == (200, "echo", "hello there")
    assert {k.lower(): v for k, v in openai_backend.headers[-1].items()}["authorization"] == "Bearer sk-hosted"
    events = await gateway.events({"model": "echo-1", "messages": MESSAGES})
    assert "".join(json.loads(e)["choices"][0]["delta"].get("content") or "" for e in events[:-1]) == "hello there"
    for model, wanted in {
        "fail-429": (429, "upstream_rate_limited"),
        "fail-500": (502, "upstream_error"),
        "context": (400, "context_length_exceeded"),
    }.items():
        status, body, response = await gateway.post(CHAT, {"model": model, "messages": MESSAGES})
        assert (status, body["error"]["code"]) == wanted, model
        assert "SECRET" not in json.dumps(body)
        if status == 429:
            assert response.headers["retry-after"] == "7"


def test_the_sdk_is_not_imported_for_openai_compatible_servers() -> None:
    program = "import sys; import gateway.app, gateway.steps.guarded, gateway.steps.fraud, gateway.asgi; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
