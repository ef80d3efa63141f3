"""Orders, failover, fallbacks, hedging, caps and shadows, with scripted backends and an injected clock and chance."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import balance
from gateway.errors import (
    UpstreamBusy,
    UpstreamCut,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.routing import Router
from gateway.types import ChatRequest, Deployment, Record, Route

A, B, C = (Deployment(name, name, base_url=f"http://{name}/v1") for name in "abc")


def route(*deployments: Deployment, **changes: Any) -> Route:
    made = Route("m", deployments, None, None, 60.0, 100, attempts=len(deployments))
    return replace(made, **changes)


def asked(call_id: str = "") -> ChatRequest:
    record = Record("r", b"t" * 16, b"s" * 8, b"", 0, "chat", call_id=call_id)
    return ChatRequest("chat", "m", {"model": "m", "messages": []}, False, False, record, deadline=1e9)


class Scripted:
    """Answers as its script says: an error to raise, or a text; a callable is awaited first."""

    def __init__(self, **script: Any) -> None:
        self.script = script
        self.calls: list[str] = []
        self.closed: list[str] = []

    async def call(self, deployment: Deployment, *_: Any, **__: Any) -> AsyncGenerator[Any]:
        self.calls.append(deployment.name)
        told = self.script[deployment.name]
        try:
            if isinstance(told, Callable):  # type: ignore[arg-type]
                told = await told()
            if isinstance(told, UpstreamError):
                raise told
            for word in told.split():
                yield {"choices": [{"index": 0, "delta": {"content": word}}]}
                if word == "CUT":
                    raise UpstreamCut("cut")
        finally:
            self.closed.append(deployment.name)


def router(backend: Scripted, *routes: Route, **more: Any) -> Router:
    return Router({r.model: r for r in routes}, backend, None, rng=random.Random(3), sleep=lambda _: None, **more)


async def answer(made: Router, of: Route, request: ChatRequest | None = None) -> str:
    chunks = [chunk async for chunk in made.call(of, request or asked())]
    return " ".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)


# --- orders


@given(st.binary(min_size=1, max_size=20), st.sampled_from([A, B, C]))
def test_taking_a_deployment_away_moves_only_its_own_calls(key: bytes, gone: Deployment) -> None:
    before = balance.sticky([A, B, C], key)
    after = balance.sticky([d for d in (A, B, C) if d is not gone], key)
    assert after == [d for d in before if d is not gone]


def test_sticky_calls_are_shared_by_weight() -> None:
    light, heavy = replace(A, weight=1.0), replace(B, weight=3.0)
    firsts = Counter(balance.sticky([light, heavy], b"%d" % i)[0].name for i in range(4000))
    assert 0.22 < firsts["a"] / 4000 < 0.28


def test_the_least_busy_and_the_faster_of_two_come_first() -> None:
    busy = {"a": 3.0, "b": 1.0, "c": 2.0}
    assert [d.name for d in balance.least_busy([A, B, C], lambda d: busy[d.name], random.Random(1))] == ["b", "c", "a"]
    slow = {"a": 2.0, "b": 0.1}
    for seed in range(20):
        order = balance.fastest([A, B], lambda d: slow[d.name], lambda _: 0.0, random.Random(seed))
        assert order[0].name == "b"


def test_requests_with_one_beginning_meet_on_one_replica_until_it_is_crowded() -> None:
    body = {"messages": [{"role": "system", "content": "x" * 3000}, {"role": "user", "content": "differs"}]}
    other = {"messages": [{"role": "system", "content": "x" * 3000}, {"role": "user", "content": "too"}]}
    assert balance.prefix_key(body) == balance.prefix_key(other)
    order = balance.sticky([A, B, C], balance.prefix_key(body))
    crowded = balance.with_bounded_load(order, lambda d: 9.0 if d is order[0] else 0.0)
    assert crowded[0] is order[1]


# --- what happens when it fails


async def test_another_deployment_answers_when_the_first_fails_before_its_first_byte() -> None:
    backend = Scripted(a=UpstreamUnavailable("x"), b="fine")
    of = route(replace(A, weight=1000.0), replace(B, weight=0.0))
    request = asked()
    assert await answer(router(backend, of), of, request) == "fine"
    assert (request.record.attempts, request.record.deployment, backend.calls) == (2, "b", ["a", "b"])


async def test_after_the_first_byte_a_failure_is_final() -> None:
    backend = Scripted(a="one CUT", b="fine")
    of = route(replace(A, weight=1000.0), replace(B, weight=0.0))
    with pytest.raises(UpstreamCut):
        await answer(router(backend, of), of)
    assert backend.calls == ["a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UpstreamRateLimited("x", retry_after_s=1.0), "rate_limit"),
        (UpstreamRejected("x", code="context_length_exceeded"), "context_length"),
        (UpstreamRejected("x", code="content_filter"), "content_filter"),
        (UpstreamUnavailable("x"), "outage"),
    ],
)
async def test_a_fallback_is_chosen_by_the_reason(error: UpstreamError, reason: str) -> None:
    first = route(A, fallbacks={reason: ("other",)})
    other = route(B, model="other")
    made = router(Scripted(a=error, b="from other"), first, other)
    request = asked()
    assert await answer(made, first, request) == "from other"
    assert request.record.fallbacks == [f"{reason}:other"]
    with pytest.raises(type(error)):
        await answer(router(Scripted(a=error), first), route(A, fallbacks={}))


async def test_fallbacks_that_point_at_each_other_end() -> None:
    one, two = route(A, fallbacks={"outage": ("n",)}), route(B, model="n", fallbacks={"outage": ("m",)})
    with pytest.raises(UpstreamUnavailable):
        await answer(router(Scripted(a=UpstreamUnavailable("x"), b=UpstreamUnavailable("y")), one, two), one)


async def test_a_call_stays_on_its_arm_and_is_marked_when_it_had_to_move() -> None:
    backend = Scripted(a="from a", b="from b")
    of = route(replace(A, arm="champion"), replace(B, arm="canary"))
    made = router(backend, of)
    arms = set()
    for _ in range(20):
        request = asked("call-7")
        await answer(made, of, request)
        arms.add(request.record.arm)
        assert not request.record.moved
    assert len(arms) == 1
    home = request.record.deployment
    backend.script[home] = UpstreamUnavailable("x")
    request = asked("call-7")
    await answer(made, of, request)
    assert request.record.moved
    assert request.record.deployment != home


async def test_an_open_breaker_spares_the_backend_and_says_when_to_come_back() -> None:
    backend = Scripted(a=UpstreamUnavailable("x"))
    of = route(A)
    made = router(backend, of)
    for _ in range(5):
        with pytest.raises(UpstreamUnavailable):
            await answer(made, of)
    before = len(backend.calls)
    with pytest.raises(UpstreamUnavailable) as refused:
        await answer(made, of)
    assert len(backend.calls) == before
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 2


async def test_a_brown_out_is_not_made_worse_than_the_budget_allows() -> None:
    backend = Scripted(a=UpstreamRateLimited("x"), b=UpstreamRateLimited("x"))
    of = route(A, B, attempts=2)
    made = router(backend, of, retry_share=0.1)
    for _ in range(200):
        with pytest.raises(UpstreamRateLimited):
            await answer(made, of)
    assert 200 < len(backend.calls) <= 200 + 10 + 20


async def test_a_cap_queues_a_few_and_sheds_the_rest() -> None:
    gate = asyncio.Event()

    async def later() -> str:
        await gate.wait()
        return "done"

    capped = replace(A, max_concurrency=1, max_queue=1, queue_timeout_s=5.0)
    of = route(capped)
    made = router(Scripted(a=later), of)
    tasks = [asyncio.create_task(answer(made, of)) for _ in range(3)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert [type(task.exception()) for task in done] == [UpstreamBusy]
    assert (made.fleet[capped].in_flight, made.fleet[capped].waiting) == (1, 1)
    gate.set()
    assert sorted([await task for task in tasks if task not in done]) == ["done", "done"]
    assert (made.fleet[capped].in_flight, made.fleet[capped].waiting) == (0, 0)


async def test_a_caller_that_leaves_the_queue_leaves_no_place_taken() -> None:
    gate = asyncio.Event()

    async def later() -> str:
        await gate.wait()
        return "done"

    capped = replace(A, max_concurrency=1, max_queue=5, queue_timeout_s=5.0)
    of = route(capped)
    made = router(Scripted(a=later), of)
    tasks = [asyncio.create_task(answer(made, of)) for _ in range(4)]
    while made.fleet[capped].waiting < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[0].cancel()
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [True, True, False, False]
    assert (made.fleet[capped].in_flight, made.fleet[capped].waiting) == (0, 0)


async def test_a_slow_first_byte_is_hedged_and_the_loser_is_cancelled() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    backend = Scripted(a=never, b="quick one")
    of = route(replace(A, weight=1000.0), replace(B, weight=0.0), hedge_after_s=0.001)
    request = asked()
    assert await answer(router(backend, of), of, request) == "quick one"
    assert request.record.deployment == "b"
    assert sorted(backend.closed) == ["a", "b"]


async def test_a_shadow_sees_a_copy_and_cannot_touch_the_answer() -> None:
    backend = Scripted(a="answer", b=UpstreamUnavailable("x"))
    of = route(A, shadow=B)
    made = router(backend, of)
    assert await answer(made, of) == "answer"
    while not made.shadow.outcomes:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert made.shadow.outcomes == {("b", "failed"): 1}
    await made.shadow.aclose()


async def test_a_new_table_is_put_in_place_whole_and_keeps_what_is_known() -> None:
    of = route(A)
    made = router(Scripted(a="x", b="y"), of)
    known = made.fleet[A]
    made.replace({"m": route(A, B), "n": route(B, model="n")})
    assert sorted(made.routes) == ["m", "n"]
    assert made.fleet[A] is known
