"""Limits never overspend, whatever the interleaving, and what was reserved and not used comes back. On a real Redis."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import RateLimited, StoreUnavailable
from gateway.limits import Limiter
from gateway.stores import RedisStore
from gateway.types import Caller, Limits
from tests.gateway.conftest import Gateway


def caller(key: str, requests: int | None, tokens: int | None) -> Caller:
    return Caller(key, key, Limits(requests, tokens))


async def granted(limiter: Limiter, who: Caller, tokens: int) -> bool:
    try:
        await limiter.reserve(who, tokens)
    except RateLimited as error:
        assert error.retry_after_s is None or error.retry_after_s > 0
        return False
    return True


async def test_requests_over_the_limit_wait_and_are_told_how_long(redis_url: str) -> None:
    store = RedisStore(redis_url)
    limiter, who = Limiter(store), caller("k", 3, None)
    assert [await granted(limiter, who, 0) for _ in range(4)] == [True, True, True, False]
    with pytest.raises(RateLimited) as caught:
        await limiter.reserve(who, 0)
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 20
    await store.aclose()


async def test_many_workers_together_never_overspend(redis_url: str) -> None:
    stores = [RedisStore(redis_url) for _ in range(4)]
    limiters, who = [Limiter(store) for store in stores], caller("k", 100, 100_000)
    outcomes = await asyncio.gather(*(granted(limiters[i % 4], who, 1500) for i in range(400)))
    assert 60 <= sum(outcomes) <= 68  # 100,000 / 1,500, and what refilled meanwhile
    for store in stores:
        await store.aclose()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 800)), min_size=1, max_size=30))
async def test_any_interleaving_of_reservations_and_settlements_stays_within_the_limit(
    redis_url: str, uses: list[tuple[int, int]]
) -> None:
    store = RedisStore(redis_url)
    await store.client.flushall()
    limiter, who, spent = Limiter(store), caller("k", None, 2000), 0

    async def one(reserved: int, used: int) -> None:
        nonlocal spent
        try:
            grant = await limiter.reserve(who, reserved)
        except RateLimited:
            return
        spent += min(used, reserved)
        limiter.settle(grant, min(used, reserved))

    await asyncio.gather(*(one(*use) for use in uses))
    await limiter.aclose()
    assert spent <= 2000 + 2000 * 10 / 60  # ten seconds' refill is more than this takes
    await store.aclose()


async def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_a_debt(redis_url: str) -> None:
    store = RedisStore(redis_url)
    limiter, who = Limiter(store), caller("k", None, 1000)
    grant = await limiter.reserve(who, 900)
    limiter.settle(grant, 100)
    grant = await limiter.reserve(who, 800)
    assert grant.remaining_tokens is not None
    assert 90 <= grant.remaining_tokens <= 200
    limiter.settle(grant, 3000)
    with pytest.raises(RateLimited) as caught:
        await limiter.reserve(who, 100)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 60
    await store.aclose()


async def test_a_request_that_could_never_fit_is_told_so(redis_url: str) -> None:
    store = RedisStore(redis_url)
    with pytest.raises(RateLimited, match="max_tokens"):
        await Limiter(store).reserve(caller("k", None, 100), 101)
    await store.aclose()


async def test_a_caller_that_hangs_up_while_waiting_gets_its_tokens_back(redis_url: str) -> None:
    store = RedisStore(redis_url)
    limiter, who = Limiter(store), caller("k", None, 1000)
    waiting = asyncio.create_task(limiter.reserve(who, 1000))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await limiter.aclose()
    assert await granted(limiter, who, 1000)
    await store.aclose()


async def test_without_redis_limited_keys_are_refused_unless_the_settings_say_otherwise() -> None:
    store = RedisStore("redis://127.0.0.1:1/0", timeout_s=0.2)
    with pytest.raises(StoreUnavailable):
        await Limiter(store).reserve(caller("k", 1, None), 0)
    assert (await Limiter(store, "allow").reserve(caller("k", 1, None), 5)).tokens == 0
    assert (await Limiter(store).reserve(caller("k", None, None), 5)).headers() == []
    await store.aclose()


async def test_the_wire_says_429_with_retry_after_and_what_is_left(gateway: Gateway, redis_url: str) -> None:
    store = RedisStore(redis_url)
    await store.client.hset("{callgate:limits}:test", mapping={"r": 999, "t": 10**9, "at": 2**42})
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    status, error, response = await gateway.post("/v1/chat/completions", body)
    assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(response.headers["retry-after"]) >= 1
    await store.aclose()
