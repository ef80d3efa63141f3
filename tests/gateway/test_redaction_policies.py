"""What a policy says of redaction, seen from outside: parts that nobody can read, and a thousand callers at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.settings import Settings
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, running, settings_for
from tests.gateway.test_telemetry import collector

CHAT = "/v1/chat/completions"
PARTS = [
    {"type": "image_url", "image_url": {"url": "https://files.example.net/4111111111111111.png"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "4111111111111111.pdf"}},
]
pytestmark = pytest.mark.filterwarnings("ignore")


def with_redaction(
    redaction: dict[str, Any], tmp_path: Path, backend: Backend, redis_url: str, model: str = "echo", **more: Any
) -> Settings:
    folder = tmp_path / "policy"
    folder.mkdir()
    policy = {"version": 1, "name": "light", "redaction": {"ner": "off", **redaction}}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    (folder / "config.yml").write_text("models: []\n")
    deployment = {"name": "echo", "base_url": backend.base_url, "model": model}
    models = [{"name": "echo", "policy": "light", "deployments": [deployment]}]
    return settings_for(tmp_path, backend, redis_url, policies={"light": str(folder)}, models=models, **more)


def asked(parts: list[Any]) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, *parts]}]}


async def test_images_audio_and_files_are_refused_passed_or_flagged_as_the_policy_says(
    tmp_path: Path, openai_backend: Backend, redis_url: str, capfdbinary: Any
) -> None:
    media = {"images": "pass", "audio": "flag"}  # files as they are by default: refused
    async with collector() as (url, traces):
        telemetry = {"otlp_endpoint": url, "flush_s": 0.01}
        wanted = with_redaction({"media": media}, tmp_path, openai_backend, redis_url, telemetry=telemetry)
        async with running(wanted) as gateway:
            status, body, _ = await gateway.post(CHAT, asked(PARTS))
            assert (status, body["error"]["code"]) == (400, "unsupported_content")
            assert body["error"]["param"] == "messages[0].content[3].type"
            status, _, _ = await gateway.post(CHAT, asked(PARTS[:2]))
            assert status == 200
            status, body, _ = await gateway.post(CHAT, asked([{"type": "video_url", "video_url": {"url": "x"}}]))
            assert status == 400
    sent = openai_backend.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in sent] == ["text", "image_url", "input_audio"]
    assert sent[2] == PARTS[1]
    assert "4111" not in openai_backend.seen
    spans = b"".join(traces)
    assert b"callgate.passed_unread.image_url" in spans
    assert b"not read: input_audio" in spans
    logged = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines() if b'"event":"request"' in line]
    assert [line.get("not_run") for line in logged if line["status"] == 200] == [["media"]]


async def test_names_of_files_are_redacted_where_files_pass(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    wanted = with_redaction({"media": {"files": "pass"}}, tmp_path, openai_backend, redis_url)
    async with running(wanted) as gateway:
        status, _, _ = await gateway.post(CHAT, asked(PARTS[2:]))
    assert status == 200
    assert openai_backend.bodies[0]["messages"][0]["content"][1]["file"]["filename"] == "[CREDIT_CARD_1].pdf"


async def test_a_value_with_a_quote_in_it_comes_back_in_json_as_json(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    own = [{"name": "NICKNAME", "regex": 'nick "\\w+"'}]
    text = 'my nick "joe"\nsay:{"a": "nick "joe""}'
    json_wanted = {"response_format": {"type": "json_object"}}
    async with running(with_redaction({"patterns": own}, tmp_path, openai_backend, redis_url, model="say")) as gateway:
        body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
        _, answer, _ = await gateway.post(CHAT, body | json_wanted)
        assert json.loads(answer["choices"][0]["message"]["content"]) == {"a": 'nick "joe"'}
        events = await gateway.events(body | json_wanted)
        deltas = [choice["delta"].get("content") or "" for e in events[:-1] for choice in json.loads(e)["choices"]]
        assert json.loads("".join(deltas)) == {"a": 'nick "joe"'}
        _, answer, _ = await gateway.post(CHAT, body)
        assert answer["choices"][0]["message"]["content"] == '{"a": "nick "joe""}'


async def test_a_thousand_callers_at_once_never_see_each_others_values(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    limits = {"requests_per_minute": None, "tokens_per_minute": None}
    async with running(with_redaction({}, tmp_path, openai_backend, redis_url, limits=limits)) as gateway:
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def one(number: int) -> bool:
                text = f"please write to caller{number}@example.com about my account today"
                message = {"role": "user", "content": text}
                async with session.post(gateway.url + CHAT, json={"model": "echo", "messages": [message]}) as response:
                    body = await response.json()
                return response.status == 200 and body["choices"][0]["message"]["content"] == text

            right = await asyncio.gather(*map(one, range(1000)))
    assert sum(right) == 1000
    assert {body["messages"][0]["content"] for body in openai_backend.bodies} == {
        "please write to [EMAIL_ADDRESS_1] about my account today"
    }
