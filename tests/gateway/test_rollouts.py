"""A candidate's share of the calls: kept by call, under a lease, moved by its own run alone, followed by every worker, and gone when nobody renews it."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import balance
from gateway.cache import Cache
from gateway.errors import UpstreamError, UpstreamUnavailable
from gateway.rollouts import Rollout, RolloutFollower, RolloutRefused, Rollouts, backend_of
from gateway.routing import Router
from gateway.stores import RedisStore
from gateway.types import Caller, Deployment, Limits, Route
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for
from tests.gateway.test_routing import Scripted, answer, asked, route, router

CHAMPION = Deployment("champion", "old")
CANDIDATE = Deployment("candidate", "new", arm="canary")
TOKEN = "ada-has-a-long-token"
OWNER = "run-12345678"


def split(share: float, **script: Any) -> tuple[Router, Route]:
    of = route(CHAMPION, candidate=CANDIDATE, attempts=2)
    made = router(Scripted(**({"champion": "old", "candidate": "new"} | script)), of)
    made.shares = {("m", "candidate"): share} if share else {}
    return made, of


# --- which arm


async def test_without_a_share_a_candidate_answers_nothing_not_even_when_all_else_is_down() -> None:
    made, of = split(0.0, champion=UpstreamUnavailable("x"))
    with pytest.raises(UpstreamError):
        await answer(made, of)
    made.shares = {("m", "another candidate"): 1.0}
    with pytest.raises(UpstreamError):
        await answer(made, of)


async def test_a_call_stays_with_its_arm_and_a_larger_share_only_adds_calls() -> None:
    arms: dict[float, set[str]] = {}
    for share in (0.05, 0.25, 0.5, 1.0):
        made, of = split(share)
        arms[share] = set()
        for number in range(600):
            for _ in range(2):
                request = asked(f"call-{number}")
                said = await answer(made, of, request)
                assert request.record.assigned == ("canary" if said == "new" else "champion")
            arms[share] |= {f"call-{number}"} if said == "new" else set()
    assert arms[0.05] < arms[0.25] < arms[0.5] < arms[1.0]
    assert 15 <= len(arms[0.05]) <= 50
    assert 250 <= len(arms[0.5]) <= 350
    assert len(arms[1.0]) == 600


@given(st.binary(min_size=1, max_size=40))
def test_a_place_is_in_the_unit_interval(key: bytes) -> None:
    assert 0 <= balance.place(key) < 1


async def test_requests_without_a_call_id_are_split_by_chance() -> None:
    made, of = split(0.25)
    said = [await answer(made, of) for _ in range(800)]
    assert 140 <= said.count("new") <= 260


async def test_an_arm_that_fails_is_covered_by_the_other_and_the_record_says_whose_call_it_was() -> None:
    made, of = split(1.0, candidate=UpstreamUnavailable("x"))
    request = asked("c")
    assert await answer(made, of, request) == "old"
    assert (request.record.assigned, request.record.arm, request.record.moved) == ("canary", "champion", True)
    for _ in range(60):  # until its breaker is open
        request = asked()
        await answer(made, of, request)
    assert (request.record.assigned, request.record.attempts) == ("canary", 1)


async def test_another_model_that_answers_in_its_stead_is_no_arm_of_its_rollout() -> None:
    of = route(CHAMPION, candidate=CANDIDATE, attempts=2, fallbacks={"outage": ("other",)})
    other = replace(
        route(Deployment("old-other", "x"), candidate=Deployment("new-other", "y", arm="canary")), model="other"
    )
    down = UpstreamUnavailable("x")
    made = router(Scripted(**{"champion": down, "candidate": down, "old-other": "old", "new-other": "new"}), of, other)
    made.shares = {("m", "candidate"): 1e-9, ("other", "new-other"): 1.0}
    request = asked("c")
    assert await answer(made, of, request) == "new"
    assert (request.record.assigned, request.record.fallbacks) == ("champion", ["outage:other"])
    made.shares = {("other", "new-other"): 1.0}
    request = asked("c")
    await answer(made, of, request)
    assert request.record.assigned == ""


# --- the value that workers follow


def rollout(share: float, **changes: Any) -> Rollout:
    made = Rollout(
        model="m", candidate="candidate", backend=backend_of(CANDIDATE), share=share, state="running", owner=OWNER, by="ada", at="2026-11-27T12:00:00+00:00"
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_workers_follow_a_share_until_its_lease_ends_even_when_redis_is_away(redis_url: str) -> None:
    store, gone = RedisStore(redis_url), RedisStore("redis://127.0.0.1:9/0", 0.2)
    kept, clock = Rollouts(store), Clock()
    made, of = split(0.0)
    follower = RolloutFollower(store, made, clock=clock)
    await follower.look()
    assert made.share(of) == 0
    await kept.start(rollout(0.05), 60)
    await follower.look()
    assert made.share(of) == 0.05
    await kept.move(rollout(0.5), 60)
    await follower.look()
    assert made.share(of) == 0.5
    follower._rollouts = Rollouts(gone)
    clock.now_s = 59.0
    await follower.look()
    assert made.share(of) == 0.5  # renewed or not cannot be known; the lease still runs
    clock.now_s = 61.0
    await follower.look()
    assert made.share(of) == 0
    follower._rollouts = kept
    await kept.end(rollout(1.0, state="promoted"))
    await follower.look()
    clock.now_s = 1e9
    await follower.look()
    assert made.share(of) == 1.0  # for good
    for one in (store, gone):
        await one.aclose()


async def test_a_lease_ends_on_the_workers_clock_whatever_redis_says(redis_url: str) -> None:
    store = RedisStore(redis_url)
    kept, clock = Rollouts(store), Clock()
    made, of = split(0.0)
    follower = RolloutFollower(store, made, clock=clock)

    async def strange(models: list[str]) -> dict[str, Rollout]:
        raise RuntimeError("a client that is broken")

    await kept.start(rollout(0.5), 60)
    await follower.look()
    clock.now_s = 59.0
    await follower.look()  # Redis' clock was put back: it still says 60 seconds
    assert made.share(of) == 0.5
    clock.now_s = 61.0
    await follower.look()
    assert made.share(of) == 0
    await kept.move(rollout(0.5, at="2026-11-27T12:01:00+00:00"), 60)
    await follower.look()
    assert made.share(of) == 0.5
    follower._rollouts.read = strange  # type: ignore[method-assign]
    await follower.look()
    assert made.share(of) == 0.5
    clock.now_s = 122.0
    await follower.look()
    assert made.share(of) == 0
    await store.aclose()


async def test_only_its_own_run_moves_a_rollout_anybody_may_end_it_and_what_is_over_stays_over(redis_url: str) -> None:
    store = RedisStore(redis_url)
    kept = Rollouts(store)
    with pytest.raises(RolloutRefused, match="its lease ran out"):
        await kept.move(rollout(0.1), 60)
    await kept.start(rollout(0.05), 60)
    for refused in (
        kept.start(rollout(0.5, owner="another-run"), 60),
        kept.move(rollout(0.5, owner="another-run"), 60),
    ):
        with pytest.raises(RolloutRefused, match="started by ada"):
            await refused
    with pytest.raises(RolloutRefused, match="stop it first"):
        await kept.clear("m")
    await kept.start(rollout(0.1), 60)  # the same run, come back
    await kept.end(rollout(0.0, state="rolled_back", owner="", reason="a person said so"))
    with pytest.raises(RolloutRefused, match="rolled_back, a person said so"):
        await kept.move(rollout(0.1), 60)
    await kept.start(rollout(0.05), 60)
    await kept.end(rollout(1.0, state="promoted"))
    await kept.end(rollout(1.0, state="promoted"))  # its own run did not hear that it was done
    for other in (rollout(0.0, state="rolled_back"), rollout(1.0, state="promoted", owner="another-run")):
        with pytest.raises(RolloutRefused, match="it was ended: promoted"):
            await kept.end(other)
    with pytest.raises(RolloutRefused, match="promoted already"):
        await kept.start(rollout(0.05), 60)
    await kept.clear("m")
    with pytest.raises(RolloutRefused, match="no rollout of m to forget"):
        await kept.clear("m")
    await store.aclose()


async def test_a_value_that_cannot_be_understood_is_no_share_and_stops_no_worker(redis_url: str) -> None:
    store, clock = RedisStore(redis_url), Clock()
    kept = Rollouts(store)
    made, of = split(0.0)
    follower = RolloutFollower(store, made, clock=clock)
    await kept.start(rollout(0.5), 60)
    await follower.look()
    for strange in (b"nonsense", b'{"state":"paused"}', b"\xff\xfe"):
        await store.write_value("{callgate-rollout}:m", strange, 60)
        await follower.look()
        assert made.share(of) == 0
    await store.aclose()


async def test_a_share_is_not_inherited_by_a_candidate_that_took_the_place_of_the_one_that_was_measured(
    redis_url: str,
) -> None:
    store = RedisStore(redis_url)
    kept = Rollouts(store)
    await kept.start(rollout(0.5), 60)
    for refused in (
        kept.move(rollout(0.5, candidate="newer"), 60),
        kept.end(rollout(1.0, candidate="newer", state="promoted")),
        kept.end(rollout(1.0, candidate="newer", state="promoted", owner="")),
    ):
        with pytest.raises(RolloutRefused, match=r"is of candidate; its candidate in .* is newer now"):
            await refused
    with pytest.raises(RolloutRefused, match="has another model or address now"):
        await kept.move(rollout(0.5, backend="another"), 60)
    assert (await kept.read(["m"]))["m"].candidate == "candidate"
    made, of = split(0.0)
    follower = RolloutFollower(store, made)
    await follower.look()
    assert made.share(of) == 0.5
    made.replace({"m": replace(of, candidate=replace(CANDIDATE, model="newer"))})
    await follower.look()
    assert made.share(made.routes["m"]) == 0
    await store.aclose()


async def test_a_lease_that_nobody_renews_is_gone_from_redis_too(redis_url: str) -> None:
    store = RedisStore(redis_url)
    await Rollouts(store).start(rollout(0.5), 0.001)
    while await Rollouts(store).read(["m"]):
        pass
    await store.aclose()


# --- over HTTP


def two_arms(backend: Backend) -> list[dict[str, Any]]:
    def deployment(name: str, model: str) -> dict[str, Any]:
        return {"name": name, "base_url": backend.base_url, "model": model}

    told = {"name": "echo", "policy": None, "deadline_s": 5, "cache_ttl_s": 60}
    return [
        {**told, "deployments": [deployment("champion", "echo")], "candidate": deployment("candidate", "fail-500")},
        {"name": "alone", "policy": None, "deployments": [deployment("alone", "echo")]},
    ]


async def admin(at: Gateway, method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {token}"}
    async with at.session.request(method, f"{at.url}/admin/rollouts{path}", json=body, headers=headers) as response:
        return response.status, await response.json()


async def test_a_rollout_over_http_from_its_start_to_its_end(
    tmp_path: Path, openai_backend: Backend, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLGATE_ADMIN_TOKEN", f"ada:{TOKEN}")
    settings = settings_for(tmp_path, openai_backend, redis_url, models=two_arms(openai_backend))
    begun = {"owner": OWNER, "share": 1.0, "lease_s": 60, "report": "sha256:0"}
    async with running(settings) as at:
        assert (await admin(at, "GET", "", token="wrong"))[0] == 401
        assert (await admin(at, "POST", "/echo/start", begun, token="wrong"))[0] == 401
        status, said = await admin(at, "GET", "")
        assert said == {
            "rollouts": [{"model": "echo", "candidate": "candidate", "arm": "canary", "state": "none", "share": 0.0}]
        }
        for path, body, expected, part in (
            ("/nobody/start", begun, 404, "does not exist here"),
            ("/alone/start", begun, 404, "has no candidate"),
            ("/echo/start", {**begun, "share": 1.5}, 400, "share"),
            ("/echo/start", {**begun, "share": 0}, 400, "share"),
            ("/echo/start", {**begun, "lease_s": 1e9}, 400, "lease_s"),
            ("/echo/start", {**begun, "by": "root"}, 400, "by"),
            ("/echo/end", {"outcome": "done"}, 400, "outcome"),
            ("/echo/share", {key: begun[key] for key in ("owner", "share", "lease_s")}, 409, "its lease ran out"),
        ):
            status, said = await admin(at, "POST", path, body)
            assert (status, part in said["error"]["message"]) == (expected, True), said
        status, said = await admin(at, "POST", "/echo/start", begun)
        assert (status, said["by"], said["candidate"]) == (200, "ada", "candidate")
        status, said = await admin(at, "GET", "")
        assert (said["rollouts"][0]["share"], said["rollouts"][0]["report"]) == (1.0, "sha256:0")
        assert 0 < said["rollouts"][0]["lease_s"] <= 60
        async with at.session.get(f"{at.url}/metrics") as response:
            assert 'callgate_rollout_share{candidate="candidate",model="echo"}' in await response.text()
        assert "owner" not in said["rollouts"][0]
        status, said = await admin(at, "POST", "/echo/end", {"outcome": "rolled_back", "reason": "enough seen"})
        assert (status, said["share"], said["report"]) == (200, 0.0, "sha256:0")
        assert (await admin(at, "POST", "/echo/clear", {}))[0] == 200
        store = RedisStore(redis_url)
        await Rollouts(store).start(rollout(0.5, model="alone", candidate="gone"), 60)
        status, said = await admin(at, "POST", "/alone/end", {"outcome": "rolled_back"})  # no candidate here any more
        assert (status, said["candidate"], said["share"]) == (200, "gone", 0.0)
        await store.aclose()


async def test_a_worker_that_starts_knows_the_share_and_caches_nothing_meanwhile(
    tmp_path: Path, openai_backend: Backend, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLGATE_ADMIN_TOKEN", f"ada:{TOKEN}")
    store = RedisStore(redis_url)
    there = Deployment("candidate", "fail-500", base_url=openai_backend.base_url)
    await Rollouts(store).start(rollout(1.0, model="echo", backend=backend_of(there)), 600)
    await store.aclose()
    settings = settings_for(tmp_path, openai_backend, redis_url, models=two_arms(openai_backend))
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    async with running(settings) as at:
        for _ in range(2):
            status, _, response = await at.post("/v1/chat/completions", body)
            assert (status, response.headers["x-callgate-deployment"]) == (
                200,
                "champion",
            )  # after the candidate failed
            assert response.headers["x-callgate-cache"] == "bypass"
    assert [seen["model"] for seen in openai_backend.bodies].count("fail-500") == 2


@pytest.mark.parametrize(("share", "told"), [(0.0, ["miss", "hit"]), (1.0, ["miss", "miss"])])
async def test_an_answer_given_while_a_rollout_began_is_not_stored(
    share: float, told: list[str], redis_url: str
) -> None:
    store, (made, of) = RedisStore(redis_url), split(share, champion="old STOP", candidate="new STOP")
    of, cache, seen = replace(of, cache_ttl_s=60.0), Cache(store), []
    for _ in told:
        request = asked("c")
        request.record.finish_reason = "stop"
        caller = Caller("k", "k", Limits(None, None))
        async with aclosing(cache.through(caller, of, request, made.call(of, request))) as chunks:
            assert [chunk async for chunk in chunks]
        seen.append(request.record.cache)
    assert seen == told
    await store.aclose()


def test_a_candidate_is_checked_like_a_deployment(tmp_path: Path, openai_backend: Backend, redis_url: str) -> None:
    models = two_arms(openai_backend)
    models[0]["candidate"]["name"] = "champion"
    with pytest.raises(Exception, match="names two different deployments"):
        settings_for(tmp_path, openai_backend, redis_url, models=models)


@pytest.mark.parametrize(
    ("deployment", "candidate"), [({"arm": "canary"}, {}), ({"name": "canary"}, {}), ({"arm": "a"}, {"arm": "a"})]
)
def test_two_arms_of_one_name_are_refused(
    deployment: dict[str, str], candidate: dict[str, str], tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    models = two_arms(openai_backend)
    models[0]["deployments"][0] |= deployment
    models[0]["candidate"] |= candidate
    with pytest.raises(Exception, match="is the arm of the candidate and of a deployment"):
        settings_for(tmp_path, openai_backend, redis_url, models=models)
