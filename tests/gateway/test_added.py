"""Personal data that a model adds is taken out of every text of an answer, before anything notes it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import RailUnavailable
from gateway.steps.added import CleanedReply
from gateway.types import ChatRequest, Chunk, Record
from guardrails.added import AddedData
from guardrails.detectors.pattern import Pattern
from guardrails.redaction import RedactionSettings, build_redactor
from tests.doubles.openai_backend import ADDED, Backend
from tests.gateway.conftest import running, settings_for
from tests.gateway.test_telemetry import collector

ROOT = Path(__file__).parents[2]
LOOK_UP = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CLEAN = ADDED.replace("other.person@example.net", "<EMAIL_ADDRESS>").replace("5500 0000 0000 0004", "<CREDIT_CARD>")
MAIL = "other.person@example.net"

pytestmark = pytest.mark.filterwarnings("ignore")


def built(**answers: object) -> AddedData:
    added = build_redactor(RedactionSettings.model_validate({"ner": "off", "answers": answers})).added
    assert added is not None
    return added


def asked(**more: Any) -> ChatRequest:
    record = Record("r", b"t" * 16, b"s" * 8, b"", 0, "chat")
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}
    return ChatRequest("chat", "m", body, bool(more.get("stream")), False, record, 0.0)


async def through(added: AddedData, request: ChatRequest, *chunks: Chunk) -> list[Chunk]:
    async def reply() -> AsyncGenerator[Chunk]:
        for chunk in chunks:
            yield chunk

    return [chunk async for chunk in CleanedReply(added, request).chunks(reply())]


def piece(index: int, finish: str | None = None, logprobs: Any = None, **delta: Any) -> Chunk:
    choice: Chunk = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "x", "choices": [choice | ({"logprobs": logprobs} if logprobs else {})]}


def joined(chunks: list[Chunk], index: int, field: str) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(field) or "" for choice in choices)


async def test_every_choice_and_every_field_of_a_stream_is_looked_through() -> None:
    request = asked(n=2, stream=True)
    pieces = [
        piece(index, **{field: text[start : start + 3]})
        for index, field, text in ((0, "content", ADDED), (1, "refusal", ADDED), (1, "reasoning_content", ADDED))
        for start in range(0, len(text), 3)
    ]
    arguments = json.dumps({"to": ADDED, "card": 5500000000000004})
    pieces += [
        piece(0, function_call={"arguments": arguments[start : start + 3]}) for start in range(0, len(arguments), 3)
    ]
    out = await through(built(), request, *pieces, piece(0, "stop"), piece(1, "stop"))
    assert (joined(out, 0, "content"), joined(out, 1, "refusal"), joined(out, 1, "reasoning_content")) == (CLEAN,) * 3
    calls = [
        c["delta"]["function_call"]["arguments"]
        for chunk in out
        for c in chunk["choices"]
        if "function_call" in c["delta"]
    ]
    assert json.loads("".join(calls)) == {"to": CLEAN, "card": "<CREDIT_CARD>"}
    assert request.record.redacted_answer == {"EMAIL_ADDRESS": 4, "CREDIT_CARD": 5}
    assert [(rail.rail, rail.stage, rail.outcome) for rail in request.record.rails] == [
        ("redaction", "output", "rewrite")
    ]


async def test_an_answer_that_breaks_off_gives_up_what_was_held() -> None:
    out = await through(built(), asked(stream=True), piece(0, content="it is 4"), piece(0, content="2"))
    assert joined(out, 0, "content") == "it is 42"


async def test_a_kind_that_the_policy_blocks_ends_its_choice_and_no_other() -> None:
    added, request = built(entities={"CREDIT_CARD": "block"}), asked(n=2, stream=True)
    pieces = [
        piece(0, content=ADDED),
        piece(1, content="fine "),
        piece(0, content=" more"),
        piece(1, "stop", content="too"),
    ]
    out = await through(added, request, *pieces)
    assert "5500" not in json.dumps(out)
    assert joined(out, 1, "content") == "fine too"
    assert [c["finish_reason"] for chunk in out for c in chunk["choices"] if c["finish_reason"]] == [
        "content_filter",
        "stop",
    ]
    assert request.record.rails[-1].outcome == "block"
    whole = await through(added, asked(), piece(0, "stop", role="assistant", content=ADDED))
    assert whole[0]["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "finish_reason": "content_filter",
    }


async def test_log_probabilities_wait_for_their_text_and_go_with_a_value() -> None:
    def told(*tokens: str) -> Any:
        return {"content": [{"token": token} for token in tokens]}

    plain = [piece(0, None, told("so"), content="so"), piece(0, None, told(" it"), content=" it "), piece(0, "stop")]
    out = await through(built(), asked(stream=True), *plain)
    kept = [entry["token"] for c in out for entry in (c["choices"][0].get("logprobs") or {}).get("content", ())]
    assert kept == ["so", " it"]
    added = [piece(0, None, told(MAIL), content=MAIL), piece(0, "stop", told("."), content=" .")]
    assert "other" not in json.dumps(await through(built(), asked(stream=True), *added))


async def test_what_could_not_be_looked_through_is_withheld_and_was_not_run() -> None:
    def broken(text: str) -> tuple[int, int] | None:
        raise ZeroDivisionError(text)

    request = asked(stream=True)
    added = AddedData(RedactionSettings(), [Pattern("BADGE", "badge", r"BDG-\d+", 1.0, 12, broken)], b"k")
    with pytest.raises(RailUnavailable):
        await through(added, request, piece(0, content="badge BDG-1234 is "))
    assert (request.record.rails[-1].outcome, request.record.rails[-1].enforced) == ("not_run", True)
    assert "BADGE" in request.record.rails[-1].reason


async def test_what_a_model_adds_reaches_neither_callers_nor_traces_nor_metrics(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    async with collector() as (url, traces):
        models = [
            {
                "name": name,
                "policy": "call-centre",
                "deadline_s": 5,
                "deployments": [{"name": name, "base_url": openai_backend.base_url, "model": name}],
            }
            for name in ("adds", "adds-tool")
        ]
        settings = settings_for(
            tmp_path,
            openai_backend,
            redis_url,
            embedding={"enabled": True},
            policies={"call-centre": str(ROOT / "guardrails/policies/call-centre")},
            models=models,
            telemetry={"otlp_endpoint": url, "flush_s": 0.01},
        )
        question = [{"role": "user", "content": "How do I pay my bill?"}]
        seen = ""
        async with running(settings) as gateway:
            for stream in (False, True):
                chats: tuple[tuple[str, dict[str, Any]], ...] = (
                    ("/v1/chat/completions", {"model": "adds", "messages": question}),
                    ("/v1/chat/completions", {"model": "adds-tool", "messages": question, "tools": LOOK_UP}),
                    ("/v1/completions", {"model": "adds", "prompt": "How do I pay my bill?"}),
                    ("/v1/responses", {"model": "adds", "input": "How do I pay my bill?"}),
                )
                for path, body in chats:
                    async with gateway.session.post(gateway.url + path, json={**body, "stream": stream}) as response:
                        text = await response.text()
                        assert response.status == 200, text
                        assert stream or "<EMAIL_ADDRESS>" in text.replace("\\u003c", "<")
                        seen += text
            async with gateway.session.get(gateway.url + "/metrics") as response:
                metrics = await response.text()
        assert 'callgate_redacted_answer_total{kind="EMAIL_ADDRESS"} 8.0' in metrics
        everything = seen + metrics + b"".join(traces).decode("utf-8", "replace")
        assert "callgate.redacted_answer" in everything
        for value in (MAIL, "other.person", "5500 0000", "0000 0004"):
            assert value not in everything
