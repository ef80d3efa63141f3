"""vLLM's own fields, liveness and numbers, against a server that speaks its wire."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gateway.routing import Router
from gateway.types import ChatRequest, Deployment, Record, Route
from gateway.upstream import HttpBackends
from gateway.vllm import fields, health, served

METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
vllm:num_requests_running{engine="1",model_name="base"} 2.0
vllm:num_requests_waiting{engine="0",model_name="base"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="base"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="base"} 0.75
vllm:num_requests_swapped 9.0
"""


@asynccontextmanager
async def server(models: list[str], metrics: bytes = METRICS) -> AsyncIterator[tuple[str, list[Any]]]:
    """A double of vLLM's OpenAI server: models (adapters beside their base), metrics, chat."""
    bodies: list[Any] = []

    async def list_models(_: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": m, "object": "model", "parent": None} for m in models]}
        )

    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=metrics)

    async def chat(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    app = web.Application()
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/metrics", tell)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", bodies
    await runner.cleanup()


def test_numbers_of_all_engines_count_together() -> None:
    told = health(METRICS)
    assert (told.running, told.waiting, told.cache_share) == (5, 7, 0.75)
    assert health(b"") == health(b"something else 1.0\n")


def test_a_salt_tells_keys_apart_and_only_where_it_is_wanted() -> None:
    apart = Deployment("d", "m", engine="vllm", priority=-2, prefix_by_key=True)
    assert fields(apart, "a")["priority"] == -2
    assert fields(apart, "a")["cache_salt"] == fields(apart, "a")["cache_salt"] != fields(apart, "b")["cache_salt"]
    assert fields(Deployment("d", "m", engine="vllm"), "a") == {}


def test_an_adapter_is_served_when_it_is_listed() -> None:
    listed = {"data": [{"id": "base"}, {"id": "adapter", "parent": "base"}]}
    assert served(listed, "adapter")
    assert not served(listed, "other")
    assert not served({"data": "x"}, "other")


async def test_health_is_the_model_and_the_queue() -> None:
    http = HttpBackends()
    async with server(["base", "adapter"]) as (url, _):
        found = await http.health(Deployment("d", "adapter", base_url=url, engine="vllm"))
        assert (found.alive, found.waiting) == (True, 7)
        assert not (await http.health(Deployment("d", "gone", base_url=url, engine="vllm"))).alive
        assert (await http.health(Deployment("d", "gone", base_url=url))).alive
    assert not (await http.health(Deployment("d", "base", base_url=url, engine="vllm"))).alive
    await http.aclose()


async def test_the_least_busy_replica_is_the_one_whose_own_queue_is_short() -> None:
    http = HttpBackends()
    async with server(["m"]) as (busy, _), server(["m"], b"") as (idle, bodies):
        replicas = tuple(
            Deployment(name, "m", base_url=url, engine="vllm", priority=1, prefix_by_key=True)
            for name, url in (("busy", busy), ("idle", idle))
        )
        route = Route("m", replicas, None, None, 5.0, 100, 2, strategy="least_busy")
        router = Router({"m": route}, http, None, rng=random.Random(1))
        await router.fleet.check(http.health)
        for _ in range(6):
            record = Record("r", b"t" * 16, b"s" * 8, b"", 0, "chat", key_id="k")
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            request = ChatRequest("chat", "m", body, False, False, record, time.monotonic() + 5)
            assert [chunk async for chunk in router.call(route, request)]
            assert record.deployment == "idle"
        assert {b["priority"] for b in bodies} == {1}
        assert len({b["cache_salt"] for b in bodies}) == 1
    await http.aclose()
