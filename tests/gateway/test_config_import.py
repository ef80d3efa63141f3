"""A LiteLLM configuration becomes a callgate.yaml that loads, and every key that was not carried is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import build
from gateway.config_import import import_litellm
from gateway.settings import load

LITELLM = """
model_list:
  - model_name: fast
    litellm_params: {model: hosted_vllm/llama-3, api_base: "http://vllm-1:8000/v1", api_key: os.environ/VLLM_KEY, weight: 3, rpm: 60}
  - model_name: fast
    litellm_params: {model: azure/gpt-4o, api_base: os.environ/AZURE_BASE, api_key: os.environ/AZURE_KEY, api_version: "2024-10-21", order: 2}
    model_info: {mode: chat}
  - model_name: long context
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: sk-secret-in-the-file, max_parallel_requests: 8, drop_params: true}
router_settings:
  routing_strategy: least-busy
  fallbacks: [{fast: ["long context", gone]}]
litellm_settings:
  context_window_fallbacks: [{fast: ["long context"]}]
  callbacks: [langfuse]
general_settings: {master_key: sk-1234}
guardrails:
  - guardrail_name: pii
    litellm_params: {guardrail: presidio, mode: pre_call, output_parse_pii: true, presidio_language: en}
  - guardrail_name: lakera
    litellm_params: {guardrail: lakera_v2, mode: pre_call}
"""


def test_models_weights_fallbacks_and_presidio_are_carried_and_the_rest_is_named() -> None:
    imported = import_litellm(yaml.safe_load(LITELLM))
    fast, long = imported.settings["models"]
    assert fast["deployments"] == [
        {
            "name": "fast-1",
            "base_url": "http://vllm-1:8000/v1",
            "model": "llama-3",
            "api_key_env": "VLLM_KEY",
            "weight": 3,
        },
        {
            "name": "fast-2",
            "provider": "azure/gpt-4o",
            "base_url": "${AZURE_BASE}",
            "api_key_env": "AZURE_KEY",
            "api_version": "2024-10-21",
        },
    ]
    assert (fast["strategy"], fast["attempts"], fast["policy"]) == ("least_busy", 2, "call-centre")
    assert fast["fallbacks"] == {
        "outage": ["long context"],
        "rate_limit": ["long context"],
        "context_length": ["long context"],
    }
    assert long["deployments"][0]["max_concurrency"] == 8
    lost = "\n".join(imported.lost)
    for named in (
        "model_list[0].litellm_params.rpm",
        "model_list[1].model_info",
        "model_list[2].litellm_params.api_key",
        "model_list[2].litellm_params.drop_params",
        "'gone' is no other model",
        "litellm_settings.callbacks",
        "general_settings",
        "lakera",
        "presidio_language",
    ):
        assert named in lost
    assert "sk-" not in lost + yaml.safe_dump(imported.settings)


def test_what_is_printed_loads(tmp_path: Path) -> None:
    (tmp_path / "litellm.yaml").write_text(LITELLM.replace("long context", "long-context"))
    result = CliRunner().invoke(build(), ["config", "import", str(tmp_path / "litellm.yaml")])
    assert result.exit_code == 0
    (tmp_path / "callgate.yaml").write_text(result.stdout)
    settings = load(tmp_path / "callgate.yaml", {"AZURE_BASE": "https://mine.openai.azure.com"})
    assert [model.name for model in settings.models] == ["fast", "long-context"]
    assert "not carried over: general_settings" in result.stderr
    assert CliRunner().invoke(build(), ["config", "import", "--strict", str(tmp_path / "litellm.yaml")]).exit_code == 1


@pytest.mark.parametrize("text", ["", "a: b", "[1]", "{"])
def test_what_is_no_litellm_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    assert CliRunner().invoke(build(), ["config", "import", str(tmp_path / "x.yaml")]).exit_code == 3
