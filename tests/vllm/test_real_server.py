"""Callgate before a real vLLM: the official client's features, personal data, hang-up, and what only vLLM has."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from gateway.auth import KeyHasher
from gateway.types import Deployment
from gateway.upstream import HttpBackends
from gateway.vllm import health
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, SECRET, running, settings_for
from tests.vllm.conftest import MODEL, SLOTS

ROOT = Path(__file__).parents[2]
OTHER_KEY = "cg-other-key"
LONG = "Tell the caller how to block a stolen card, in one long paragraph. " * 12
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["refund", "card"]}},
    "required": ["intent"],
    "additionalProperties": False,
}

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
async def client(
    vllm_url: str, tmp_path: Path, openai_backend: Backend, redis_url: str
) -> AsyncIterator[openai.AsyncOpenAI]:
    def model(name: str, policy: str | None = None, **more: Any) -> dict[str, Any]:
        deployment = {"name": name, "base_url": f"{vllm_url}/v1", "model": MODEL, "engine": "vllm", **more}
        return {"name": name, "policy": policy, "deadline_s": 120, "deployments": [deployment]}

    settings = settings_for(
        tmp_path,
        openai_backend,
        redis_url,
        embedding={"enabled": True},
        policies={"call-centre": str(ROOT / "guardrails/policies/call-centre")},
        keys=[{"id": k, "hash": KeyHasher(SECRET.encode()).hash(k.encode())} for k in (KEY, OTHER_KEY)],
        models=[
            model("plain"),
            model("guarded", "call-centre"),
            model("apart", prefix_cache="by_key"),
            model("bulk", priority=10),
            model("urgent", priority=-10),
        ],
    )
    async with running(settings) as gateway:
        yield openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8, **more}


async def page(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        return await response.read()


async def number(url: str, name: str) -> float:
    return sum(
        float(n) for n in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", (await page(url)).decode(), re.MULTILINE)
    )


async def queue(url: str, running_now: int, waiting: int) -> None:
    """Returns when vLLM has this many answers running and waiting; bounded by the test's own limit."""
    while True:
        told = health(await page(url))
        if (told.running, told.waiting) == (running_now, waiting):
            return
        await asyncio.sleep(0.05)


async def test_what_the_official_client_can_ask(client: openai.AsyncOpenAI) -> None:
    both = await client.chat.completions.create(model="plain", **ask("Say hello.", n=2, temperature=1, seed=1))
    assert [choice.index for choice in both.choices] == [0, 1]
    whole = await client.chat.completions.create(model="plain", **ask("Say hello.", logprobs=True))
    assert whole.choices[0].logprobs
    assert whole.choices[0].logprobs.content
    counted: Any = {"stream": True, "stream_options": {"include_usage": True}}
    events = [e async for e in await client.chat.completions.create(model="plain", **counted, **ask("Say hello."))]
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == whole.choices[0].message.content
    assert events[-1].usage == whole.usage
    with pytest.raises(openai.BadRequestError, match="check n"):
        await client.chat.completions.create(model="plain", **ask("Say hello.", n=2))
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "intent", "schema": SCHEMA, "strict": True}}
    shaped = await client.chat.completions.create(
        model="plain", response_format=wanted, **ask("My card was stolen.", max_tokens=60)
    )
    assert json.loads(shaped.choices[0].message.content or "")["intent"] in ("refund", "card")
    legacy = await client.completions.create(model="plain", prompt="Once upon a", max_tokens=4)
    assert legacy.choices[0].text


async def test_personal_data_is_back_in_the_answer_of_a_guarded_stream(client: openai.AsyncOpenAI) -> None:
    asked = ask(
        "Repeat this sentence exactly: Please confirm my card payment by e-mail to maria.g@example.com", max_tokens=60
    )
    events = [e async for e in await client.chat.completions.create(model="guarded", stream=True, **asked)]
    said = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert said
    assert "[EMAIL_ADDRESS_1]" not in said


async def test_a_hang_up_ends_the_work_of_the_model(client: openai.AsyncOpenAI, vllm_url: str) -> None:
    stream = await client.chat.completions.create(
        model="plain", stream=True, **ask("Count.", max_tokens=1500, extra_body={"ignore_eos": True})
    )
    await anext(stream)
    await queue(vllm_url, 1, 0)
    await stream.close()
    await queue(vllm_url, 0, 0)


async def test_a_prefix_is_remembered_for_its_own_key_alone(client: openai.AsyncOpenAI, vllm_url: str) -> None:
    async def hits(who: openai.AsyncOpenAI) -> float:
        before = await number(vllm_url, "prefix_cache_hits_total")
        await who.chat.completions.create(model="apart", **ask(LONG))
        return await number(vllm_url, "prefix_cache_hits_total") - before

    assert await hits(client) == 0
    assert await hits(client) > 0
    assert await hits(client.with_options(api_key=OTHER_KEY)) == 0


async def test_urgent_work_passes_what_waits(client: openai.AsyncOpenAI, vllm_url: str) -> None:
    done: list[str] = []

    async def work(model: str, tokens: int) -> None:
        await client.chat.completions.create(
            model=model, **ask("Count.", max_tokens=tokens, extra_body={"ignore_eos": True})
        )
        done.append(model)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(SLOTS):
            tasks.create_task(work("plain", 300))
        await queue(vllm_url, SLOTS, 0)
        for _ in range(3):
            tasks.create_task(work("bulk", 4))
        await queue(vllm_url, SLOTS, 3)
        tasks.create_task(work("urgent", 4))
    assert [model for model in done if model != "plain"] == ["urgent", "bulk", "bulk", "bulk"]


async def test_a_model_that_is_not_served_is_not_alive(vllm_url: str) -> None:
    http = HttpBackends()
    there, gone = (
        Deployment("d", name, base_url=f"{vllm_url}/v1", engine="vllm") for name in (MODEL, "no-such-adapter")
    )
    assert (await http.health(there)).alive
    assert not (await http.health(gone)).alive
    await http.aclose()
