"""callgate.yaml (or the configuration that replicas share) changed while the gateway runs: models, deployments, weights, fallbacks, keys and limits are replaced without a restart.

The new file is read and checked whole before anything moves, then one table is swapped for another; a file that cannot be used changes
nothing. What is built at the start (server, Redis, telemetry, embedding, policies, knowledge) needs a restart, and the refusal says so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from gateway.settings import Settings, SettingsError, load
from gateway.stores import StoreError

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
    "guard_model",
)


class Reloader:
    """Looks at the file every ``interval_s`` and on ``now``. ``apply`` puts checked settings in place and must not wait.

    ``outcomes`` hears "applied" or "refused" for each change, for a metric. ``shared``: reads the document that stands in place of the file's
    models, limits and keys, or None when there is none; while it cannot be read, what is in place stays.
    """

    def __init__(
        self,
        file: Path,
        running: Settings,
        apply: Callable[[Settings], None],
        outcomes: Callable[[str], None],
        interval_s: float = 2.0,
        shared: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._file = file
        self._running = running
        self._apply = apply
        self._outcomes = outcomes
        self._interval_s = interval_s
        self._shared = shared
        self._seen = _digest(file, None)
        self._log = structlog.get_logger("reload")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def now(self) -> bool | None:
        """Whether the settings were put in place; None when they have not changed, or cannot be read."""
        try:
            shared = await self._shared() if self._shared is not None else None
        except StoreError:
            return None
        digest = await asyncio.to_thread(_digest, self._file, shared)
        if digest == self._seen:
            return None
        self._seen = digest
        try:
            wanted = await asyncio.to_thread(load, self._file, None, shared)
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


def _digest(file: Path, shared: str | None) -> str:
    """What the file and the shared document say, whatever their time stamps; empty while the file is being replaced."""
    try:
        text = file.read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(text + b"\0" + (shared or "").encode()).hexdigest()
