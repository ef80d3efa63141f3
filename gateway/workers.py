"""Several workers behind one socket: this process starts them, hands signals on, replaces the dead, and ends when they have ended.

Each worker is a whole gateway; limits and keys meet in Redis, metrics in a folder of memory-mapped files. It serves nothing itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from gateway.settings import Settings, SettingsError

RESTARTS, WITHIN_S = 5, 10.0  # more deaths than this in so short a time mean that no worker can live
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def refuse_unshareable(settings: Settings, config: Path) -> None:
    """Raises: SettingsError for parts that one folder and several workers cannot share."""
    for used, key, instead in (
        (
            settings.fraud.enabled and not settings.fraud.url,
            "fraud.enabled",
            "run the fraud service as a process of its own (callgate fraud serve) and set fraud.url",
        ),
        (bool(settings.knowledge), "knowledge", "use one worker, and more replicas"),
    ):
        if used:
            raise SettingsError(config, None, "server.workers", f"several workers cannot share {key}; {instead}")


async def supervise(settings: Settings, config: Path, listener: socket.socket, environment: Mapping[str, str]) -> int:
    """Runs ``server.workers`` workers on the listening socket until a signal ends them. The exit code of the whole."""
    return await _Supervisor(settings, config, listener, environment).run()


class _Supervisor:
    def __init__(
        self, settings: Settings, config: Path, listener: socket.socket, environment: Mapping[str, str]
    ) -> None:
        self._count = settings.server.workers
        self._command = [
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "--config",
            str(config),
            "--fd",
            str(listener.fileno()),
        ]
        self._listener = listener
        self._metrics = settings.state_dir / "metrics"
        self._environment = {**environment, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics)}
        self._workers: set[asyncio.subprocess.Process] = set()
        self._stopping = False
        self._deaths: list[float] = []
        self._log = structlog.get_logger("workers")

    async def run(self) -> int:
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir(parents=True)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._pass_on, number)
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(self._keep_alive()) for _ in range(self._count)]
        return max(life.result() for life in lives)

    async def _keep_alive(self) -> int:
        """One worker after another in one place. Returns the last one's exit code."""
        while True:
            worker = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, pass_fds=[self._listener.fileno()], start_new_session=True
            )
            self._workers.add(worker)
            if self._stopping:
                worker.terminate()
            code = await worker.wait()
            self._workers.discard(worker)
            self._forget_gauges(worker.pid)
            if self._stopping:
                return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else code
            now = time.monotonic()
            self._deaths = [at for at in self._deaths if now - at < WITHIN_S] + [now]
            if len(self._deaths) > RESTARTS:
                self._log.error("workers_keep_dying", exit_code=code)
                self._pass_on(signal.SIGTERM)
                return code or 1
            self._log.warning("worker_replaced", pid=worker.pid, exit_code=code)

    def _pass_on(self, number: int) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        for worker in self._workers:
            if worker.returncode is None:
                worker.send_signal(number)

    def _forget_gauges(self, pid: int) -> None:
        for path in self._metrics.glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)


def leave_with_parent(parent: int, stop: Callable[[], None]) -> asyncio.Task[None]:
    """In a worker: stops it when its parent is gone, so that none is left behind."""

    async def watch() -> None:
        while os.getppid() == parent:  # noqa: ASYNC110 (nothing tells a process that its parent went)
            await asyncio.sleep(1.0)
        stop()

    return asyncio.create_task(watch())
