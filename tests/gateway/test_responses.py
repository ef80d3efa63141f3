"""The Responses API with the official client: items, instructions, tools, text.format, streamed events, and its own exceptions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import KEY, Gateway

TOOL: Any = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with httpx.AsyncClient(trust_env=False) as direct:
        yield openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0, http_client=direct)


async def test_a_response_has_the_text_the_usage_and_what_was_asked(
    client: openai.AsyncOpenAI, openai_backend: Backend
) -> None:
    answer = await client.responses.create(
        model="echo", input="hello there", instructions="Be brief.", max_output_tokens=50, metadata={"team": "a"}
    )
    assert (answer.output_text, answer.status, answer.instructions) == ("hello there", "completed", "Be brief.")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.metadata) == (11, 7, {"team": "a"})
    assert answer.usage.input_tokens_details.cached_tokens == 5
    assert answer.usage.output_tokens_details.reasoning_tokens == 2
    sent = openai_backend.bodies[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["max_completion_tokens"] == 50


async def test_streamed_events_are_numbered_and_in_the_order_of_the_reference(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="echo-1", input="hi you", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "hi you"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "hi you"
    assert last.response.usage is not None


async def test_tools_are_called_and_their_outputs_go_back(client: openai.AsyncOpenAI, openai_backend: Backend) -> None:
    asked: Any = [{"role": "user", "content": [{"type": "input_text", "text": "who is Ann"}]}]
    answer = await client.responses.create(model="tool", input=asked, tools=[TOOL], tool_choice="required")
    call = answer.output[0]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments), call.call_id) == ("look_up", {"who": "who is Ann"}, "call_1")
    assert openai_backend.bodies[-1]["tools"][0]["function"]["name"] == "look_up"
    stream = await client.responses.create(model="tool", input=asked, tools=[TOOL], stream=True)
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == {"who": "who is Ann"}
    back: Any = [
        *asked,
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "a customer"},
        {"role": "user", "content": "thanks"},
    ]
    await client.responses.create(model="echo", input=back)
    roles = [message["role"] for message in openai_backend.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]


async def test_a_json_schema_reaches_the_backend_in_its_own_shape(
    client: openai.AsyncOpenAI, openai_backend: Backend
) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "card", "schema": {"type": "object"}, "strict": True}}
    await client.responses.create(model="echo", input="{}", text=form)
    wanted = {"name": "card", "schema": {"type": "object"}, "strict": True}
    assert openai_backend.bodies[-1]["response_format"] == {"type": "json_schema", "json_schema": wanted}


async def test_a_stream_that_breaks_off_raises_the_clients_exception(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="truncate", input="long enough to be cut", stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "boss", "content": "x"}]}, "input[0].role"),
        ({"input": []}, "input"),
        ({"base_url": "http://elsewhere"}, "base_url"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    status, body, _ = await gateway.post("/v1/responses", {"model": "echo", "input": "x", **change})
    assert (status, body["error"]["param"]) == (400, param)


async def test_embeddings_of_a_configured_backend_pass_through(
    client: openai.AsyncOpenAI, openai_backend: Backend
) -> None:
    made = await client.embeddings.create(model="echo", input=["a", "bcd"], encoding_format="float", dimensions=2)
    assert [row.embedding[0] for row in made.data] == [1.0, 3.0]
    assert (made.model, made.usage.prompt_tokens) == ("echo", 3)
    assert "max_tokens" not in openai_backend.bodies[-1]
