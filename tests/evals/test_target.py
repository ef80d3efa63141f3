"""A client that is patient but not for ever, pays once, keeps its budget, and turns every fault into a named error."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from evals.errors import RecordError, TargetError
from evals.journal import Journal
from evals.target import Budget, Patience, Price

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


def reply(text: str = "hello", **usage: int) -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"choices": [choice], "usage": usage or {"prompt_tokens": 10, "completion_tokens": 5}})


async def test_what_was_answered_once_is_never_asked_again(double: Any, make_client: Any) -> None:
    first = await make_client().ask(BODY, version="1", repeat=0)
    again = await make_client().ask(BODY, version="1", repeat=0)
    assert (first.text, first.from_cache) == ("hello", False)
    assert (again.text, again.from_cache) == ("hello", True)
    assert len(double.seen) == 1


@pytest.mark.parametrize("change", [{"version": "2"}, {"repeat": 1}, {"body": {**BODY, "temperature": 1}}])
async def test_another_version_repeat_or_setting_is_another_question(
    double: Any, make_client: Any, change: Any
) -> None:
    client = make_client()
    asked: dict[str, Any] = {"body": BODY, "version": "1", "repeat": 0}
    await client.ask(**asked)
    await client.ask(**(asked | change))
    assert len(double.seen) == 2


async def test_faults_that_pass_are_retried_with_jitter_and_retry_after(
    double: Any, make_client: Any, hands: Any
) -> None:
    script = [
        web.Response(status=503, text="x"),
        web.Response(status=429, text="x", headers={"retry-after": "7"}),
        reply(),
    ]
    double.script = lambda body, number: script[number - 1]
    answer = await make_client(patience=Patience(backoff_s=2.0)).ask(BODY, version="1", repeat=0)
    assert answer.text == "hello"
    assert hands.pauses == [1.0, 7.0]


@pytest.mark.parametrize(
    ("make", "error", "asked"),
    [
        (lambda: web.Response(status=500, text="oops"), "http 500", 4),
        (lambda: web.json_response({"error": {"code": "model_not_found"}}, status=404), "http 404: model_not_found", 1),
        (lambda: web.Response(text="<html>", content_type="text/html"), "http 200: the reply is not JSON", 1),
        (lambda: web.json_response([]), "not an OpenAI chat completion", 1),
        (lambda: web.json_response({"choices": [{"message": {"content": 3}, "finish_reason": "x"}]}), "not a text", 1),
        (lambda: web.Response(body=b" " * (5 << 20)), "more than 4 MiB", 1),
    ],
)
async def test_a_fault_is_an_error_with_a_name(
    double: Any, make_client: Any, make: Any, error: str, asked: int
) -> None:
    double.script = lambda body, number: make()
    answer = await make_client().ask(BODY, version="1", repeat=0)
    assert error in (answer.error or "")
    assert len(double.seen) == asked


async def test_a_fault_is_asked_again_by_the_next_run(double: Any, make_client: Any) -> None:
    double.script = lambda body, number: web.Response(status=404, text="{}") if number == 1 else reply()
    assert (await make_client().ask(BODY, version="1", repeat=0)).error
    assert (await make_client().ask(BODY, version="1", repeat=0)).text == "hello"


async def test_the_deadline_ends_the_retries(double: Any, make_client: Any, hands: Any) -> None:
    double.script = lambda body, number: web.Response(status=503, text="x", headers={"retry-after": "60"})
    answer = await make_client(patience=Patience(attempts=9, deadline_s=100)).ask(BODY, version="1", repeat=0)
    assert "http 503" in (answer.error or "")
    assert hands.pauses == [60.0]


async def test_a_block_by_policy_is_an_answer(double: Any, make_client: Any) -> None:
    double.script = lambda body, number: web.json_response({"error": {"code": "content_policy_violation"}}, status=400)
    answer = await make_client().ask(BODY, version="1", repeat=0)
    assert answer.blocked
    assert answer.error is None


async def test_no_more_requests_are_under_way_than_allowed_and_the_key_is_sent(double: Any, make_client: Any) -> None:
    client = make_client(concurrency=3, key="k")
    await asyncio.gather(*(client.ask(BODY, version="1", repeat=n) for n in range(20)))
    assert double.most_at_once <= 3
    assert set(double.keys) == {"Bearer k"}


async def test_the_budget_is_never_overspent(double: Any, make_client: Any) -> None:
    price = Price(Decimal(1000), Decimal(1000))
    double.script = lambda body, number: reply(prompt_tokens=50, completion_tokens=10)
    budget = Budget(max_cost_usd=Decimal("0.5"))
    client = make_client(budget=budget, concurrency=8)
    answers = await asyncio.gather(*(client.ask(BODY, version="1", repeat=n, price=price) for n in range(30)))
    assert budget.cost_usd <= Decimal("0.5")
    assert any(answer.error is None for answer in answers)
    assert {answer.error for answer in answers} == {None, "budget: the limit of the suite is reached"}


async def test_a_limit_on_requests_counts_retries(double: Any, make_client: Any) -> None:
    double.script = lambda body, number: web.Response(status=503, text="x")
    await make_client(budget=Budget(max_requests=2)).ask(BODY, version="1", repeat=0)
    assert len(double.seen) == 2


async def test_an_unreachable_server_and_a_refused_key_say_what_to_do(double: Any, make_client: Any) -> None:
    client = make_client()
    await client.check_reachable()
    double.models_status = 401
    with pytest.raises(TargetError, match="CALLGATE_API_KEY"):
        await client.check_reachable()
    client._url = "http://127.0.0.1:1/v1"
    with pytest.raises(TargetError, match="callgate up"):
        await client.check_reachable()


def test_a_journal_survives_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal.open(path)
    journal.put("a", {"text": "á"})
    journal.put("b", {"text": "x"})
    journal.close()
    path.write_bytes(path.read_bytes()[:-4])
    for _ in range(2):
        journal = Journal.open(path)
        assert journal.get("a") == {"text": "á"}
        assert journal.get("b") is None
        journal.put("c", {"text": "y"})
        journal.close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_journal_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text("hello\n" + json.dumps({"key": "a", "reply": {}}) + "\n")
    with pytest.raises(RecordError, match=r"j\.jsonl:1"):
        Journal.open(path)


def test_what_was_under_way_when_a_process_died_is_remembered_at_its_worst(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal.open(path)
    for key in "abc":
        journal.begin(key, Decimal(2))
    journal.put("a", {"text": "x"})
    journal.end("b", Decimal(0))
    journal.close()
    journal = Journal.open(path)
    assert (journal.lost_usd, len(journal)) == ((Decimal(2),), 1)
    journal.begin("c", Decimal(3))
    journal.put("c", {"text": "y"})
    journal.close()
    assert Journal.open(path).lost_usd == (Decimal(2),)


async def test_a_next_process_counts_what_failed_attempts_and_untold_replies_cost_the_last(
    double: Any, make_client: Any
) -> None:
    """Until then a killed run had its whole limit again for every attempt that broke off, and every reply that told no usage."""
    price = Price(Decimal(1000), Decimal(1000))
    worst = price.of(len(json.dumps(BODY).encode()), 10)
    untold = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    script = [web.Response(text="<html>", status=200), web.Response(text="x", status=503), web.json_response(untold)]
    double.script = lambda body, number: script[number - 1]
    budget = Budget(max_cost_usd=Decimal(100))
    for _ in range(2):  # a fault is asked again by the next ask
        await make_client(budget=budget).ask(BODY, version="1", repeat=0, price=price)
    assert budget.cost_usd == 2 * worst
    later = Budget(max_cost_usd=Decimal(100))
    client = make_client(budget=later)
    assert client._journal.lost_usd == (worst,)
    assert (await client.ask(BODY, version="1", repeat=0, price=price)).from_cache
    assert later.cost_usd == worst


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": -(10**9), "completion_tokens": 5}, {"prompt_tokens": 1e400, "completion_tokens": 1}, {"prompt_tokens": None}, [], "free"],
)  # fmt: skip
async def test_a_server_that_lies_about_usage_makes_no_money(double: Any, make_client: Any, usage: Any) -> None:
    """A count below zero gave the whole limit back, as often as the server liked."""
    answer = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    double.script = lambda body, number: web.Response(text=json.dumps(answer), content_type="application/json")
    budget, price = Budget(max_cost_usd=Decimal(100)), Price(Decimal(1000), Decimal(1000))
    found = await make_client(budget=budget).ask(BODY, version="1", repeat=0, price=price)
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("x", 0, 0)
    assert budget.cost_usd == price.of(len(json.dumps(BODY).encode()), 10)


@pytest.mark.parametrize(("parameters", "tokens"), [({"max_completion_tokens": 9000}, 9000), ({"n": 3}, 30)])
async def test_the_worst_case_is_what_the_request_allows(
    double: Any, make_client: Any, parameters: Any, tokens: int
) -> None:
    price = Price(Decimal(0), Decimal(1_000_000))
    budget = Budget(max_cost_usd=Decimal(tokens) - 1)
    found = await make_client(budget=budget).ask({**BODY, **parameters}, version="1", repeat=0, price=price)
    assert found.error == "budget: the limit of the suite is reached"
    assert not double.seen


@pytest.mark.parametrize(
    "message",
    [
        '{"content": "half a character: \\ud83d"}',
        '{"content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{\\"x\\": NaN}"}}]}',
        '{"content": "", "tool_calls": [{"function": {"name": "f", "arguments": "' + "[" * 100_000 + '"}}]}',
    ],
    ids=["surrogate", "nan", "deep"],
)
async def test_a_reply_that_cannot_be_written_down_is_one_fault_and_not_the_end_of_the_run(
    double: Any, make_client: Any, message: str
) -> None:
    """Each of these ended a run, or its report, with everything that was paid for; and again when it was continued."""
    text = '{"choices": [{"message": ' + message + ', "finish_reason": "stop"}]}'
    double.script = lambda body, number: web.Response(text=text, content_type="application/json")
    assert "http 200" in ((await make_client().ask(BODY, version="1", repeat=0)).error or "")


@pytest.mark.parametrize(
    ("script", "cost"),
    [
        (lambda: reply(prompt_tokens=50, completion_tokens=10), "0.06"),
        (lambda: web.json_response({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}), "worst"),
        (lambda: web.Response(text="<html>", content_type="text/html"), "worst"),
        (lambda: web.json_response({"error": {"code": "invalid"}}, status=400), "0"),
    ],
)
async def test_an_answer_that_does_not_say_what_it_took_is_taken_for_the_worst(
    double: Any, make_client: Any, script: Any, cost: str
) -> None:
    double.script = lambda body, number: script()
    budget, price = Budget(max_cost_usd=Decimal(100)), Price(Decimal(1000), Decimal(1000))
    await make_client(budget=budget).ask(BODY, version="1", repeat=0, price=price)
    worst = price.of(len(json.dumps(BODY).encode()), BODY.get("max_tokens") or 4096)
    assert budget.cost_usd == (worst if cost == "worst" else Decimal(cost))
