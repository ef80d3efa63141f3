"""The supervisor with real child processes: it starts them, says what is wrong, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from gateway import parts, ports
from gateway.children import Child, Part, PartFailedError, answers_redis
from gateway.up import Supervisor, UpError, UpSettings, claim, run_up

ROOT = Path(__file__).parents[2]
SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)",
]

DRIVER = """
import asyncio, sys
from pathlib import Path
from gateway.children import Part
from gateway.up import Supervisor, UpSettings, run_up

async def no_key(self): pass

def fake_parts(self):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    return [Part("model", "Demo model", sleeper, lambda: True)], Part("gateway", "Gateway", sleeper, lambda: True)

Supervisor._parts = fake_parts
Supervisor._make_demo_key = no_key
Supervisor._announce = lambda self: print("PIDS", *(child.pid for child in self._children), flush=True)
state = Path(sys.argv[1])
sys.exit(asyncio.run(run_up(UpSettings(Path("none.yaml"), state, 0, phoenix_port=0, phoenix=False, tour=False))))
"""


def is_gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process ends within the time; it need not be a child of this one."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


@contextlib.contextmanager
def driven(state: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A supervisor in a process of its own, up, and the pids of its children."""
    command = [sys.executable, "-c", DRIVER, str(state)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((one for one in process.stdout if one.startswith("PIDS")), "")
            yield process, [int(pid) for pid in line.split()[1:]]
        finally:
            process.kill()


def settings(state: Path, **changes: int) -> UpSettings:
    return UpSettings(Path("none.yaml"), state, phoenix=False, tour=False, **changes)


def test_a_supervisor_killed_outright_leaves_no_child_alive(tmp_path: Path) -> None:
    with driven(tmp_path) as (process, pids):
        assert len(pids) == 2
        process.send_signal(signal.SIGKILL)
        assert all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_stops_everything_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with driven(tmp_path) as (process, pids):
        assert len(pids) == 2
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert all(is_gone(pid, 0) for pid in pids)
    assert not (tmp_path / "up.json").exists()


def test_a_child_that_dies_is_named_with_its_last_words_and_the_rest_is_stopped(tmp_path: Path) -> None:
    with driven(tmp_path) as (process, pids):
        os.kill(pids[0], signal.SIGKILL)
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(timeout=20) == 1
        assert "was ended by SIGKILL" in said
        assert all(is_gone(pid, 0) for pid in pids)


async def test_a_child_that_ends_before_it_is_ready_shows_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('the disk said no'); sys.exit(7)"]
    child = await Child.start(Part("one", "One", command, is_ready=lambda: False), tmp_path / "one.log")
    with pytest.raises(PartFailedError, match=r"One ended with status 7(.|\n)*the disk said no"):
        await child.ready()
    await child.stop(asyncio.Event())


async def test_a_child_that_is_late_is_called_late(tmp_path: Path) -> None:
    part = Part("one", "One", SLEEPER, is_ready=lambda: False, ready_within_s=0.2)
    child = await Child.start(part, tmp_path / "one.log")
    try:
        with pytest.raises(PartFailedError, match="One was not ready after"):
            await child.ready()
    finally:
        await child.stop(asyncio.Event())


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    part = Part("one", "One", STUBBORN, is_ready=lambda: b"here" in log.read_bytes(), grace_s=0.2)
    child = await Child.start(part, log)
    await child.ready()
    await child.stop(asyncio.Event())
    assert child.ended.result() == -signal.SIGKILL


async def test_asked_twice_there_is_no_grace(tmp_path: Path) -> None:
    log, at_once = tmp_path / "one.log", asyncio.Event()
    child = await Child.start(Part("one", "One", STUBBORN, lambda: b"here" in log.read_bytes(), grace_s=100.0), log)
    await child.ready()
    at_once.set()
    async with asyncio.timeout(5):
        await child.stop(at_once)


async def test_the_embedded_redis_answers_to_its_password_alone(tmp_path: Path) -> None:
    port = ports.free_port()
    child = await Child.start(parts.redis(tmp_path, port, "right"), tmp_path / "redis.log")
    try:
        await child.ready()
        assert not await asyncio.to_thread(answers_redis(port, "wrong"))
        assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
    finally:
        await child.stop(asyncio.Event())
    assert child.ended.result() == 0


async def test_a_port_in_use_is_named_with_its_owner_and_the_flag_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ready = settings(tmp_path, gateway_port=port, model_port=ports.free_port(), redis_port=ports.free_port())
        with pytest.raises(UpError) as found:
            await Supervisor(ready, Console(quiet=True)).run()
    message = str(found.value)
    assert f"Port {port}, meant for the gateway, is taken by process {os.getpid()}" in message
    assert "callgate up --port" in message
    assert "make run PORT=" in message


async def test_a_second_start_in_the_same_place_is_refused_with_the_first_ones_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claim(tmp_path, datetime.now(UTC)):
        assert await run_up(settings(tmp_path)) == 3
    assert f"Callgate runs here already (process {os.getpid()} since" in capsys.readouterr().err


def test_a_run_that_was_cut_off_is_mentioned_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "up.lock").write_text("process 1 since long ago", encoding="utf-8")
    with claim(tmp_path, datetime.now(UTC)) as remark:
        assert "The last run (process 1 since long ago) was cut off" in remark
    with claim(tmp_path, datetime.now(UTC)) as remark:
        assert remark == ""


def test_a_free_port_is_not_taken_and_has_no_owner() -> None:
    port = ports.free_port()
    assert not ports.is_taken(port)
    assert ports.owner(port) == ""
