"""One pointer a policy, in Redis, that every worker of every replica follows; a version is activated everywhere or nowhere.

Two phases: a proposal is compiled by every living worker, which acknowledges or refuses it; the pointer moves, by one script, only if all have
acknowledged and it still points to where the proposer thought. Workers hear of it by pub/sub and look every ``poll_s`` besides. Redis away:
everybody keeps running what they run. It knows nothing of rails: what a version is, is somebody else's `build`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import structlog

from gateway.policies import PolicyTable
from gateway.settings import SettingsError
from gateway.stores import RedisStore, StoreError

P = "{callgate-policy}"  # one slot of a cluster, so that one script may touch all of it
CHANNEL = f"{P}:changed"
WORKERS, SEEN = f"{P}:workers", f"{P}:seen"
ALIVE_S = 6.0  # a worker that was not heard of for so long is not waited for
RETRY_S = 30.0

_BEAT = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], at, ARGV[1])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', at - 60)) do
  redis.call('HDEL', KEYS[1], gone)
  redis.call('ZREM', KEYS[2], gone)
end
return {}
"""
_ALIVE = """
local now = redis.call('TIME')
local out = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now[1] + now[2] / 1000000 - ARGV[1], '+inf')) do
  table.insert(out, id)
  table.insert(out, redis.call('HGET', KEYS[1], id) or '{}')
end
return out
"""
_ACTIVATE = """
local now = redis.call('TIME')
local current = redis.call('GET', KEYS[1])
local digest = ''
if current then digest = cjson.decode(current).digest end
if digest ~= ARGV[1] then return {'moved', digest} end
if (redis.call('GET', KEYS[4]) or '') ~= ARGV[4] then return {'withdrawn'} end
local waiting = {'waiting'}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now[1] + now[2] / 1000000 - ARGV[3], '+inf')) do
  if (redis.call('HGET', KEYS[3], id) or '') ~= 'ready' then table.insert(waiting, id) end
end
if #waiting > 1 then return waiting end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[4])
redis.call('PUBLISH', ARGV[5], 'active')
return {'done'}
"""


class Digested(Protocol):
    @property
    def digest(self) -> str: ...
    async def aclose(self) -> None: ...


G = TypeVar("G", bound=Digested)
Bundle = Mapping[str, str]
"""A version as it travels: path in the policy's directory to text."""


class ApplyRefused(Exception):
    """A version was not activated anywhere, and why; everything runs what it ran."""


def active_key(name: str) -> str:
    return f"{P}:active:{name}"


def proposal_key(name: str) -> str:
    return f"{P}:proposal:{name}"


def bundle_key(digest: str) -> str:
    return f"{P}:bundle:{digest}"


