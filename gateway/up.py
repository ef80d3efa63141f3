"""Everything on this machine with one command: starts the embedded model, Redis, Phoenix and the gateway, and stops them for certain.

It knows the order and the words. How one child is kept is in gateway/children.py, what is shown in gateway/tour.py. Without Phoenix
the gateway works and there are no traces (telemetry fails open); without any other part nothing stays up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from gateway import parts, ports
from gateway.children import Child, Part, PartFailedError, answers_http
from gateway.settings import RECORDING_KEYS

_T = TypeVar("_T")
DEMO_KEY = "demo.key"
_BEAT_S = 10.0
_SLOW = {"Phoenix": " (its first start takes up to a minute)"}
_QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NEMO_GUARDRAILS_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class UpSettings:
    """What to start and where. A port of 0 is any free one; `redis_url` names a Redis that runs elsewhere already.

    ``policies``: what the gateway follows, its policy files or the store of applied versions.
    """

    config: Path
    state_dir: Path
    gateway_port: int = 8080
    model_port: int = 0
    redis_url: str | None = field(default=None, repr=False)
    redis_port: int = 0
    phoenix_port: int = 6006
    phoenix: bool = True
    once: bool = False
    tour: bool = True
    phoenix_within_s: float = 180.0
    policies: str = "files"


class UpError(Exception):
    """It cannot start; the message says why and what would be right."""


class _StoppedError(Exception):
    """Somebody asked for the end."""


async def run_up(settings: UpSettings) -> int:
    """Start, show, stay until asked to stop. 0: it went right; 1: a part or the tour failed; 3: it could not begin."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        with claim(settings.state_dir, datetime.now(UTC)) as remark:
            if remark:
                console.print(remark)
            return await Supervisor(_with_free_ports(settings), console).run()
    except (UpError, parts.PartMissingError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), markup=False)
        return 3


