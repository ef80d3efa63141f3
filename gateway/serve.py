"""The gateway as a process: uvicorn with uvloop and httptools, and logging as JSON lines.

It owns the process (signals, sockets, logs); gateway/app.py owns what is served.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.settings import Settings, SettingsError, worker_environment

if TYPE_CHECKING:
    import uvicorn

    from gateway.app import Door

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def serve(settings: Settings, config: Path, inherited: int | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then lets open answers finish. ``inherited``: the descriptor of a listening socket (in a worker).

    Raises: SettingsError for a port in use, or parts that several workers cannot share.
    """
    set_up_logging(settings.telemetry.log_level)
    listener = socket.socket(fileno=inherited) if inherited is not None else listen(settings, config)
    try:
        if settings.server.workers > 1 and inherited is None:
            from gateway.workers import refuse_unshareable, supervise

            refuse_unshareable(settings, config)
            sys.exit(asyncio.run(supervise(settings, config, listener, worker_environment())))
        _serve_here(settings, config, listener, worker=inherited is not None)
    finally:
        listener.close()


def _serve_here(settings: Settings, config: Path, listener: socket.socket, *, worker: bool) -> None:
    import structlog
    import uvicorn

    from gateway.app import Door

    door = Door(settings, config if config.exists() else None)
    server = uvicorn.Server(uvicorn_config(settings, door))
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(_until_told(server, door, listener, settings.server.lame_duck_s, worker=worker))
    except (KeyboardInterrupt, SystemExit):
        pass
    failure = door.failure
    if isinstance(failure, SettingsError):
        raise failure
    if failure is not None or not server.started:
        structlog.get_logger("start").error("the gateway did not start", exc_info=failure)
        sys.exit(1)


async def _until_told(
    server: uvicorn.Server, door: Door, listener: socket.socket, lame_duck_s: float, *, worker: bool
) -> None:
    """Serves; SIGTERM and SIGINT drain (a second one hurries), SIGHUP looks at the settings file."""
    from gateway.workers import leave_with_parent

    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[None]] = set()

    def stop() -> None:
        if server.should_exit or not lame_duck_s:
            server.force_exit = server.should_exit
            server.should_exit = True
            return
        door.drain()
        loop.call_later(lame_duck_s, setattr, server, "should_exit", True)

    def reload() -> None:
        task = asyncio.ensure_future(door.reload())
        pending.add(task)
        task.add_done_callback(pending.discard)

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    leash = leave_with_parent(os.getppid(), stop) if worker else None
    try:
        await server._serve([listener])  # its public serve() would take the signals itself
    finally:
        if leash is not None:
            leash.cancel()


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def set_up_logging(level: str) -> None:
    """Every log line is one JSON object on standard error. Only named fields are logged, and none of them is a text of a request."""
    import msgspec
    import structlog

    encode = msgspec.json.encode
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            lambda _, __, event: encode(event),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, format='{"level":"%(levelname)s","logger":"%(name)s","event":"library_message"}'
    )


def listen(settings: Settings, config: Path) -> socket.socket:
    """The socket that requests come to; ``config`` is the file that complaints name. Raises: SettingsError for a port in use."""
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = f"cannot listen on {host}:{port} ({error.strerror}); choose another with server.port or --port"
        raise SettingsError(config, None, "server.port", message) from None
    if (
        sys.platform == "linux"
    ):  # connections inherit it: the system drops those whose peer has stopped taking what was written
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.server.client_timeout_s * 1000))
    listener.set_inheritable(True)  # workers get it by its number
    listener.listen(2048)
    return listener


def uvicorn_config(settings: Settings, app: object) -> uvicorn.Config:
    """How ``app``, an ASGI callable, is served."""
    import functools

    import uvicorn

    from gateway.http_server import LeanProtocol

    server = settings.server
    protocol = functools.partial(LeanProtocol, arrival_s=server.client_timeout_s, most_body_bytes=server.max_body_bytes)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI callable; uvicorn's own alias is narrower than the specification
        loop="uvloop",
        http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here believes X-Forwarded-For, and the middleware costs 8 microseconds a request
        date_header=True,
        backlog=2048,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=int(server.drain_s),
    )
