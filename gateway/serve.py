"""The gateway as a process: uvicorn with uvloop and httptools, and logging as JSON lines.

It owns the process (signals, sockets, logs); gateway/app.py owns what is served.
"""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.settings import Settings, SettingsError

if TYPE_CHECKING:
    import uvicorn

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def serve(settings: Settings, config: Path) -> None:
    """Serves until SIGTERM or SIGINT, then lets open answers finish. Raises: SettingsError for a port in use."""
    import structlog
    import uvicorn

    from gateway.app import Door

    set_up_logging(settings.telemetry.log_level)
    listener = _listen(settings, config)
    door = Door(settings)
    server = uvicorn.Server(_uvicorn(settings, door))
    try:
        server.run(sockets=[listener])
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        listener.close()
    failure = door.failure
    if isinstance(failure, SettingsError):
        raise failure
    if failure is not None or not server.started:
        structlog.get_logger("start").error("the gateway did not start", exc_info=failure)
        sys.exit(1)


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


def _listen(settings: Settings, config: Path) -> socket.socket:
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
    return listener


def _uvicorn(settings: Settings, app: object) -> uvicorn.Config:
    import uvicorn

    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI callable; uvicorn's own alias is narrower than the specification
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here believes X-Forwarded-For, and the middleware costs 8 microseconds a request
        date_header=True,
        backlog=2048,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=int(settings.server.drain_s),
    )
