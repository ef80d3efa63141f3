"""A child process of the supervisor: started on a leash, in a process group of its own, with its words in a log file; stopped for certain.

It does not know what the child does, or in which order children start and stop (gateway/up.py does).
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

LEASH = Path(__file__).with_name("leash.py")
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Part:
    """One program to run. `is_ready` may block for up to a second; `shown` is where a person finds it."""

    name: str
    title: str
    command: Sequence[str]
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ready_within_s: float = 60.0
    grace_s: float = 5.0
    shown: str = ""
    optional: bool = False


class PartFailedError(Exception):
    """A part ended, or was not ready in time; the message says which and shows its last words."""


class Child:
    """A running Part."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process, log: Path | None) -> None:
        self.part = part
        self.log = log
        self._process = process
        self.ended = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, part: Part, log: Path | None) -> Child:
        """Start it; its output replaces what was in the log file, or goes to the screen when there is none."""
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") if log is not None else nullcontext() as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid())),
                *part.command,
                env={**os.environ, **part.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which stops them in order
            )
        return cls(part, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Return once it is ready. Raises: PartFailedError if it ends before, or is late."""
        try:
            async with asyncio.timeout(self.part.ready_within_s):
                while not await asyncio.to_thread(self.part.is_ready):
                    if self.ended.done():
                        raise PartFailedError(self.obituary())
                    await sleep(_POLL_S)
        except TimeoutError:
            late = f"{self.part.title} was not ready after {self.part.ready_within_s:.0f} s."
            raise PartFailedError(self._with_last_words(late)) from None

    def obituary(self) -> str:
        """What to say of a child that ended unasked: how, and its last words."""
        status = self.ended.result()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return self._with_last_words(f"{self.part.title} {how}.")

    def _with_last_words(self, text: str) -> str:
        words = self.last_words()
        return f"{text} Its last words ({self.log}):\n{words}" if words else f"{text} It said nothing ({self.log})."

    def last_words(self, lines: int = 12) -> str:
        """The end of its log, from at most the last 8 KB."""
        if self.log is None:
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            text = file.read().decode("utf-8", "replace")
        return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])

    async def stop(self, at_once: asyncio.Event) -> None:
        """SIGTERM; after the grace, or when `at_once` is set, SIGKILL to its whole group, so that nothing of it is left."""
        hurry = asyncio.ensure_future(at_once.wait())
        if not self.ended.done():
            self._signal_group(signal.SIGTERM)
            await asyncio.wait({self.ended, hurry}, timeout=self.part.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        self._signal_group(signal.SIGKILL)
        await self.ended

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def answers_http(url: str) -> Callable[[], bool]:
    """A check: does this loopback URL answer 200? Proxies of the environment are not asked."""
    parts = urlsplit(url)

    def check() -> bool:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=1.0)
        try:
            connection.request("GET", parts.path or "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return check


def answers_redis(port: int, password: str) -> Callable[[], bool]:
    """A check: does the Redis on this loopback port take the password and answer a ping?"""

    def check() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (chunk := connection.recv(256)):
                    answer += chunk
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    return check
