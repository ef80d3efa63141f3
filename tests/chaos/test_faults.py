"""Faults from every side: what the client sees, that nothing hangs beyond its deadline, that CPU stays bounded and usage is settled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import free_port, redis_at
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, Gateway, running, settings_for

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello there"}]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[str]:
    """A backend whose every connection is handled so, once its request has been read."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()


@asynccontextmanager
async def before(
    base_url: str, tmp_path: Path, backend: Backend, redis_url: str, deadline_s: float = 1.0, **more: Any
) -> AsyncIterator[Gateway]:
    deployment = {"name": "d", "base_url": base_url, "model": "m", "first_byte_timeout_s": 0.3, "idle_timeout_s": 0.3}
    models = [{"name": "m", "policy": None, "deadline_s": deadline_s, "deployments": [deployment]}]
    async with running(settings_for(tmp_path, backend, redis_url, models=models, **more)) as started:
        yield started


async def until(gateway: Gateway, body: dict[str, Any], status: int) -> None:
    """Asks until that is the answer."""
    async with asyncio.timeout(10):
        while (await gateway.post(CHAT, body))[0] != status:  # noqa: ASYNC110 (the other side keeps its own time)
            await asyncio.sleep(0.1)


async def talking_to(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gateway.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), limit=1024)


def posted(body: dict[str, Any]) -> bytes:
    """A chat request as bytes."""
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def hung_up(gateway: Gateway) -> None:
    """Returns when one caller's going away has been counted."""
    async with asyncio.timeout(10):
        while True:
            async with gateway.session.get(gateway.url + "/metrics") as response:
                if 'callgate_errors_total{code="client_hung_up"} 1.0' in await response.text():
                    return


EVENT = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def half_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()
    await reader.read()


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" * 100:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
    await reader.read()


async def endless_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM)
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-filler: " + b"a" * 1000 + b"\r\n")
        await writer.drain()


async def compressed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx"
    )


async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("handler", "status"),
    [
        (silent, 504),
        (half_closed, 502),
        (drips, 504),
        (endless_headers, 502),
        (compressed, 502),
        (elsewhere, 502),
    ],
)
async def test_each_fault_of_a_backend_is_one_error_within_the_deadline(
    tmp_path: Path, openai_backend: Backend, redis_url: str, handler: Handler, status: int, streamed: bool
) -> None:
    async with (
        upstream(handler) as url,
        before(url, tmp_path, openai_backend, redis_url, routing={"health_interval_s": 600}) as gateway,
    ):
        cpu_s, begun = time.process_time(), time.monotonic()
        said = {"model": "m", "messages": MESSAGES, "stream": streamed}
        async with gateway.session.post(gateway.url + CHAT, json=said) as response:
            body = await response.json()
        assert response.status == status
        assert body["error"]["type"] in ("upstream_error", "server_error")
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert time.monotonic() - begun < 4
        assert time.process_time() - cpu_s < 1.5


@pytest.mark.parametrize("handler", [stalls, endless_line])
async def test_a_stream_that_stalls_or_never_ends_its_line_ends_with_an_error_event(
    tmp_path: Path, openai_backend: Backend, redis_url: str, handler: Handler
) -> None:
    async with upstream(handler) as url, before(url, tmp_path, openai_backend, redis_url) as gateway:
        said = {"model": "m", "messages": MESSAGES, "stream": True}
        async with gateway.session.post(gateway.url + CHAT, json=said) as response:
            text = (await response.read()).decode()
        assert "[DONE]" not in text
        error = json.loads(text.split("data: ")[-1]) if response.status == 200 else json.loads(text)
        assert error["error"]["code"].startswith("upstream_")


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/v1", "http://127.0.0.1:9/v1", "https://127.0.0.1:{port}/v1"]
)
async def test_no_name_no_port_and_no_tls_are_unavailable(
    tmp_path: Path, openai_backend: Backend, redis_url: str, url: str
) -> None:
    port = openai_backend.base_url.rpartition(":")[2].partition("/")[0]
    async with before(url.replace("{port}", port), tmp_path, openai_backend, redis_url) as gateway:
        status, body, _ = await gateway.post(CHAT, {"model": "m", "messages": MESSAGES})
        assert (status, body["error"]["code"]) == (502, "upstream_unavailable")


async def test_a_backend_that_flaps_is_spared_and_comes_back(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    up, calls = False, 0

    async def flapping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}]}'
        if up:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with (
        upstream(flapping) as url,
        before(url, tmp_path, openai_backend, redis_url, routing={"health_interval_s": 600}) as gateway,
    ):
        statuses = [(await gateway.post(CHAT, {"model": "m", "messages": MESSAGES}))[0] for _ in range(30)]
        assert set(statuses) == {502}
        assert calls < 30  # the breaker opened
        up = True
        await until(gateway, {"model": "m", "messages": MESSAGES}, 200)


