"""The share of a model's calls that its candidate answers: one value a model in Redis, under a lease, which every worker follows.

A share that nobody renews ends by itself, and the champion answers every call again; workers count the lease down on their own clock, so that
this also holds while Redis is away. It knows nothing of why a share grows or falls (evals/rollout/run.py decides that).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec
import structlog

from gateway.routing import Router
from gateway.stores import RedisStore, StoreError
from gateway.types import Deployment

P = "{callgate-rollout}"  # one slot of a cluster, so that one script may read all of it
POLL_S = 1.0
State = Literal["running", "promoted", "rolled_back"]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]

_READ = """
local out = {}
for number, name in ipairs(KEYS) do
  out[2 * number - 1] = redis.call('GET', name) or ''
  out[2 * number] = redis.call('PTTL', name)
end
return out
"""
_WRITE = """
local kept = redis.call('GET', KEYS[1])
local now = kept and cjson.decode(kept)
local mine = ARGV[2] == '' or (now and now.owner == ARGV[2])
if ARGV[1] == 'start' then
  if now and now.state == 'running' and not mine then return {'held', now.by} end
  if now and now.state == 'promoted' and now.candidate == ARGV[5] then return {'promoted', now.by} end
else
  local again = now and mine and ARGV[2] ~= '' and now.state == cjson.decode(ARGV[3]).state
  if ARGV[1] == 'end' and again then return {'done'} end
  if not now or now.state ~= 'running' then return {'over', now and now.state or '', now and now.reason or ''} end
  if not mine then return {'held', now.by} end
  local told = cjson.decode(ARGV[3])
  if now.candidate ~= told.candidate or now.backend ~= told.backend then return {'other', now.candidate} end
end
if tonumber(ARGV[4]) > 0 then redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
else redis.call('SET', KEYS[1], ARGV[3]) end
return {'done'}
"""
_CLEAR = """
local kept = redis.call('GET', KEYS[1])
if not kept then return {'none'} end
if cjson.decode(kept).state == 'running' then return {'running'} end
redis.call('DEL', KEYS[1])
return {'done'}
"""


class RolloutRefused(Exception):
    """A change of a share that must not be; nothing has changed."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """``share`` of the calls of ``model`` go to its ``candidate`` for as long as that has this ``backend`` (see backend_of). ``owner`` is the run that may move it, ``by`` the person whose token it used,
    ``report`` the digest of the gate report it rests on, ``at`` ISO 8601 in UTC. ``lease_s`` is what is left of a running one.
    """

    model: str
    candidate: str
    backend: str
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    state: State
    owner: str
    by: str
    at: str
    report: str = ""
    reason: str = ""
    lease_s: float | None = None


class Rollouts:
    """The values as they are kept."""

    def __init__(self, store: RedisStore) -> None:
        self._read, self._write, self._clear = (store.script(source) for source in (_READ, _WRITE, _CLEAR))

    async def read(self, models: list[str]) -> dict[str, Rollout]:
        """By model; those that have none, or one that cannot be understood, are left out: the champion answers. Raises: StoreError."""
        if not models:
            return {}
        found = await self._read.run(list(map(_key, models)), [])
        read: dict[str, Rollout] = {}
        for model, kept, left_ms in zip(models, found[::2], found[1::2], strict=True):
            try:
                one = msgspec.json.decode(kept, type=Rollout) if kept else None
            except (msgspec.DecodeError, UnicodeDecodeError):
                one = None
            if one is not None:
                read[model] = msgspec.structs.replace(one, lease_s=_left_s(left_ms))
        return read

    async def start(self, rollout: Rollout, lease_s: float) -> None:
        """Raises: RolloutRefused where another run holds this model or its candidate is promoted already; StoreError."""
        await self._put("start", rollout, lease_s)

    async def move(self, rollout: Rollout, lease_s: float) -> None:
        """Another share, or the same for another ``lease_s``. Raises: RolloutRefused where it is over, another's, or of another candidate; StoreError."""
        await self._put("move", rollout, lease_s)

    async def end(self, rollout: Rollout) -> None:
        """For good: promoted (the candidate answers every call) or rolled back. An empty ``owner`` ends anybody's. Told again
        by the same run, whose answer was lost, it changes nothing. Raises: as `move`."""
        await self._put("end", rollout, 0)

    async def clear(self, model: str) -> None:
        """Forgets one that is over: callgate.yaml alone says who answers. Raises: RolloutRefused, StoreError."""
        said = (await self._clear.run([_key(model)], []))[0].decode()
        if said == "running":
            raise RolloutRefused(f"a rollout of {model} is running; stop it first")
        if said == "none":
            raise RolloutRefused(f"there is no rollout of {model} to forget")

    async def _put(self, how: str, rollout: Rollout, lease_s: float) -> None:
        value = msgspec.json.encode(rollout).decode()
        args: list[str | int | float] = [how, rollout.owner, value, math.ceil(lease_s * 1000), rollout.candidate]
        said, *about = (part.decode() for part in await self._write.run([_key(rollout.model)], args))
        if said == "held":
            raise RolloutRefused(
                f"another run holds the rollout of {rollout.model} (started by {about[0]}); stop that one first"
            )
        if said == "promoted":
            message = f"{rollout.candidate} is promoted already (by {about[0]}); make it a deployment in callgate.yaml and clear the rollout"
            raise RolloutRefused(message)
        if said == "other":
            now = f"is {rollout.candidate} now" if about[0] != rollout.candidate else "has another model or address now"
            message = f"the rollout of {rollout.model} is of {about[0]}; its candidate in callgate.yaml {now}, which needs a rollout of its own"
            raise RolloutRefused(message)
        if said == "over":
            ended = f"it was ended: {about[0]}, {about[1]}" if about[0] else "its lease ran out"
            raise RolloutRefused(f"no rollout of {rollout.model} is running; {ended}")


