"""`callgate up --once`, whole: real model, Redis, Phoenix and gateway, the tour, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.sql import Database

ROOT = Path(__file__).parents[2]


def listening(pid: int) -> set[str]:
    """Where a process and its children listen."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        sockets = [one for child in (parent, *parent.children(recursive=True)) for one in child.net_connections("tcp")]
        return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return set()


@pytest.mark.servers
@pytest.mark.timeout(400)
def test_up_once_shows_a_tour_that_goes_right_and_leaves_no_process(tmp_path: Path) -> None:
    ports = ["--port", "0", "--model-port", "0", "--redis-port", "0", "--phoenix-port", "0"]
    command = [sys.executable, "-m", "gateway", "up", "--once", *ports]
    environment = {**os.environ, "CALLGATE_STATE_DIR": str(tmp_path), "COLUMNS": "200"}
    addresses: set[str] = set()
    with (tmp_path / "told").open("w") as told:
        up = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=told, stderr=told)
        while up.poll() is None:
            addresses |= listening(up.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                up.wait(1)
    print(said := (tmp_path / "told").read_text())
    left = [p for p in psutil.process_iter(["environ"]) if str(tmp_path) in str(p.info["environ"])]
    assert left == []
    assert up.returncode == 0, said[-4000:]
    assert "Traces (Phoenix)" in said
    assert addresses == {"127.0.0.1"}
    assert (tmp_path / "recording.keys").stat().st_mode & 0o77 == 0
    database = Database(f"sqlite:///{tmp_path}/policies.db")  # the tour is recorded, for a first plan
    assert sum(database.count_recordings("call-centre", 0).values()) > 0
    database.close()
