"""Chat and completions through a whole gateway without policy: shapes, streams, faults, hang-up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.doubles.openai_backend import USAGE, Backend
from tests.gateway.conftest import Gateway

CHAT = "/v1/chat/completions"


def ask(model: str, text: str = "hello there", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


async def test_a_whole_answer_has_openais_shape(gateway: Gateway) -> None:
    status, body, response = await gateway.post(CHAT, ask("echo"))
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "echo"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hello there"}
    assert body["usage"]["total_tokens"] == 18
    assert len(response.headers["x-request-id"]) == 32
    assert int(response.headers["x-ratelimit-remaining-requests"]) == 599


async def test_a_stream_ends_with_done_and_says_what_the_whole_answer_says(gateway: Gateway) -> None:
    events = await gateway.events(ask("echo-1", "héllo ✓ there"))
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "héllo ✓ there"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_is_streamed_to_those_who_ask_for_it(gateway: Gateway) -> None:
    events = await gateway.events(ask("echo", stream_options={"include_usage": True}))
    last = json.loads(events[-2])
    assert last["choices"] == []
    assert last["usage"] == USAGE


async def test_legacy_completions_are_answered_whole_and_streamed(gateway: Gateway) -> None:
    status, body, _ = await gateway.post("/v1/completions", {"model": "echo", "prompt": "once upon"})
    assert (status, body["object"], body["choices"][0]["text"]) == (200, "text_completion", "once upon")
    events = await gateway.events({"model": "echo", "prompt": "once upon"}, "/v1/completions")
    assert "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1]) == "once upon"


async def test_tool_calls_pass_whole_and_streamed(gateway: Gateway) -> None:
    _, body, _ = await gateway.post(CHAT, ask("tool", "Ann"))
    assert json.loads(body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"who": "Ann"}
    events = [json.loads(e) for e in (await gateway.events(ask("tool", "Ann")))[:-1]]
    calls = [call for e in events for call in e["choices"][0]["delta"].get("tool_calls") or ()]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"who": "Ann"}


async def test_several_choices_are_all_answered(gateway: Gateway) -> None:
    _, body, _ = await gateway.post(CHAT, ask("echo", n=3))
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]


async def test_fields_unknown_here_still_reach_the_backend(gateway: Gateway, openai_backend: Backend) -> None:
    await gateway.post(CHAT, ask("echo", top_k=5, temperature=0.3))
    assert openai_backend.bodies[-1]["top_k"] == 5
    assert (
        openai_backend.bodies[-1]["max_tokens"] == 4096
    )  # a bound on what can be spent, also where none was asked for


async def test_the_trace_goes_on_to_the_backend_and_the_key_does_not(gateway: Gateway, openai_backend: Backend) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    _, _, response = await gateway.post(CHAT, ask("echo"), headers={"traceparent": parent, "x-request-id": "call-7"})
    assert response.headers["x-callgate-trace-id"] == "0af7651916cd43dd8448eb211c80319c"
    assert response.headers["x-request-id"] == "call-7"
    sent = {name.lower(): value for name, value in openai_backend.headers[-1].items()}
    assert sent["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert "authorization" not in sent


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("fail-500", 502, "upstream_error"),
        ("fail-429", 429, "upstream_rate_limited"),
        ("fail-401", 502, "upstream_credentials"),
        ("fail-404", 502, "upstream_no_model"),
        ("context", 400, "context_length_exceeded"),
        ("hang", 504, "upstream_timeout"),
        ("reset", 502, "upstream_unavailable"),
        ("html", 502, "upstream_invalid_response"),
        ("garbage", 502, "upstream_invalid_response"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_fault_of_a_backend_is_one_error_in_openais_shape(
    gateway: Gateway, model: str, status: int, code: str, stream: bool
) -> None:
    got, body, response = await gateway.post(CHAT, ask(model, stream=stream))
    assert (got, body["error"]["code"]) == (status, code)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "SECRET" not in json.dumps(body)
    if status == 429:
        assert response.headers["retry-after"] == "7"


async def test_a_refusal_names_the_fields_that_the_backend_named_and_none_of_its_words(gateway: Gateway) -> None:
    _, body, _ = await gateway.post(CHAT, ask("greedy", temperature=0, n=2, seed=1))
    assert body["error"] == {
        "message": "The model's server refused the request: check temperature and n.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "upstream_rejected",
    }


async def test_a_stream_cut_by_the_backend_ends_with_an_error_and_no_done(gateway: Gateway) -> None:
    events = await gateway.events(ask("truncate", "a long enough answer"))
    assert json.loads(events[-1])["error"]["code"] == "upstream_cut"
    assert "[DONE]" not in events


async def test_an_answer_that_finished_is_whole_without_done(gateway: Gateway) -> None:
    events = await gateway.events(ask("no-done"))
    assert events[-1] == "[DONE]"
    assert "error" not in json.loads(events[-2])


async def test_a_stream_that_is_none_is_refused(gateway: Gateway) -> None:
    status, body, _ = await gateway.post(CHAT, ask("prose-stream", stream=True))
    assert (status, body["error"]["code"]) == (502, "upstream_invalid_response")


async def test_hang_up_ends_the_backends_work_and_settles_the_reservation(
    gateway: Gateway, openai_backend: Backend
) -> None:
    async with gateway.session.post(gateway.url + CHAT, json=ask("slow", stream=True, max_tokens=4000)) as response:
        await response.content.readany()
        reserved = int(response.headers["x-ratelimit-remaining-tokens"])
        response.close()
    await asyncio.wait_for(openai_backend.stream_closed.wait(), 5)
    _, _, after = await gateway.post(CHAT, ask("echo", max_tokens=1))
    assert int(after.headers["x-ratelimit-remaining-tokens"]) > reserved + 3000
    async with gateway.session.get(gateway.url + "/metrics") as metrics:
        assert 'callgate_errors_total{code="client_hung_up"} 1.0' in await metrics.text()


async def test_models_are_those_of_the_settings(gateway: Gateway) -> None:
    async with gateway.session.get(gateway.url + "/v1/models") as response:
        body = await response.json()
    assert "echo" in {model["id"] for model in body["data"]}
    async with gateway.session.get(gateway.url + "/v1/models/nope") as response:
        assert response.status == 404


async def test_health_metrics_and_docs_answer_without_a_key(gateway: Gateway) -> None:
    for path in ("/health/live", "/health/liveliness", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        async with gateway.session.get(gateway.url + path, headers={"authorization": ""}) as response:
            assert response.status == 200, path
    async with gateway.session.get(gateway.url + "/openapi.json") as response:
        described = await response.json()
    assert "messages" in described["components"]["schemas"]["ChatRequest"]["properties"]
    async with gateway.session.get(gateway.url + "/nothing/here") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")
