"""Hosted models through the LiteLLM SDK, against a double over a socket; the SDK is imported only where one is configured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.hosted_providers import Hosted, hosted_providers
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


# --- Anthropic's and Azure's own wires


TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
async def wires(
    tmp_path: Path, openai_backend: Backend, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Gateway, Hosted]]:
    monkeypatch.setenv("HOSTED_KEY", "sk-hosted")
    async with hosted_providers() as providers:
        models = []
        for vendor, more in (("anthropic", {}), ("azure", {"api_version": "2024-10-21"})):
            for name in ("echo", "tool", "fail-429", "fail-500"):
                url = f"{providers.url}/{vendor}"
                deployment = {"name": f"{vendor}-{name}", "provider": f"{vendor}/{name}", "base_url": url}
                deployment |= {"api_key_env": "HOSTED_KEY", **more}
                models.append(
                    {"name": f"{vendor}-{name}", "policy": None, "deadline_s": 20, "deployments": [deployment]}
                )
        async with running(settings_for(tmp_path, openai_backend, redis_url, models=models)) as started:
            yield started, providers


@pytest.mark.parametrize("vendor", ["anthropic", "azure"])
async def test_another_wire_answers_in_openais_shape_whole_streamed_and_with_tools(
    wires: tuple[Gateway, Hosted], vendor: str
) -> None:
    gateway, providers = wires
    system = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    status, body, _ = await gateway.post(CHAT, {"model": f"{vendor}-echo", "messages": system})
    assert (status, body["choices"][0]["message"]["content"]) == (200, "hello there")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (11, 7)
    path, headers, sent = providers.seen[-1]
    if vendor == "anthropic":
        assert headers["x-api-key"] == "sk-hosted"
        assert "Be brief." in json.dumps(sent["system"])
    else:
        assert path == "/azure/openai/deployments/echo/chat/completions?api-version=2024-10-21"
        assert headers["api-key"] == "sk-hosted"
    events = await gateway.events({"model": f"{vendor}-echo", "messages": MESSAGES})
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["delta"].get("content") or "" for e in events[:-1]) == "hello there"
    ask = {"model": f"{vendor}-tool", "messages": MESSAGES, "tools": TOOLS}
    _, body, _ = await gateway.post(CHAT, ask)
    assert "choices" in body, (body, providers.seen[-1])
    call = body["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("look_up", {"who": "hello there"})
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    pieces = [
        call["function"].get("arguments") or ""
        for event in (await gateway.events(ask))[:-1]
        for choice in json.loads(event)["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert json.loads("".join(pieces)) == {"who": "hello there"}


@pytest.mark.parametrize("vendor", ["anthropic", "azure"])
async def test_another_wires_faults_are_ours(wires: tuple[Gateway, Hosted], vendor: str) -> None:
    gateway, _ = wires
    for fault, wanted in {"fail-429": (429, "upstream_rate_limited"), "fail-500": (502, "upstream_error")}.items():
        status, body, response = await gateway.post(CHAT, {"model": f"{vendor}-{fault}", "messages": MESSAGES})
        assert (status, body["error"]["code"]) == wanted
        assert "SECRET" not in json.dumps(body)
        if status == 429:
            assert response.headers["retry-after"] == "7"
