"""The policies of one worker through their life: taken from files or from the store, swapped, recorded, and told of.

It wires gateway/policies.py (the pointers), gateway/policy_follow.py (who moves them), gateway/sql.py (what is kept) and the recorder; it
knows no rail. Versions and history fail open here (a gateway serves without its history); what runs does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog

from gateway.policies import PolicyTable
from gateway.policy_desk import Desk, Refused
from gateway.policy_follow import Bundle, Coordinator, Digested, Follower, bundle_key
from gateway.recorder import Recorder
from gateway.settings import Settings, SettingsError
from gateway.sql import Database, DatabaseError
from gateway.stores import RedisStore, StoreError

Stamp = list[tuple[str, int, int]]  # path, time of the last change in ns, size


class VersionLike(Protocol):
    """A version as gateway/steps/versions.py reads it."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def files(self) -> Mapping[str, str]: ...
    @property
    def parts(self) -> Mapping[str, str]: ...
    def row(self, at: float, by: str) -> dict[str, Any]: ...


def database_url(settings: Settings) -> str:
    return settings.policy_store.url or f"sqlite:///{settings.state_dir / 'policies.db'}"


class PolicyLife:
    """What a worker does with its policies. ``read`` makes a version of a directory, ``build`` a guard of one, ``unpack`` a directory of a bundle."""

    def __init__(
        self,
        settings: Settings,
        store: RedisStore,
        *,
        read: Callable[[Path], VersionLike],
        build: Callable[[Path], Awaitable[Digested]],
        unpack: Callable[[Bundle, str, Path, Mapping[str, str] | None], Path],
        swapped: Callable[[str, str], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._read, self._build, self._unpack = read, build, unpack
        self._swapped = swapped
        self._database: Database | None = None
        self._tried: dict[str, str] = {}  # the last version of the files that was looked at, by policy
        self._complaints: dict[str, str] = {}
        self._watching: asyncio.Task[None] | None = None
        self.table: PolicyTable[Any] = PolicyTable({})
        self.recorder: Recorder | None = None
        self.coordinator = Coordinator(store)
        self.worker = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"
        self._follower: Follower[Any] | None = None
        self._log = structlog.get_logger("policies")

    async def open(self, names: list[str]) -> None:
        """Builds the policies named, each in the version that is to run. Raises: SettingsError."""
        try:
            self._database = await asyncio.to_thread(Database, database_url(self._settings))
        except DatabaseError as error:
            if self._settings.policy_store.follow == "store":
                raise SettingsError(Path("callgate.yaml"), None, "policy_store.url", str(error)) from None
            self._log.warning("policy_store_away", reason=str(error))
        directories = [await self._first(name) for name in names]
        guards = await asyncio.gather(*map(self._build, directories))
        self.table = PolicyTable(dict(zip(names, guards, strict=True)))
        for name, guard in zip(names, guards, strict=True):
            self._swapped(name, guard.digest)
        self._follower = Follower(
            self._store,
            self.table,
            self._made,
            worker=self.worker,
            follow=self._settings.policy_store.follow == "store",
            poll_s=self._settings.policy_store.poll_s,
            swapped=self._swapped,
            complaints=self._complaints,
        )
        await self._follower.start()

    def start(self, reload_s: float) -> Callable[[], Awaitable[None]]:
        """Watches the directories, where files are followed. Returns what looks at them at once."""
        if self._settings.policy_store.follow == "files" and reload_s:
            self._watching = asyncio.create_task(self._watch(reload_s))
        return self.look_at_files

    async def look_at_files(self) -> None:
        """Takes over edited directories; one that cannot be used changes nothing."""
        if self._settings.policy_store.follow != "files":
            return
        for name in self.table.names():
            try:
                await self._look_at(name)
            except SettingsError as error:
                await self._complain(name, str(error))

    async def _look_at(self, name: str) -> None:
        """Swaps to the version of the files, if it is another one. Raises: SettingsError."""
        directory = self._settings.policies[name]
        tried = self._tried.pop(name, None)
        version = await asyncio.to_thread(self._read, directory)
        self._tried[name] = version.digest
        if version.digest == tried:
            return
        if version.digest != self.table[name].digest:
            guard = await self._build(directory)
            await self._keep(version)
            self.table.swap(name, guard)
            self._swapped(name, guard.digest)
            self._log.warning("policy_swapped", policy=name, digest=guard.digest[:12])
        await self._complain(name, "")

    async def _complain(self, name: str, reason: str) -> None:
        """Says, once, in the log and at /admin, what is wrong with a policy's files; empty: nothing any more."""
        if reason and self._complaints.get(name) != reason:
            self._log.error("policy_refused", policy=name, reason=reason)
        self._complaints[name] = reason
        if self._follower is not None:
            await self._follower.beat()

    async def state(self) -> dict[str, Any]:
        """Which worker runs which version of what, and where the pointers point. Raises: StoreError."""
        workers = await self.coordinator.workers()
        active = {name: await self.coordinator.active(name) for name in self.table.names()}
        return {
            "follow": self._settings.policy_store.follow,
            "active": active,
            "answered_by": self.worker,
            "workers": [{"worker": worker, **state} for worker, state in sorted(workers.items())],
            "converged": all(
                state.get("runs", {}).get(name, digest) == digest
                for state in workers.values()
                for name, digest in active.items()
                if digest is not None
            ),
        }

    def desk(self) -> Desk:
        """Where plans are approved, applied and rolled back. Raises: Refused without a database."""
        if self._database is None:
            raise Refused("the policy store is away, so nothing can be changed")
        return Desk(self._database, self.coordinator, self._settings.policy_store)

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._follower is not None:
            await self._follower.aclose()
        if self.recorder is not None:
            await self.recorder.aclose()
        await self.table.aclose()
        if self._database is not None:
            self._database.close()

    async def _watch(self, reload_s: float) -> None:
        """Looks at names, sizes and times of files, and reads them only when one has changed: reading costs 35 ms."""
        stamps: dict[str, Stamp] = {}
        while True:
            now = {name: await asyncio.to_thread(self._stamp, name) for name in self.table.names()}
            if now != stamps:
                stamps = now
                await self.look_at_files()
            await asyncio.sleep(reload_s)

    def _stamp(self, name: str) -> Stamp:
        """The files of a policy's directory and of the trusted actions."""
        folders = [self._settings.policies[name], self._settings.policy_store.actions_dir]
        files = (file for folder in folders if folder is not None for file in sorted(folder.rglob("*")))
        return [(str(file), at.st_mtime_ns, at.st_size) for file in files if (at := _stat(file)) is not None]

    async def _first(self, name: str) -> Path:
        """The directory of the version to start with: the pointer's, else the last activation's, else that of the files."""
        directory = self._settings.policies[name]
        version = await asyncio.to_thread(self._read, directory)
        await self._keep(version)
        if self._settings.policy_store.follow == "files":
            return directory
        try:
            digest = await self.coordinator.active(name)
            if digest is None:
                digest, files = await self._last_known(name, version)
                digest = await self.coordinator.adopt(name, digest, files)
            coded = await self._store.read_value(bundle_key(digest))
        except StoreError as error:
            digest, files = await self._last_known(name, version)
            self._log.error("policy_pointer_unreachable", policy=name, reason=str(error), starts_with=digest[:12])
            coded = None
        return await self._directory(name, digest, _decoded(coded))

    async def _last_known(self, name: str, version: VersionLike) -> tuple[str, Bundle]:
        if self._database is None:
            return version.digest, version.files
        history = await asyncio.to_thread(self._database.history, name)
        if history and (row := await asyncio.to_thread(self._database.version, history[0]["digest"])) is not None:
            return row["digest"], row["files"]
        if not history:
            first = {"name": name, "at": time.time(), "action": "start", "digest": version.digest}
            more = {"previous": "", "by": self.worker, "plan": "", "note": "the files of the first start"}
            await asyncio.to_thread(self._database.add_history, first | more)
        return version.digest, version.files

    async def _made(self, name: str, digest: str, bundle: Bundle) -> Any:
        return await self._build(await self._directory(name, digest, bundle))

    async def _directory(self, name: str, digest: str, bundle: Bundle) -> Path:
        row = await asyncio.to_thread(self._database.version, digest) if self._database is not None else None
        files = bundle or (row["files"] if row is not None else {})
        parts = row["parts"] if row is not None else None
        folder = self._settings.state_dir / "policies" / name
        return await asyncio.to_thread(self._unpack, files, digest, folder, parts)

    async def _keep(self, version: VersionLike) -> None:
        if self._database is None:
            return
        try:
            await asyncio.to_thread(self._database.add_version, version.row(time.time(), self.worker))
        except DatabaseError as error:
            self._log.warning("policy_version_not_kept", digest=version.digest[:12], reason=str(error))

    def open_recorder(self, recorder: Callable[[Database], Recorder]) -> None:
        """Starts recording. Raises: SettingsError without a database."""
        if self._database is None:
            raise SettingsError(Path("callgate.yaml"), None, "recorder", "recording needs the policy store")
        url = self._settings.recorder.url
        self.recorder = recorder(Database(url) if url else self._database)
        self.recorder.start()


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:  # gone since it was listed
        return None


def _decoded(coded: bytes | None) -> Bundle:
    bundle: Bundle = json.loads(coded) if coded is not None else {}
    return bundle
