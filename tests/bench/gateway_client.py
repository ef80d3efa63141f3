"""Load on a gateway for benchmarks: closed and open loops, whole and streamed answers. It measures nothing but time. Loopback only."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from contextlib import suppress
from typing import Any

KEY = "sk-bench-4f1c9a7e2b8d4c63a5e0f7b1d2c3a4b5"
PROMPT = "Summarise the following note for a colleague. " + "All work and no play makes Jack a dull boy. " * 21
# Turns of about 300 characters, none of them sent twice: what a policy remembers of a message cannot help.
SENTENCES = (
    "I was charged twice for the same bill and nobody at the shop could tell me why that happened.",
    "My card was declined again at the supermarket although there should be enough money on the account.",
    "Could you please check whether the transfer that I made last week has arrived by now?",
    "The router keeps losing its connection every evening and the engineer has not called me back.",
    "I would like to move my contract to the new address before the end of the month if that is possible.",
    "Your colleague told me that the fee would be taken off, but it is still on this month's statement.",
    "Please tell me how long it usually takes until a new card arrives after the old one was reported lost.",
    "My name is Maria Gonzalez and I am calling because the direct debit was taken three days too early.",
    "I tried to reset the password twice, and each time the link in the message had already expired.",
    "We are going abroad in summer and I want to know what calls and payments will cost us over there.",
)


def request(url: str, *, streamed: bool = False, idle: bool = False, prompt: str = PROMPT) -> tuple[str, int, bytes]:
    """Host, port and the bytes of one request."""
    rest = url.removeprefix("http://")
    place, _, path = rest.partition("/")
    host, _, port = place.partition(":")
    said: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": prompt}], "stream": streamed}
    said |= {"idle": True} if idle else {}
    body = json.dumps(said).encode()
    head = (
        f"POST /{path} HTTP/1.1\r\nhost: {place}\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    )
    return host, int(port), head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def turn(rng: random.Random) -> str:
    """A caller's turn of about 300 characters that was not sent before."""
    return f"{' '.join(rng.sample(SENTENCES, 3))} It was {rng.randrange(10**6)} in {rng.randrange(10**4)}."


async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> int:
    """Asks once and reads the answer to its end: the number of events in it (0 for a whole answer). Raises: RuntimeError."""
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise RuntimeError(head[:200].decode("latin-1"))
    lower = head.lower()
    if b"content-length:" in lower:
        await reader.readexactly(int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        return 0
    events = 0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        events += (await reader.readexactly(size + 2)).count(b"data: ")
    await reader.readexactly(2)
    return events


async def first_answer(url: str, within_s: float) -> float:
    """When the first whole answer had come (monotonic seconds)."""
    host, port, sent = request(url)
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, port)
            await one_answer(reader, writer, sent)
            writer.close()
            return time.monotonic()
        await asyncio.sleep(0.02)
    raise TimeoutError(f"no answer from {url} within {within_s} s")


async def saturate(url: str, seconds: float, connections: int, *, fresh: bool = False, seed: int = 7) -> int:
    """A closed loop on so many connections: the number of answers. ``fresh``: every turn is a new one, unless the seed was used before."""
    rng = random.Random(seed)
    host, port, sent = request(url)
    until, answers = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection(host, port)
        while time.monotonic() < until:
            await one_answer(reader, writer, request(url, prompt=turn(rng))[2] if fresh else sent)
            answers += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return answers


async def latency(url: str, seconds: float, per_s: int = 50) -> float:
    """Median milliseconds at an open loop, from the moment that each request should have been sent."""
    host, port, sent = request(url)
    spare: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    took: list[float] = []

    async def one(due: float) -> None:
        reader, writer = spare.pop() if spare else await asyncio.open_connection(host, port)
        await one_answer(reader, writer, sent)
        took.append((time.monotonic() - due) * 1000)
        spare.append((reader, writer))

    begun = time.monotonic()
    tasks = []
    for number in range(int(seconds * per_s)):
        due = begun + number / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    return statistics.median(took)


async def stream(url: str, each: int) -> int:
    """Sixteen connections with so many streams one after another: the number of events."""
    host, port, sent = request(url, streamed=True)

    async def one() -> int:
        reader, writer = await asyncio.open_connection(host, port)
        events = [await one_answer(reader, writer, sent) for _ in range(each)]
        writer.close()
        return sum(events)

    return sum(await asyncio.gather(*(one() for _ in range(16))))