class Follower(Generic[G]):
    """A worker's side: prepares what is proposed, swaps to what is active, and says what it runs.

    ``build`` makes a version from its bundle, or raises SettingsError. ``swapped`` hears (name, digest) after each swap.
    ``complaints``: what is wrong with the files of policies, told beside.
    """

    def __init__(
        self,
        store: RedisStore,
        table: PolicyTable[G],
        build: Callable[[str, str, Bundle], Awaitable[G]],
        *,
        worker: str,
        follow: bool,
        poll_s: float,
        swapped: Callable[[str, str], None],
        complaints: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._table = table
        self._build = build
        self._worker = worker
        self._follow = follow
        self._poll_s = poll_s
        self._swapped = swapped
        self._clock = clock
        self._beat = store.script(_BEAT)
        self._wake = asyncio.Event()
        self._ready: dict[tuple[str, str], G] = {}
        self._acknowledged: dict[str, str] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._complaints = complaints
        self._away = False
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("policies")

    async def start(self) -> None:
        await self.beat()
        self._tasks = [asyncio.create_task(work()) for work in (self._looking, self._beating, self._listening)]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._store.delete_from_hash(WORKERS, self._worker)
            await self._store.bounded(self._store.client.zrem(SEEN, self._worker))
        except StoreError:
            pass  # it is forgotten in a minute
        for guard in self._ready.values():
            await guard.aclose()

    async def beat(self) -> None:
        """Tells what this worker runs."""
        running = {name: self._table[name].digest for name in self._table.names()}
        failed = {digest: reason for digest, (_, reason) in self._failed.items()}
        failed |= {name: reason for name, reason in self._complaints.items() if reason}
        state = json.dumps({"runs": running, "failed": failed, "follows": self._follow})
        try:
            await self._beat.run([WORKERS, SEEN], [self._worker, state])
        except StoreError:
            pass  # said by the loop that looks

    async def look(self) -> None:
        """Prepares what is proposed and swaps to what is active. Raises: StoreError."""
        names = self._table.names()
        keys = [key(name) for name in names for key in (active_key, proposal_key)]
        values = await self._store.read_values(keys) if keys else []
        for name, active, proposal in zip(names, values[::2], values[1::2], strict=True):
            if active is not None:
                await self._move(name, json.loads(active)["digest"])
            if proposal is not None:
                await self._answer(name, json.loads(proposal))
            else:
                await self._forget(name)

    async def _move(self, name: str, digest: str) -> None:
        if self._table[name].digest == digest:
            return
        failed = self._failed.get(digest)
        if failed is not None and self._clock() - failed[0] < RETRY_S:
            return
        try:
            guard = self._ready.pop((name, digest), None) or await self._made(name, digest)
        except SettingsError as error:
            self._failed[digest] = (self._clock(), str(error))
            self._log.error("policy_refused", policy=name, digest=digest[:12], reason=str(error))
            return
        self._failed.pop(digest, None)
        self._table.swap(name, guard)
        self._swapped(name, digest)
        self._log.warning("policy_swapped", policy=name, digest=digest[:12])
        await self.beat()

    async def _answer(self, name: str, proposal: Mapping[str, str]) -> None:
        if self._acknowledged.get(name) == proposal["id"]:
            return
        digest = proposal["digest"]
        answer = "ready"
        if self._table[name].digest != digest and (name, digest) not in self._ready:
            try:
                self._ready[name, digest] = await self._made(name, digest)
            except SettingsError as error:
                answer = f"refused: {error}"
                self._log.error("policy_refused", policy=name, digest=digest[:12], reason=str(error))
        key = acks_key(proposal["id"])
        await self._store.write_hash(key, self._worker, answer.encode())
        await self._store.bounded(self._store.client.expire(key, 600))
        self._acknowledged[name] = proposal["id"]

    async def _forget(self, name: str) -> None:
        """Closes what was prepared for a proposal that is over."""
        self._acknowledged.pop(name, None)
        for key in [key for key in self._ready if key[0] == name]:
            await self._ready.pop(key).aclose()

    async def _made(self, name: str, digest: str) -> G:
        coded = await self._store.read_value(bundle_key(digest))
        bundle: Bundle = json.loads(coded) if coded is not None else {}
        return await self._build(name, digest, bundle)

    async def _looking(self) -> None:
        while True:
            if self._follow:
                try:
                    await self.look()
                    away = False
                except StoreError as error:
                    away = True
                    if not self._away:
                        self._log.error("policy_pointer_unreachable", reason=str(error))
                self._away = away
            try:
                await asyncio.wait_for(self._wake.wait(), self._poll_s)
            except TimeoutError:
                pass
            self._wake.clear()

    async def _beating(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.beat()

    async def _listening(self) -> None:
        while self._follow:
            try:
                async for _ in self._store.messages(CHANNEL):
                    self._wake.set()
            except StoreError:
                await asyncio.sleep(self._poll_s)


def acks_key(proposal: str) -> str:
    return f"{P}:acks:{proposal}"


@dataclass(frozen=True, slots=True)
class Activation:
    """What came of an apply: how many workers compiled it, and how long until every one of them ran it (None: not all have, yet)."""

    workers: int
    prepared_s: float
    converged_s: float | None
    behind: tuple[str, ...] = field(default=())


class Coordinator:
    """The proposer's side: whoever applies or rolls back. ``clock`` counts seconds."""

    def __init__(self, store: RedisStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._alive = store.script(_ALIVE)
        self._activate = store.script(_ACTIVATE)

    async def active(self, name: str) -> str | None:
        """The digest that the pointer points to. Raises: StoreError."""
        value = await self._store.read_value(active_key(name))
        return str(json.loads(value)["digest"]) if value is not None else None

    async def adopt(self, name: str, digest: str, bundle: Bundle) -> str:
        """Points to this version if the pointer points nowhere. Returns the digest it then points to. Raises: StoreError."""
        await self._offer(digest, bundle)
        redis = self._store.client
        await self._store.bounded(redis.set(active_key(name), json.dumps({"digest": digest}), nx=True))
        return await self.active(name) or digest

    async def point(self, name: str, digest: str, bundle: Bundle) -> None:
        """Points to this version whatever was active: for when nobody follows. Raises: StoreError."""
        await self._offer(digest, bundle)
        await self._store.bounded(self._store.client.set(active_key(name), json.dumps({"digest": digest})))

    async def workers(self) -> dict[str, dict[str, Any]]:
        """The living workers and what each says of itself. Raises: StoreError."""
        flat = await self._alive.run([WORKERS, SEEN], [ALIVE_S])
        return {bytes(i).decode(): json.loads(state) for i, state in zip(flat[::2], flat[1::2], strict=True)}

    async def apply(
        self,
        name: str,
        base: str,
        digest: str,
        bundle: Bundle,
        *,
        proposal: str,
        timeout_s: float,
        wait_s: float = 10.0,
    ) -> Activation:
        """Moves the pointer from ``base`` to ``digest`` once every living worker has compiled it.

        Raises: ApplyRefused, with every worker's reason; StoreError.
        """
        begun = self._clock()
        if not await self.workers():
            raise ApplyRefused("no worker is alive, so nobody could say whether it compiles; start a gateway")
        await self._offer(digest, bundle)
        coded = json.dumps({"id": proposal, "digest": digest})
        redis = self._store.client
        taken = await self._store.bounded(
            redis.set(proposal_key(name), coded, nx=True, px=int(timeout_s * 1000) + 5000)
        )
        if not taken:
            raise ApplyRefused("another version is being applied right now; wait for it to end")
        try:
            await self._store.publish(CHANNEL, "proposal")
            await self._until_ready(name, base, digest, coded, proposal, begun + timeout_s)
        except BaseException:
            await self._store.bounded(redis.delete(proposal_key(name)))
            await self._store.publish(CHANNEL, "withdrawn")
            raise
        prepared_s = self._clock() - begun
        behind = await self._until_converged(name, digest, self._clock() + wait_s)
        converged_s = None if behind else self._clock() - begun - prepared_s
        return Activation(len(await self.workers()), prepared_s, converged_s, tuple(behind))

    async def _offer(self, digest: str, bundle: Bundle) -> None:
        await self._store.bounded(self._store.client.set(bundle_key(digest), json.dumps(dict(bundle))))

    async def _until_ready(self, name: str, base: str, digest: str, coded: str, proposal: str, until: float) -> None:
        keys = [active_key(name), SEEN, acks_key(proposal), proposal_key(name)]
        while True:
            answers = await self._store.read_hash(acks_key(proposal))
            refused = {k.decode(): v.decode() for k, v in answers.items() if v != b"ready"}
            if refused:
                said = "; ".join(f"{worker}: {reason}" for worker, reason in sorted(refused.items()))
                raise ApplyRefused(f"not activated anywhere, since it does not compile everywhere: {said}")
            word, *rest = [
                bytes(part).decode()
                for part in await self._activate.run(
                    keys, [base, json.dumps({"digest": digest}), ALIVE_S, coded, CHANNEL]
                )
            ]
            if word == "done":
                return
            if word == "moved":
                now = rest[0][:12] or "nothing"
                raise ApplyRefused(f"the plan was made against {base[:12]}, and {now} runs now; plan again")
            if word == "withdrawn" or self._clock() > until:
                raise ApplyRefused(f"not activated anywhere: no word in time from {', '.join(rest) or 'the proposal'}")
            await asyncio.sleep(0.01)

    async def _until_converged(self, name: str, digest: str, until: float) -> list[str]:
        while True:
            states = await self.workers()
            behind = [worker for worker, state in states.items() if state.get("runs", {}).get(name, digest) != digest]
            if not behind or self._clock() > until:
                return behind
            await asyncio.sleep(0.01)
