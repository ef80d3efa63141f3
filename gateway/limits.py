"""Requests and tokens per minute for every key: reserved on entry, settled on exit, in Redis.

Each limit is a token bucket that holds one minute's worth and refills evenly. One Lua script changes buckets atomically, so that any
number of workers together never let a key overspend: what was reserved is a bound on what is used, and a settlement that turns out
dearer is a debt that the next requests wait for. Operations that arrive while a script runs go together into the next one (with
32 requests in flight this makes one round trip of eight). It knows neither models nor HTTP.

Fails closed by default: without Redis a limited key is refused (503), unless the settings say to let it pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.errors import RateLimited, StoreUnavailable
from gateway.stores import RedisScript, RedisStore, StoreError
from gateway.types import Caller

# Per operation: KEYS[i] the key's bucket; five arguments: requests a minute, tokens a minute (0: unlimited), requests and tokens wanted,
# and 1 for a reservation (all or nothing) or 0 for a settlement (always applied; a negative number gives back).
# Buckets hold thousandths, as integers, so that nothing is lost to rounding. Redis's own clock serves every worker.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  local rpm, tpm = tonumber(ARGV[a + 1]) * 1000, tonumber(ARGV[a + 2]) * 1000
  local want_r, want_t = tonumber(ARGV[a + 3]) * 1000, tonumber(ARGV[a + 4]) * 1000
  local kept = redis.call('HMGET', key, 'r', 't', 'at')
  local at = tonumber(kept[3]) or now
  local passed = math.max(0, now - at)
  local r = math.min(rpm, (tonumber(kept[1]) or rpm) + math.floor(passed * rpm / 60000))
  local t = math.min(tpm, (tonumber(kept[2]) or tpm) + math.floor(passed * tpm / 60000))
  local wait, short = 0, 0
  if ARGV[a + 5] == '1' then
    if rpm > 0 and r < want_r then wait = math.ceil((want_r - r) * 60000 / rpm); short = 1 end
    if tpm > 0 and t < want_t then
      local w = math.ceil((want_t - t) * 60000 / tpm)
      if w > wait then wait = w; short = 2 end
    end
  end
  if short == 0 then r = r - want_r; t = t - want_t end
  redis.call('HSET', key, 'r', r, 't', t, 'at', now)
  redis.call('PEXPIRE', key, 600000)
  out[i] = {short, wait, math.floor(r / 1000), math.floor(t / 1000)}
end
return out
"""

MAX_BATCH = 256


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may spend, and what is left after it. ``None``: that limit does not apply."""

    caller: Caller
    tokens: int
    remaining_requests: int | None = None
    remaining_tokens: int | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's x-ratelimit-* headers; ``reset`` is the time until the bucket is full again."""
        limits = self.caller.limits
        out: list[tuple[bytes, bytes]] = []
        for name, limit, left in (
            (b"requests", limits.requests_per_minute, self.remaining_requests),
            (b"tokens", limits.tokens_per_minute, self.remaining_tokens),
        ):
            if limit is not None and left is not None:
                out.append((b"x-ratelimit-limit-" + name, b"%d" % limit))
                out.append((b"x-ratelimit-remaining-" + name, b"%d" % max(0, left)))
                out.append((b"x-ratelimit-reset-" + name, b"%dms" % max(0, (limit - left) * 60000 // limit)))
        return out


@dataclass(slots=True)
class _Operation:
    caller: Caller
    requests: int
    tokens: int
    reserve: bool
    done: asyncio.Future[Any] | None


class Limiter:
    """Reserves and settles. ``when_down``: what happens to limited keys while Redis is away."""

    def __init__(self, store: RedisStore, when_down: Literal["refuse", "allow"] = "refuse") -> None:
        self._script: RedisScript = store.script(_SCRIPT)
        self._when_down = when_down
        self._waiting: list[_Operation] = []
        self._flusher: asyncio.Task[None] | None = None
        self.unsettled = 0

    async def reserve(self, caller: Caller, tokens: int) -> Grant:
        """Takes one request and ``tokens`` from the key's buckets.

        Raises: RateLimited with the seconds to wait; StoreUnavailable when Redis is away and the settings refuse.
        """
        limits = caller.limits
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            return Grant(caller, 0)
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            raise RateLimited(
                f"This request may use {tokens} tokens, more than the key's {limits.tokens_per_minute} a minute; "
                "shorten it or set max_tokens lower.",
                code="tokens_exceed_limit",
            )
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add(_Operation(caller, 1, tokens, True, done))
        try:
            short, wait_ms, requests_left, tokens_left = await done
        except StoreError:
            if self._when_down == "allow":
                return Grant(caller, 0)
            raise StoreUnavailable(
                "Limits cannot be checked at the moment; try again soon.", retry_after_s=1.0
            ) from None
        if short:
            what = "requests" if short == 1 else "tokens"
            limit = limits.requests_per_minute if short == 1 else limits.tokens_per_minute
            raise RateLimited(
                f"Rate limit reached: {limit} {what} a minute for this key. Try again in {wait_ms / 1000:.1f} s.",
                retry_after_s=wait_ms / 1000,
            )
        return Grant(
            caller,
            tokens,
            requests_left if limits.requests_per_minute is not None else None,
            tokens_left if limits.tokens_per_minute is not None else None,
        )

    def settle(self, grant: Grant, used_tokens: int) -> None:
        """Gives back what was reserved and not used, or takes what was used beyond it. Never waits and never fails."""
        if grant.caller.limits.tokens_per_minute is not None and grant.tokens and used_tokens != grant.tokens:
            self._add(_Operation(grant.caller, 0, used_tokens - grant.tokens, False, None))

    def refund(self, grant: Grant) -> None:
        """Gives back all the tokens of a request that no model was asked about; the request itself still counts."""
        self.settle(grant, 0)

    def _add(self, operation: _Operation) -> None:
        self._waiting.append(operation)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                results = await self._script.run(*_arguments(batch))
            except StoreError as error:
                self.unsettled += sum(operation.done is None for operation in batch)
                for operation in batch:
                    if operation.done is not None and not operation.done.done():
                        operation.done.set_exception(error)
                continue
            for operation, result in zip(batch, results, strict=True):
                if operation.done is not None and not operation.done.done():
                    operation.done.set_result(result)
                elif operation.done is not None and result[0] == 0:
                    # Its caller hung up while waiting: what it took goes back.
                    self._waiting.append(_Operation(operation.caller, 0, -operation.tokens, False, None))

    async def aclose(self) -> None:
        """Waits until everything is settled."""
        if self._flusher is not None:
            await self._flusher


def _arguments(batch: Sequence[_Operation]) -> tuple[list[str], list[int]]:
    # The braces make every key hash to one slot, so that a script may touch several of them on a Redis cluster too.
    keys = [f"{{callgate:limits}}:{operation.caller.key_id}" for operation in batch]
    args: list[int] = []
    for operation in batch:
        limits = operation.caller.limits
        args += (
            limits.requests_per_minute or 0,
            limits.tokens_per_minute or 0,
            operation.requests if limits.requests_per_minute else 0,
            operation.tokens if limits.tokens_per_minute else 0,
            int(operation.reserve),
        )
    return keys, args
