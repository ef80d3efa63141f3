"""callgate.yaml changed while the gateway runs: models, deployments, weights, fallbacks, keys and limits are replaced without a restart.

The new file is read and checked whole before anything moves, then one table is swapped for another; a file that cannot be used changes
nothing. What is built at the start (server, Redis, telemetry, embedding, policies, knowledge) needs a restart, and the refusal says so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.settings import Settings, SettingsError, load

FIXED = (
    "server",
    "redis",
    "auth",
    "key_secret_file",
    "policies",
    "knowledge",
    "embedding",
    "telemetry",
    "fraud",
    "state_dir",
    "routing",
    "policy_store",
    "recorder",
)


class Reloader:
    """Looks at the file every ``interval_s`` and on ``now``. ``apply`` puts checked settings in place and must not wait.

    ``outcomes`` hears "applied" or "refused" for each change, for a metric.
    """

    def __init__(
        self,
        file: Path,
        running: Settings,
        apply: Callable[[Settings], None],
        outcomes: Callable[[str], None],
        interval_s: float = 2.0,
    ) -> None:
        self._file = file
        self._running = running
        self._apply = apply
        self._outcomes = outcomes
        self._interval_s = interval_s
        self._seen = _digest(file)
        self._log = structlog.get_logger("reload")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def now(self) -> bool | None:
        """Whether the file was put in place; None when it has not changed."""
        digest = await asyncio.to_thread(_digest, self._file)
        if digest == self._seen:
            return None
        self._seen = digest
        try:
            wanted = await asyncio.to_thread(load, self._file)
            self._refuse_fixed(wanted)
            self._apply(wanted)
        except SettingsError as error:
            self._outcomes("refused")
            self._log.error("configuration_refused", reason=str(error))
            return False
        self._running = wanted
        self._outcomes("applied")
        self._log.warning("configuration_applied", digest=digest[:12], models=len(wanted.models))
        return True

    def _refuse_fixed(self, wanted: Settings) -> None:
        for name in FIXED:
            here, there = getattr(self._running, name), getattr(wanted, name)
            if name == "server":  # the command line may have changed host and port
                here, there = (s.model_copy(update={"host": "", "port": 0}) for s in (here, there))
            if here != there:
                raise SettingsError(self._file, None, name, "cannot change while the gateway runs; restart it")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.now()


def _digest(file: Path) -> str:
    """What the file says, whatever its time stamp; empty while it is being replaced."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
