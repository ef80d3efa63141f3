"""`callgate up --once`, whole: real model, Redis, Phoenix and gateway, the tour, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.sql import Database

ROOT = Path(__file__).parents[2]


@pytest.mark.servers
@pytest.mark.timeout(400)
def test_up_once_shows_a_tour_that_goes_right_and_leaves_no_process(tmp_path: Path) -> None:
    ports = ["--port", "0", "--model-port", "0", "--redis-port", "0", "--phoenix-port", "0"]
    command = [sys.executable, "-m", "gateway", "up", "--once", *ports]
    environment = {**os.environ, "CALLGATE_STATE_DIR": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=390)
    print(done.stdout, done.stderr)
    left = [p for p in psutil.process_iter(["environ"]) if str(tmp_path) in str(p.info["environ"])]
    assert left == []
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert (tmp_path / "recording.keys").stat().st_mode & 0o77 == 0
    database = Database(f"sqlite:///{tmp_path}/policies.db")  # the tour is recorded, for a first plan
    assert sum(database.count_recordings("call-centre", 0).values()) > 0
    database.close()
