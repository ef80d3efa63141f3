"""A load of payments at a fixed rate of arrivals, over a bare HTTP/1.1 protocol so that it takes little of the machine.

Arrivals do not wait for answers (an open loop), so a slow service cannot hide: each is sent on a connection that is free,
or on a new one. A latency runs from the moment of sending; how late the sender itself was is reported apart, since its
timer counts in milliseconds. Knows nothing of who answers.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

CUSTOMERS, TERMINALS = 1_000, 2_000


@dataclass(slots=True)
class Result:
    """Milliseconds of each answer, how late each was sent, and what was not a plain 200."""

    times_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    degraded: int = 0
    failed: int = 0
    lost: int = 0
    answered: dict[str, bytes] = field(default_factory=dict)

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.times_ms, share)) if self.times_ms else float("nan")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._data = b""
        self._done: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[union-attr]
        return self._done

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length and self._done is not None and not self._done.done():
            self._data = b""
            self._done.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError())


def payment(prefix: str, number: int, key: str, port: int) -> bytes:
    """One request, whole. The same number always names the same customer and terminal."""
    customer, terminal = number * 7_919 % CUSTOMERS, number * 104_729 % TERMINALS
    body = (
        f'{{"transaction_id":"{prefix}-{number}","customer_id":"c{customer}","terminal_id":"m{terminal}",'
        f'"amount":"{number % 90 + 5}.00","currency":"EUR","timestamp":"{datetime.now(UTC).isoformat()}"}}'
    ).encode()
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /v1/fraud/score HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{auth}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Load:
    """Sends payments to a port of this machine."""

    def __init__(self, port: int, key: str, prefix: str, keep_answers: bool = False) -> None:
        self._port, self._key, self._prefix, self._keep = port, key, prefix, keep_answers
        self._idle: list[_Connection] = []
        self.result = Result()

    async def at_rate(self, rate: int, seconds: float, first: int = 0) -> Result:
        """`rate` payments a second, whatever becomes of them."""
        start, tasks = time.perf_counter() + 0.05, []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.result.late_ms.append((time.perf_counter() - due) * 1000)
            tasks.append(asyncio.create_task(self.send(first + number)))
        await asyncio.gather(*tasks)
        return self.result

    async def closed(self, at_once: int, seconds: float) -> Result:
        """As many as `at_once` clients can, each waiting for its answer."""
        end, numbers = time.perf_counter() + seconds, iter(range(10**9))

        async def client() -> None:
            while time.perf_counter() < end:
                await self.send(next(numbers))

        await asyncio.gather(*(client() for _ in range(at_once)))
        return self.result

    async def send(self, number: int) -> None:
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            request = payment(self._prefix, number, self._key, self._port)
            sent = time.perf_counter()
            status, body = await asyncio.wait_for(connection.ask(request), 10)
        except (OSError, TimeoutError):
            self.result.lost += 1
            return
        self.result.times_ms.append((time.perf_counter() - sent) * 1000)
        self._idle.append(connection)
        self.result.failed += status != 200
        self.result.degraded += b'"degraded":true' in body
        if self._keep and status == 200:
            self.result.answered[f"{self._prefix}-{number}"] = body

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self._port)
        return connection

    def close(self) -> None:
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()
