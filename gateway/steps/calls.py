"""Calls of tools on their way out: held until each is whole, judged, then sent as one delta, or the answer ends in content_filter.

It decides nothing itself (guardrails/tools.py does), and texts are not its affair.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from gateway.errors import RailUnavailable
from gateway.steps.reply import rail_result, ruling_json
from gateway.types import ChatRequest, Chunk, Json
from gateway.wire.texts import is_empty
from guardrails.rails import Rails
from guardrails.restore import Restorer
from guardrails.tools import ToolCall, misfit_of


async def checked_calls(rails: Rails, request: ChatRequest, reply: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
    """The answer; no part of a call leaves before the whole of it has passed. An answer that ends without a reason sends none."""
    held: dict[int, dict[int, Json]] = {}
    async with aclosing(reply):
        async for chunk in reply:
            for choice in chunk.get("choices") or ():
                index = choice.get("index", 0)
                delta = choice.get("delta") or {}
                for place, piece in enumerate(delta.pop("tool_calls", None) or ()):
                    _grow(held.setdefault(index, {}), piece.get("index", place), piece)
                if (old := delta.pop("function_call", None)) is not None:
                    _grow(held.setdefault(index, {}), -1, {"function": old})
                if choice.get("finish_reason") and (calls := held.pop(index, None)):
                    await _release(rails, request, choice, calls, f"{index}/")
            if not is_empty(chunk):
                yield chunk


def _grow(calls: dict[int, Json], place: int, piece: Json) -> None:
    call = calls.setdefault(place, {"index": place, "type": "function", "function": {"name": "", "arguments": ""}})
    if piece.get("id"):
        call["id"] = piece["id"]
    function = piece.get("function") or {}
    for key in ("name", "arguments"):
        call["function"][key] += function.get(key) or ""


async def _release(rails: Rails, request: ChatRequest, choice: Chunk, calls: dict[int, Json], channel: str) -> None:
    declared = declarations(request.body)
    for place, call in calls.items():
        function = call["function"]
        called = ToolCall(function["name"], _as_called(request, function["arguments"]), declared)
        ruling = await rails.check_call(called)
        request.record.rails.extend(map(rail_result, ruling.verdicts))
        if (recording := request.record.recording) is not None:
            recording.calls.append({"channel": f"{channel}{place}", "name": called.name, "misfit": misfit_of(called)})
            recording.rulings.append(ruling_json("tool", f"{channel}{place}", ruling))
        if ruling.kind == "rail_unavailable":
            raise RailUnavailable("A tool call could not be checked, so it was withheld.")
        if ruling.decision == "block":
            choice["finish_reason"] = request.record.finish_reason = "content_filter"
            return
    if choice["finish_reason"] == "content_filter":
        return  # another rail has stopped this answer
    delta = choice.setdefault("delta", {})
    if -1 in calls:
        delta["function_call"] = calls.pop(-1)["function"]
    if calls:
        delta["tool_calls"] = list(calls.values())


def _as_called(request: ChatRequest, arguments: str) -> str:
    """The arguments with the caller's own values, as the tool would get them: a schema speaks of those, not of tokens."""
    restorer = Restorer(request.tokens, "json")
    return restorer.feed(arguments) + restorer.flush()


def declarations(body: Json) -> dict[str, Json]:
    """Parameter schemas of the tools and functions that a request declares, by name."""
    functions: list[Any] = [tool.get("function") for tool in body.get("tools") or () if type(tool) is dict]
    functions += body.get("functions") or ()
    return {one["name"]: one.get("parameters") or {} for one in functions if type(one) is dict and "name" in one}
