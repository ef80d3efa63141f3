"""Requests and tokens per minute for every key: reserved on entry, settled on exit, in Redis.

Each limit is a token bucket that holds one minute's worth and refills evenly. One Lua script changes buckets atomically, so that any
number of workers together never let a key overspend: what was reserved is a bound on what is used, and a settlement that turns out
dearer is a debt that the next requests wait for. Operations that arrive while a script runs go together into the next one (with
32 requests in flight this makes one round trip of eight).

Keys with large limits are served from leases: a hundredth of a minute's worth is taken from the bucket at once and spent here without a
round trip (115 microseconds each, 2026-11). A lease is taken before it is spent, so nothing is ever overspent; its price is that up to a
hundredth of the limit a worker may be parked for at most two seconds. It knows neither models nor HTTP.

Fails closed by default: without Redis a limited key is refused (503), unless the settings say to let it pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct

from gateway.errors import RateLimited, StoreUnavailable
from gateway.stores import RedisScript, RedisStore, StoreError
from gateway.types import Caller

# Per operation: KEYS[i] the key's bucket; seven arguments: requests a minute, tokens a minute (0: unlimited), requests and tokens wanted,
# 1 for a reservation (all or nothing) or 0 for a settlement (always applied; a negative number gives back), and the requests and tokens
# of a lease, which is given whole when the bucket has it beside what is wanted, or not at all.
# Buckets hold thousandths, as integers, so that nothing is lost to rounding. Redis's own clock serves every worker.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 7
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
  local leased = 0
  if short == 0 then
    r = r - want_r; t = t - want_t
    local lease_r, lease_t = tonumber(ARGV[a + 6]) * 1000, tonumber(ARGV[a + 7]) * 1000
    if lease_r + lease_t > 0 and (rpm == 0 or r >= lease_r) and (tpm == 0 or t >= lease_t) then
      r = r - lease_r; t = t - lease_t; leased = 1
    end
  end
  redis.call('HSET', key, 'r', r, 't', t, 'at', now)
  redis.call('PEXPIRE', key, 600000)
  out[i] = {short, wait, math.floor(r / 1000), math.floor(t / 1000), leased}
end
return out
"""

MAX_BATCH = 256
LEASE_SHARE = 100  # a lease is this part of a minute's limit
LEASED_FROM = (
    1_000,
    500_000,
)  # requests and tokens a minute from which keys are served by leases; below, every request asks Redis
LEASE_IDLE_S = 1.0  # a lease that was not used this long goes back


class Grant(Struct, frozen=True):
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
    lease: _Lease | None = None


@dataclass(slots=True)
class _Lease:
    """What this worker may spend of one key without asking. ``left_*``: what the bucket held when it was last asked."""

    caller: Caller
    block: tuple[int, int]
    requests: int = 0
    tokens: int = 0
    left_requests: int = 0
    left_tokens: int = 0
    asked: bool = False
    used: bool = True

    def take(self, tokens: int) -> bool:
        """One request and these tokens, if they are here."""
        limits = self.caller.limits
        if limits.requests_per_minute is not None and self.requests < 1:
            return False
        if limits.tokens_per_minute is not None and self.tokens < tokens:
            return False
        self.requests -= 1
        self.tokens -= tokens
        self.used = True
        return True