@contextmanager
def claim(state_dir: Path, now: datetime) -> Iterator[str]:
    """Hold the state directory for this process; yields a remark about a run that ended without cleaning up, or "".

    The lock is the kernel's and goes with the process, so a crash leaves nothing to clear away by hand.

    Raises:
        UpError: another `callgate up` holds it.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "up.lock").open("a+", encoding="utf-8") as lock:
        lock.seek(0)
        last = lock.read().strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"Callgate runs here already ({last}). Stop it with Ctrl-C where it runs, or kill that process."
            raise UpError(message) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} since {now:%Y-%m-%d %H:%M:%S} UTC")
        lock.flush()
        try:
            yield f"The last run ({last}) was cut off; nothing of it is left, and this one starts anew." if last else ""
        finally:
            lock.truncate(0)


class Supervisor:
    """One run, from the first child to the last. `clock` counts seconds, monotonically."""

    def __init__(self, settings: UpSettings, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._console = console
        self._clock = clock
        self._children: list[Child] = []
        self._spawning: set[asyncio.Task[Child]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._starting: dict[str, float] = {}
        self._at_once = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._traces = settings.phoenix and parts.phoenix_python() is not None
        self._redis_password = secrets.token_urlsafe(24)
        self._redis_url = settings.redis_url or f"redis://:{self._redis_password}@127.0.0.1:{settings.redis_port}/0"

    async def run(self) -> int:
        """Raises: UpError when a port is taken or something that is needed is not installed."""
        loop = asyncio.get_running_loop()
        first, gateway = self._parts()
        self._check_ports()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        status = 1 if self._settings.once else 0
        try:
            await self._race(self._start(first, gateway))
            self._write_state()
            self._announce()
            if self._settings.tour:
                status = await self._race(self._show_tour())
            if not self._settings.once:
                status = 0
                self._console.print("\nUp until Ctrl-C.")
                await self._over
        except _StoppedError:
            pass
        except PartFailedError as error:
            self._console.print(f"\n{error}", markup=False)
            status = 1
        finally:
            await self._stop_all()
        return status

    # --- start ------------------------------------------------------------------------------------------------------

    async def _start(self, first: list[Part], gateway: Part) -> None:
        """Phoenix is begun first, because it takes longest; the gateway waits for Redis alone."""
        self._console.print("Starting:")
        if self._settings.phoenix and not self._traces:
            self._console.print("  Phoenix        not installed (make run installs it): no traces, all else works")
        beat = asyncio.ensure_future(self._beat())
        tasks = {part.name: asyncio.ensure_future(self._bring_up(part)) for part in first}
        try:
            if "redis" in tasks:
                await tasks["redis"]
            await self._make_demo_key()
            await asyncio.gather(self._bring_up(gateway), *tasks.values())
        finally:
            for task in (beat, *tasks.values()):
                task.cancel()
            await asyncio.gather(beat, *tasks.values(), return_exceptions=True)

    async def _bring_up(self, part: Part) -> None:
        started_s = self._starting[part.title] = self._clock()
        try:
            child = await self._spawn(part, self._settings.state_dir / "logs" / f"{part.name}.log")
            await child.ready()
        except PartFailedError as error:
            if not part.optional:
                raise
            self._traces = False
            self._console.print(f"  {part.title:<14} failed: no traces, all else works. {error}", markup=False)
            return
        finally:
            self._starting.pop(part.title, None)
        self._console.print(f"  {part.title:<14} ready in {self._clock() - started_s:4.1f} s  {part.shown}")
        watcher = asyncio.ensure_future(self._watch(child))
        self._watching.add(watcher)
        watcher.add_done_callback(self._watching.discard)

    async def _spawn(self, part: Part, log: Path | None) -> Child:
        """Start a child; one that is half started when the end comes is waited for and stopped like the others."""
        task = asyncio.ensure_future(Child.start(part, log))
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        task.add_done_callback(lambda done: self._children.append(done.result()) if not done.exception() else None)
        return await asyncio.shield(task)

    async def _watch(self, child: Child) -> None:
        await asyncio.wait({child.ended})
        if self._stopping or self._over.done():
            return
        if child.part.optional:
            self._console.print(f"{child.obituary()}\nThe gateway works on, without new traces.", markup=False)
        else:
            self._over.set_exception(PartFailedError(child.obituary()))

    async def _beat(self) -> None:
        """Say what is still starting: on a terminal in one line that moves, elsewhere every ten seconds."""
        spoken_s = self._clock()
        with self._console.status("") as line:
            while True:
                now_s = self._clock()
                waiting = ", ".join(
                    f"{title} {now_s - since:.0f} s" + _SLOW.get(title, "") for title, since in self._starting.items()
                )
                line.update(f"starting: {waiting}")
                if waiting and not self._console.is_terminal and now_s - spoken_s >= _BEAT_S:
                    spoken_s = now_s
                    self._console.print(f"  still starting: {waiting}")
                await asyncio.sleep(0.5)

    async def _make_demo_key(self) -> None:
        """The tour's own API key, and a key for recordings, in files that only this user can read. Those of an earlier run are used again."""
        from gateway.demo_key import DemoKeyError, demo_key, recording_key

        recording_key(self._settings.state_dir / RECORDING_KEYS)
        file = self._settings.state_dir / DEMO_KEY
        try:
            await demo_key(
                self._settings.config, {**os.environ, **self._gateway_environment()}, file, datetime.now(UTC)
            )
        except DemoKeyError as error:
            raise UpError(str(error)) from None

    # --- show -------------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        base = f"http://127.0.0.1:{self._settings.gateway_port}"
        rows = [
            ("OpenAI base_url", f"{base}/v1"),
            ("API key", f"in {self._settings.state_dir / DEMO_KEY}"),
            ("API reference", f"{base}/docs"),
            ("Metrics, health", f"{base}/metrics  {base}/health/ready"),
            ("Logs", str(self._settings.state_dir / "logs")),
        ]
        if self._traces:
            rows.insert(3, ("Traces (Phoenix)", f"http://127.0.0.1:{self._settings.phoenix_port}"))
        self._console.print()
        for title, place in rows:
            self._console.print(f"  {title:<18}{place}", markup=False)

    def _write_state(self) -> None:
        """Where things are, for other commands on this machine; readable by this user alone, since it holds Redis' password."""
        state = {
            "pid": os.getpid(),
            "gateway_url": f"http://127.0.0.1:{self._settings.gateway_port}",
            "phoenix_url": f"http://127.0.0.1:{self._settings.phoenix_port}" if self._traces else None,
            "model_url": f"http://127.0.0.1:{self._settings.model_port}/v1",
            "redis_url": self._redis_url,
            "config": str(self._settings.config),
            "policies": self._settings.policies,
        }
        parts.write_private(self._settings.state_dir / "up.json", json.dumps(state, indent=2) + "\n")

    async def _show_tour(self) -> int:
        command = [sys.executable, "-m", "gateway.tour", "--state-dir", str(self._settings.state_dir)]
        part = Part("tour", "The tour", command, is_ready=lambda: True, environment=_QUIET)
        child = await self._spawn(part, None)
        return await asyncio.shield(child.ended)

    # --- stop -------------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        if self._over.done() or self._stopping:  # asked twice: no grace
            self._at_once.set()
        else:
            self._over.set_exception(_StoppedError())

    async def _race(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The work's result, unless the end comes first. Raises: _StoppedError, PartFailedError."""
        task = asyncio.ensure_future(work)
        try:
            watched: set[asyncio.Future[Any]] = {task, self._over}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if self._over.done():
                self._over.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _stop_all(self) -> None:
        """The tour, then the gateway, so that its last spans and counts still arrive; then the rest, together."""
        self._stopping = True
        self._over.cancel()
        await asyncio.gather(*self._spawning, return_exceptions=True)
        if self._children and not self._settings.once:
            with suppress(OSError):  # the terminal may be gone
                self._console.print("\nStopping (Ctrl-C again: at once) ...")
        for name in ("tour", "gateway"):
            await asyncio.gather(*(child.stop(self._at_once) for child in self._children if child.part.name == name))
        await asyncio.gather(*(child.stop(self._at_once) for child in self._children))
        (self._settings.state_dir / "up.json").unlink(missing_ok=True)
        with suppress(OSError):
            self._console.print("Stopped; nothing is left running.")

    # --- what is started --------------------------------------------------------------------------------------------

    def _parts(self) -> tuple[list[Part], Part]:
        settings = self._settings
        first = []
        phoenix = parts.phoenix_python()
        if settings.phoenix and phoenix is not None:
            first.append(parts.phoenix(phoenix, settings.state_dir, settings.phoenix_port, settings.phoenix_within_s))
        first.append(parts.model(settings.model_port))
        if settings.redis_url is None:
            first.append(parts.redis(settings.state_dir / "redis", settings.redis_port, self._redis_password))
        base = f"http://127.0.0.1:{settings.gateway_port}"
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(settings.config)]
        environment = {**_QUIET, **self._gateway_environment()}
        ready = answers_http(f"{base}/health/ready")
        gateway = Part("gateway", "Gateway", command, ready, environment, shown=f"{base}/v1", grace_s=10.0)
        return first, gateway

    def _gateway_environment(self) -> dict[str, str]:
        settings = self._settings
        return {
            "CALLGATE_REDIS_URL": self._redis_url,
            "CALLGATE_EMBEDDED_MODEL_URL": f"http://127.0.0.1:{settings.model_port}/v1",
            "CALLGATE_OTLP_ENDPOINT": f"http://127.0.0.1:{settings.phoenix_port}/v1/traces" if self._traces else "",
            "CALLGATE_STATE_DIR": str(settings.state_dir.resolve()),
            "CALLGATE_PORT": str(settings.gateway_port),
            "CALLGATE_POLICIES": settings.policies,
            "CALLGATE_RECORD": "1",
        }

    def _check_ports(self) -> None:
        settings = self._settings
        wanted = [("the gateway", settings.gateway_port, "--port", "PORT=8090")]
        wanted.append(("the demo model", settings.model_port, "--model-port", ""))
        if settings.redis_url is None:
            wanted.append(("Redis", settings.redis_port, "--redis-port", ""))
        if self._traces:
            wanted.append(("Phoenix", settings.phoenix_port, "--phoenix-port", "PHOENIX_PORT=6007"))
        for title, port, flag, variable in wanted:
            if ports.is_taken(port):
                who = ports.owner(port) or "another program"
                make = f" (make run {variable})" if variable else ""
                message = f"Port {port}, meant for {title}, is taken by {who}. Stop that, or choose another port: "
                raise UpError(f"{message}callgate up {flag} {ports.free_port()}{make}")


def _with_free_ports(settings: UpSettings) -> UpSettings:
    return dataclasses.replace(
        settings,
        gateway_port=settings.gateway_port or ports.free_port(),
        model_port=settings.model_port or ports.free_port(),
        redis_port=settings.redis_port or ports.free_port(),
        phoenix_port=settings.phoenix_port or ports.free_port(),
    )