async def test_a_client_that_sends_its_body_byte_by_byte_hurts_nobody_else(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    slow = []
    for _ in range(50):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n")
        writer.write(f"authorization: Bearer {KEY}\r\n\r\n{{".encode())
        slow.append(writer)
    assert [(await gateway.post(CHAT, {"model": "echo", "messages": MESSAGES}))[0] for _ in range(10)] == [200] * 10
    for writer in slow:
        writer.close()


async def test_a_client_that_does_not_finish_its_request_is_told_so_and_cut_off(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    async with running(settings_for(tmp_path, openai_backend, redis_url, server={"client_timeout_s": 0.2})) as gateway:
        whole = posted({"model": "echo", "messages": MESSAGES})
        for sent in (whole[:50], whole[:-1]):
            reader, writer = await talking_to(gateway)
            writer.write(sent)
            head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body)["error"]["code"] == "request_timeout"
            writer.close()
        reader, writer = await talking_to(gateway)  # who never says anything is let go without a word
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert (await gateway.post(CHAT, {"model": "echo", "messages": MESSAGES}))[0] == 200


async def test_a_client_that_reads_nothing_of_its_stream_holds_nothing_for_long(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    let_go = asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        event = EVENT.replace(b"hi", b"x" * 50_000)
        writer.write(STREAM)
        try:
            while True:
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
        except ConnectionError:
            let_go.set()

    async with (
        upstream(floods) as url,
        before(url, tmp_path, openai_backend, redis_url, server={"client_timeout_s": 1}, deadline_s=30) as gateway,
    ):
        _, writer = await talking_to(gateway)
        writer.write(posted({"model": "m", "messages": MESSAGES, "stream": True}))
        await asyncio.wait_for(let_go.wait(), 20)
        await hung_up(gateway)
        writer.close()


async def test_a_client_that_closes_its_half_is_gone(gateway: Gateway, openai_backend: Backend) -> None:
    reader, writer = await talking_to(gateway)
    writer.write(posted({"model": "slow", "messages": MESSAGES, "stream": True}))
    await reader.readuntil(b"data: ")
    writer.write_eof()
    await asyncio.wait_for(openai_backend.stream_closed.wait(), 5)
    await hung_up(gateway)
    writer.close()


async def test_redis_that_is_killed_and_comes_back_empty_is_missed_for_no_longer_than_it_is_away(
    tmp_path: Path, openai_backend: Backend
) -> None:
    say, port = {"model": "echo", "messages": MESSAGES}, free_port()
    url = f"redis://127.0.0.1:{port}/0"
    settings = settings_for(tmp_path, openai_backend, url, redis={"url": url, "timeout_s": 0.2})
    async with AsyncExitStack() as stack:
        with redis_at(port, tmp_path):
            gateway = await stack.enter_async_context(running(settings))
            await until(gateway, say, 200)
        status, body, response = await gateway.post(CHAT, say)
        assert (status, body["error"]["code"]) == (503, "limits_unavailable")
        assert "retry-after" in response.headers
        async with gateway.session.get(gateway.url + "/health/live") as alive:
            assert alive.status == 200
        with redis_at(port, tmp_path):
            await until(gateway, say, 200)
            answers = await asyncio.gather(*(gateway.post(CHAT, say) for _ in range(20)))
            assert {status for status, _, _ in answers} == {200}


async def test_redis_that_dies_refuses_in_time_and_serves_again_when_it_is_back(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    say = {"model": "echo", "messages": MESSAGES}
    async with running(
        settings_for(tmp_path, openai_backend, redis_url, redis={"url": redis_url, "timeout_s": 0.2})
    ) as gateway:
        assert (await gateway.post(CHAT, say))[0] == 200
        with redis.Redis.from_url(redis_url) as client:
            client.execute_command("CLIENT", "PAUSE", "1500", "ALL")
            begun = time.monotonic()
            status, body, response = await gateway.post(CHAT, say)
            assert (status, body["error"]["code"]) == (503, "limits_unavailable")
            assert "retry-after" in response.headers
            assert time.monotonic() - begun < 1.5
        await until(gateway, say, 200)


async def test_a_collector_that_hangs_slows_nobody_and_drops_are_counted(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    async with upstream(silent) as url:
        telemetry = {"otlp_endpoint": url + "/traces", "queue_size": 5, "flush_s": 0.05, "export_timeout_s": 0.2}
        limits = {"requests_per_minute": None, "tokens_per_minute": None}
        async with running(
            settings_for(tmp_path, openai_backend, redis_url, telemetry=telemetry, limits=limits)
        ) as gateway:
            said = {"model": "echo", "messages": MESSAGES}
            answers = await asyncio.gather(*(gateway.post(CHAT, said) for _ in range(40)))
            assert {status for status, _, _ in answers} == {200}
            async with asyncio.timeout(10):
                while True:
                    async with gateway.session.get(gateway.url + "/metrics") as response:
                        text = await response.text()
                    if 'dropped_spans_total{reason="export_failed"} 0.0' not in text:
                        break
            assert 'dropped_spans_total{reason="queue_full"} 0.0' not in text


async def test_usage_is_settled_whatever_the_fault(tmp_path: Path, openai_backend: Backend, redis_url: str) -> None:
    limits = {"requests_per_minute": None, "tokens_per_minute": 10_000}
    async with running(settings_for(tmp_path, openai_backend, redis_url, limits=limits)) as gateway:
        for model in ("fail-500", "garbage", "html", "reset", "truncate", "fail-429"):
            said = {"model": model, "messages": [{"role": "user", "content": "long enough to be cut"}], "stream": True}
            async with gateway.session.post(gateway.url + CHAT, json=said | {"max_tokens": 2000}) as response:
                await response.read()
        _, _, response = await gateway.post(CHAT, {"model": "echo", "messages": MESSAGES, "max_tokens": 100})
        left = int(response.headers["x-ratelimit-remaining-tokens"])
        assert left > 9000  # six reservations of 2,000 would have left nothing