class Limiter:
    """Reserves and settles. ``when_down``: what happens to limited keys while Redis is away."""

    def __init__(self, store: RedisStore, when_down: Literal["refuse", "allow"] = "refuse") -> None:
        self._script: RedisScript = store.script(_SCRIPT)
        self._when_down = when_down
        self._waiting: list[_Operation] = []
        self._flusher: asyncio.Task[None] | None = None
        self._leases: dict[str, _Lease] = {}
        self._sweep: asyncio.TimerHandle | None = None
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
        lease = self._lease(caller)
        if lease is not None and lease.take(tokens):
            return self._granted(caller, tokens, lease.left_requests + lease.requests, lease.left_tokens + lease.tokens)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asking = lease is not None and not lease.asked
        if lease is not None:
            lease.asked = True
        self._add(_Operation(caller, 1, tokens, True, done, lease if asking else None))
        try:
            short, wait_ms, requests_left, tokens_left, _ = await done
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
        if lease is not None:
            requests_left, tokens_left = requests_left + lease.requests, tokens_left + lease.tokens
        return self._granted(caller, tokens, requests_left, tokens_left)

    @staticmethod
    def _granted(caller: Caller, tokens: int, requests_left: int, tokens_left: int) -> Grant:
        limits = caller.limits
        return Grant(
            caller,
            tokens,
            requests_left if limits.requests_per_minute is not None else None,
            tokens_left if limits.tokens_per_minute is not None else None,
        )

    def settle(self, grant: Grant, used_tokens: int) -> None:
        """Gives back what was reserved and not used, or takes what was used beyond it. Never waits and never fails."""
        if grant.caller.limits.tokens_per_minute is None or not grant.tokens or used_tokens == grant.tokens:
            return
        more = used_tokens - grant.tokens
        lease = self._leases.get(grant.caller.key_id)
        if lease is not None and lease.caller is grant.caller and 0 <= lease.tokens - more <= 2 * lease.block[1]:
            lease.tokens -= more
        else:
            self._add(_Operation(grant.caller, 0, more, False, None))

    def refund(self, grant: Grant) -> None:
        """Gives back all the tokens of a request that no model was asked about; the request itself still counts."""
        self.settle(grant, 0)

    def _lease(self, caller: Caller) -> _Lease | None:
        """The lease of a key with large limits; a new one is empty."""
        lease = self._leases.get(caller.key_id)
        if lease is not None and lease.caller is caller:
            return lease
        rpm, tpm = caller.limits.requests_per_minute, caller.limits.tokens_per_minute
        if (rpm is not None and rpm < LEASED_FROM[0]) or (tpm is not None and tpm < LEASED_FROM[1]):
            return None
        if lease is not None:  # its limits have changed
            self._give_back(lease)
        lease = self._leases[caller.key_id] = _Lease(caller, ((rpm or 0) // LEASE_SHARE, (tpm or 0) // LEASE_SHARE))
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(LEASE_IDLE_S, self._return_idle)
        return lease

    def _return_idle(self) -> None:
        for key_id, lease in list(self._leases.items()):
            if lease.used or lease.asked:
                lease.used = False
            else:
                self._give_back(lease)
                del self._leases[key_id]
        again = bool(self._leases)
        self._sweep = asyncio.get_running_loop().call_later(LEASE_IDLE_S, self._return_idle) if again else None

    def _give_back(self, lease: _Lease) -> None:
        requests, tokens = max(0, lease.requests), max(0, lease.tokens)
        lease.requests = lease.tokens = 0
        if requests or tokens:
            self._add(_Operation(lease.caller, -requests, -tokens, False, None))

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
                    if operation.lease is not None:
                        operation.lease.asked = False
                    if operation.done is not None and not operation.done.done():
                        operation.done.set_exception(error)
                continue
            for operation, result in zip(batch, results, strict=True):
                if operation.lease is not None:
                    _filled(operation.lease, result)
                if operation.done is not None and not operation.done.done():
                    operation.done.set_result(result)
                elif operation.done is not None and result[0] == 0:
                    # Its caller hung up while waiting: what it took goes back.
                    self._waiting.append(_Operation(operation.caller, 0, -operation.tokens, False, None))

    async def aclose(self) -> None:
        """Gives leases back and waits until everything is settled."""
        if self._sweep is not None:
            self._sweep.cancel()
        for lease in self._leases.values():
            self._give_back(lease)
        if self._flusher is not None:
            await self._flusher


def _filled(lease: _Lease, result: Sequence[int]) -> None:
    _, _, lease.left_requests, lease.left_tokens, leased = result
    lease.asked = False
    lease.used = True
    if leased:
        lease.requests += lease.block[0]
        lease.tokens += lease.block[1]


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
            operation.lease.block[0] if operation.lease is not None else 0,
            operation.lease.block[1] if operation.lease is not None else 0,
        )
    return keys, args