class RolloutFollower:
    """A worker's side: keeps the router's shares at what is in Redis, looking every ``poll_s``."""

    def __init__(
        self, store: RedisStore, router: Router, *, poll_s: float = POLL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rollouts = Rollouts(store)
        self._router = router
        self._poll_s = poll_s
        self._clock = clock
        self._known: dict[str, tuple[Rollout, float]] = {}  # and until when it holds
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("rollouts")

    def start(self) -> None:
        self._task = asyncio.create_task(self._looking())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Takes over what is kept now. What was not renewed since it was first seen ends with the lease that it had then: while Redis is away, answers nonsense, or
        has had its clock put back.
        """
        models = [route.model for route in self._router.routes.values() if route.candidate is not None]
        asked_s = self._clock()
        try:
            found = await self._rollouts.read(models)
        except Exception as error:  # noqa: BLE001 - whatever it is, leases must still end
            found = None
            if not isinstance(error, StoreError):
                self._log.warning("rollouts_not_read", error=type(error).__name__)
        if found is not None:
            self._known = {model: (one, self._until_s(one, asked_s)) for model, one in found.items()}
        now_s = self._clock()
        running = {model: one for model, (one, until_s) in self._known.items() if until_s > now_s}
        self._take({(m, one.candidate): one.share for m, one in running.items() if one.backend == self._backend(m)})

    def _until_s(self, one: Rollout, asked_s: float) -> float:
        until_s = asked_s + (one.lease_s or math.inf)
        before, before_s = self._known.get(one.model, (None, math.inf))
        renewed = before is None or msgspec.structs.replace(before, lease_s=one.lease_s) != one
        return until_s if renewed else min(until_s, before_s)

    def _backend(self, model: str) -> str:
        """That of the model's candidate as it is configured now."""
        route = self._router.routes.get(model)
        return backend_of(route.candidate) if route is not None and route.candidate is not None else ""

    def _take(self, shares: dict[tuple[str, str], float]) -> None:
        before = dict(self._router.shares)
        if shares == before:
            return
        self._router.shares = shares
        for model, candidate in shares | before:
            share, old = shares.get((model, candidate), 0.0), before.get((model, candidate), 0.0)
            if share != old:
                self._log.warning("rollout_share", model=model, candidate=candidate, share=share, before=old)

    async def _looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._poll_s)


@dataclass(frozen=True, slots=True)
class ShareFigure:
    """For /metrics: one model that has a candidate."""

    labels: Mapping[str, str]
    value: float
    name: str = "callgate_rollout_share"
    help: str = "Of this model's calls, the share that its candidate answers."


def figures(router: Router) -> list[ShareFigure]:
    return [
        ShareFigure({"model": route.model, "candidate": route.candidate.name}, router.share(route))
        for route in router.routes.values()
        if route.candidate is not None
    ]


def backend_of(deployment: Deployment) -> str:
    """What answers behind a deployment's name, as sixteen hexadecimal digits: another model or address is another candidate."""
    about = "\0".join((deployment.model, deployment.base_url, deployment.provider))
    return blake2b(about.encode(), digest_size=8).hexdigest()


def _key(model: str) -> str:
    return f"{P}:{model}"


def _left_s(left_ms: int) -> float | None:
    return max(left_ms, 1) / 1000 if left_ms >= 0 else None
