"""What the policy commands work on: settings, the store of versions, recordings, the pointer; and how their faults are told.

It reads no argument and decides nothing (gateway/policy_cli.py, gateway/policy_desk.py).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from gateway import settings as configuration
from gateway.policy_desk import Desk, Refused
from gateway.policy_follow import ApplyRefused, Coordinator
from gateway.policy_life import database_url
from gateway.recorder import Recordings
from gateway.sealing import Sealer, SealError
from gateway.settings import Settings, SettingsError
from gateway.sql import Database, DatabaseError
from gateway.stores import RedisStore, StoreError

_T = TypeVar("_T")


@dataclass
class Session:
    """Settings and the store of versions. Closed by leaving its context."""

    settings: Settings
    database: Database

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def recordings(self) -> Recordings:
        """Raises: SealError without a key."""
        wanted = self.settings.recorder
        database = Database(wanted.url) if wanted.url else self.database
        return Recordings(
            database,
            Sealer(configuration.recording_keys(wanted, self.settings.state_dir)),
            wanted.retention_days * 86_400,
        )

    @asynccontextmanager
    async def desk(self) -> AsyncIterator[Desk]:
        store = RedisStore(redis_url(self.settings), self.settings.redis.timeout_s)
        try:
            yield Desk(self.database, Coordinator(store), self.settings.policy_store)
        finally:
            await store.aclose()

    async def running(self, name: str) -> Mapping[str, Any]:
        """The version that runs now, as the store keeps it."""
        from gateway.steps.versions import read_version

        if self.settings.policy_store.follow == "files":
            row = read_version(self.settings.policies[name], self.settings.policy_store.actions_dir).row(
                time.time(), "files"
            )
            self.database.add_version(row)
            return row
        store = RedisStore(redis_url(self.settings), self.settings.redis.timeout_s)
        try:
            digest = await Coordinator(store).active(name)
        finally:
            await store.aclose()
        found = self.database.version(digest) if digest else None
        if found is None:
            fail(f"no gateway with this store runs policy '{name}' (pointer: {digest or 'none'})", 2)
        return found

    def directory(self, where: str) -> Path:
        return self.settings.policies[where] if where in self.settings.policies else Path(where)

    def files(self, side: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Files and parts of a directory, a policy of the settings, or a version of the store."""
        from gateway.steps.versions import read_version

        directory = self.directory(side)
        if directory.is_dir():
            version = told(lambda: read_version(directory, self.settings.policy_store.actions_dir))
            return version.files, version.parts
        row = self.database.version(side)
        if row is None:
            fail(
                f"'{side}' is neither a directory, a policy of the settings, nor the digest of one version in the store"
            )
        return row["files"], row["parts"]


def open_session(config: Path) -> Session:
    try:
        settings = _as_running(configuration.load(config), config)
    except SettingsError as error:
        fail(str(error))
    try:
        return Session(settings, Database(database_url(settings)))
    except DatabaseError as error:
        fail(f"policy_store.url: {error}")


def redis_url(settings: Settings) -> str:
    """The settings' Redis, or that of a running `callgate up` of this folder, whose port and password are its own."""
    return str(_up(settings).get("redis_url") or settings.redis.url)


def _as_running(settings: Settings, config: Path) -> Settings:
    """The settings with what a running `callgate up` follows, where it was started with this very file."""
    running = _up(settings)
    if running.get("config") != str(config.resolve()):
        return settings
    store = settings.policy_store.model_copy(update={"follow": running["policies"]})
    return settings.model_copy(update={"policy_store": store})


def _up(settings: Settings) -> Mapping[str, Any]:
    """What a running `callgate up` says of itself; empty where there is none."""
    try:
        running: dict[str, Any] = json.loads((settings.state_dir / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return running


def run(work: Callable[[], Awaitable[_T]]) -> _T:
    """The result of asynchronous work; its faults are told and end the command."""

    async def awaited() -> _T:
        return await work()

    return told(lambda: asyncio.run(awaited()))


def told(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except SettingsError as error:
        fail(str(error))
    except SealError as error:
        fail(f"a recording cannot be opened: {error}")
    except (Refused, ApplyRefused, DatabaseError) as error:
        fail(str(error), 1)
    except StoreError as error:
        fail(f"Redis did not answer ({error}); the pointer to the running version is there", 1)


def fail(message: str, code: int = 3) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(code)
