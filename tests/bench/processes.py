"""Programs that a benchmark runs beside itself: started as sessions of their own, and ended with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def session(
    command: Sequence[str],
    environment: Mapping[str, str] = {},
    before: Callable[[], None] | None = None,
    folder: Path = ROOT,
) -> Iterator[int]:
    """Runs a command in the project's folder or another; its process id. ``before`` is called in the child before the command begins."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=before,  # noqa: PLW1509 (no threads are running)
    )
    try:
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def session_pids(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    yield int(entry.name)


def cpu_s(session: int) -> float:
    """User and system seconds of all its processes so far."""
    total = 0
    for pid in session_pids(session):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_mb(session: int) -> float:
    pages = 0
    for pid in session_pids(session):
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
