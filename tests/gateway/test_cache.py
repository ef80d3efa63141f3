"""Stored answers: replayed whole and streamed, to the same key only, with each caller's own values; one flight for identical requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import KeyHasher
from gateway.cache import key_of
from gateway.types import Caller, ChatRequest, Deployment, Limits, Record, Route
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, SECRET, Gateway, running, settings_for

CHAT = "/v1/chat/completions"
ROOT = Path(__file__).parents[2]


def ask(text: str, model: str = "echo", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    models = [
        {
            "name": name,
            "policy": None,
            "cache_ttl_s": 60,
            "deployments": [{"name": name, "base_url": openai_backend.base_url, "model": name}],
        }
        for name in ("echo", "echo-1", "slow", "fail-500", "truncate", "tool")
    ]
    hasher = KeyHasher(SECRET.encode())
    keys = [{"id": name, "hash": hasher.hash(key.encode())} for name, key in (("test", KEY), ("other", "cg-other"))]
    async with running(settings_for(tmp_path, openai_backend, redis_url, models=models, keys=keys)) as started:
        yield started


async def test_the_second_time_no_backend_is_asked_and_nothing_is_charged(
    gateway: Gateway, openai_backend: Backend
) -> None:
    seen = []
    for _ in range(2):
        status, body, response = await gateway.post(CHAT, ask("hello"))
        seen.append((status, response.headers["x-callgate-cache"], body["choices"][0]["message"], body["usage"]))
    assert [one[1] for one in seen] == ["miss", "hit"]
    assert seen[0][2:] == seen[1][2:]
    assert len(openai_backend.bodies) == 1
    events = [await gateway.events(ask("hello", "echo-1", stream_options={"include_usage": True})) for _ in range(2)]
    texts = [
        "".join(c["delta"].get("content") or "" for e in one[:-1] for c in json.loads(e)["choices"]) for one in events
    ]
    assert texts == ["hello", "hello"]
    assert json.loads(events[1][-2])["usage"]["total_tokens"] == 18
    assert len(events[1]) == len(events[0])  # a stream is replayed as a stream
    assert len(openai_backend.bodies) == 2


async def test_another_key_another_question_or_a_wish_for_a_fresh_one_is_no_hit(gateway: Gateway) -> None:
    async def outcome(body: dict[str, Any], **headers: str) -> str:
        _, _, response = await gateway.post(CHAT, body, headers=headers)
        return response.headers["x-callgate-cache"]

    assert await outcome(ask("hello")) == "miss"
    assert await outcome(ask("hello"), authorization="Bearer cg-other") == "miss"
    assert await outcome(ask("hello", temperature=0.5)) == "miss"
    assert await outcome(ask("hello", seed=3)) == "miss"
    assert await outcome(ask("hello"), **{"cache-control": "no-cache"}) == "bypass"
    assert await outcome(ask("hello")) == "hit"


async def test_identical_requests_at_one_moment_ask_once(gateway: Gateway, openai_backend: Backend) -> None:
    answers = await asyncio.gather(*(gateway.post(CHAT, ask("together")) for _ in range(20)))
    assert {body["choices"][0]["message"]["content"] for _, body, _ in answers} == {"together"}
    assert len(openai_backend.bodies) == 1


@pytest.mark.parametrize("model", ["fail-500", "truncate"])
async def test_failures_are_not_stored(gateway: Gateway, openai_backend: Backend, model: str) -> None:
    for _ in range(2):
        async with gateway.session.post(gateway.url + CHAT, json=ask("long enough to be cut", model, stream=True)) as r:
            await r.read()
    assert len(openai_backend.bodies) >= 2


async def test_a_leader_that_hangs_up_lets_the_followers_ask_themselves(
    gateway: Gateway, openai_backend: Backend
) -> None:
    async with gateway.session.post(gateway.url + CHAT, json=ask("x", "slow", stream=True)) as leader:
        await leader.content.readany()
        follower = asyncio.create_task(gateway.events(ask("x", "slow")))
        await asyncio.sleep(0)
    openai_backend.released.set()
    assert (await follower)[-1] == "[DONE]"


async def test_callers_with_different_names_share_an_answer_and_each_gets_their_own_back(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    models = [
        {
            "name": "echo",
            "policy": "shop",
            "cache_ttl_s": 60,
            "deployments": [{"name": "echo", "base_url": openai_backend.base_url, "model": "echo"}],
        }
    ]
    policy = tmp_path / "shop"
    policy.mkdir()
    (policy / "config.yml").write_text("models: []\n")
    (policy / "policy.yaml").write_text("version: 1\nname: shop\nrails: {}\nredaction: {ner: 'off'}\n")
    try:
        settings = settings_for(tmp_path, openai_backend, redis_url, models=models, policies={"shop": str(policy)})
        async with running(settings) as gateway:
            for mail, outcome in (("ann@example.com", "miss"), ("bob@example.org", "hit")):
                _, body, response = await gateway.post(CHAT, ask(f"write to {mail} please"))
                assert body["choices"][0]["message"]["content"] == f"write to {mail} please"
                assert response.headers["x-callgate-cache"] == outcome
    finally:
        assert "ann@" not in openai_backend.seen


async def test_near_questions_hit_where_a_route_allows_it_but_never_across_figures(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    models = [
        {
            "name": "echo",
            "policy": None,
            "cache_ttl_s": 60,
            "cache_similarity": 0.9,
            "deployments": [{"name": "echo", "base_url": openai_backend.base_url, "model": "echo"}],
        }
    ]
    settings = settings_for(tmp_path, openai_backend, redis_url, models=models, embedding={"enabled": True})
    async with running(settings) as gateway:

        async def outcome(text: str) -> str:
            _, _, response = await gateway.post(CHAT, ask(text))
            return response.headers["x-callgate-cache"]

        assert await outcome("How do I block my card?") == "miss"
        assert await outcome("how do i block my card") == "hit"
        assert await outcome("What are your opening hours?") == "miss"
        assert await outcome("Send 50 to the account 1") == "miss"
        assert await outcome("Send 90 to the account 1") == "miss"


def test_a_key_changes_with_tenant_policy_model_and_request() -> None:
    def key(tenant: str = "a", digest: str = "p", model: str = "v1", **body: Any) -> str:
        record = Record("r", b"", b"", b"", 0, "chat", policy_digest=digest)
        request = ChatRequest("chat", "m", {"messages": [], **body}, False, False, record, 0.0)
        route = Route("m", (Deployment("d", model),), None, None, 1.0, 1, 1)
        return key_of(Caller(tenant, tenant, Limits(None, None)), route, request)

    keys = [key(), key(tenant="b"), key(digest="q"), key(model="v2"), key(seed=1)]
    assert len(set(keys)) == len(keys)
    assert key(user="someone") == key()
    assert key(a=1, b=2) == key(b=2, a=1)
