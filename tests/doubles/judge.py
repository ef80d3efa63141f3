"""A double of a judge: an OpenAI-compatible server that answers our judge's, Ragas' and DeepEval's prompts by rule, never by a model.

A statement counts as supported when its content words are in the context; tone is bad when a reply scolds. So the libraries' own parsing
and arithmetic run on replies of known content. `python -m tests.doubles.judge` serves it and prints its address.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from evals.judges.overlap import FUNCTION_WORDS, words

RUDE = re.compile(r"calm down|not my problem|useless|whatever", re.IGNORECASE)


def reply(body: dict[str, Any]) -> str:
    """What the judge says to one chat request; where no shape is asked for it is an echo, signed with the model's name."""
    prompt = body["messages"][-1]["content"]
    shape = body.get("response_format", {}).get("json_schema", {}).get("name", "") or _shape_in(body)
    return json.dumps(_SHAPES[shape](prompt)) if shape in _SHAPES else f"{prompt} ({body['model']})"


def _shape_in(body: dict[str, Any]) -> str:
    """Where no schema is sent: libraries write the names of the fields into the prompt."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    for shape, mark in _MARKS.items():
        if mark in text.replace('"', "'"):
            return shape
    return ""


def supported(statement: str, context: str) -> bool:
    known = set(words(context))
    content = [word for word in words(statement) if word not in FUNCTION_WORDS]
    return bool(content) and sum(word in known for word in content) / len(content) >= 0.7


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]


def _ragas_input(prompt: str) -> dict[str, Any]:
    start = prompt.rindex("input: ") + len("input: ")
    found: dict[str, Any] = json.loads(prompt[start : prompt.rindex("Output:")])
    return found


def _statements(prompt: str) -> dict[str, Any]:
    return {"statements": sentences(_ragas_input(prompt)["answer"])}


def _nli(prompt: str) -> dict[str, Any]:
    given = _ragas_input(prompt)
    return {
        "statements": [
            {"statement": one, "reason": "words", "verdict": int(supported(one, given["context"]))}
            for one in given["statements"]
        ]
    }


def _relevance(prompt: str) -> dict[str, Any]:
    text = _ragas_input(prompt)["response"]
    return {"question": f"What about this: {text}", "noncommittal": int("don't know" in text)}


def _precision(prompt: str) -> dict[str, Any]:
    given = _ragas_input(prompt)
    return {"reason": "words", "verdict": int(supported(given["answer"], given["context"]))}


def _recall(prompt: str) -> dict[str, Any]:
    given = _ragas_input(prompt)
    return {
        "classifications": [
            {"statement": one, "reason": "words", "attributed": int(supported(one, given["context"]))}
            for one in sentences(given["answer"])
        ]
    }


def _between(prompt: str, start: str, end: str) -> str:
    return prompt[prompt.rindex(start) + len(start) : prompt.rindex(end)].strip()


def _verdicts(prompt: str) -> dict[str, Any]:
    """DeepEval asks one verdict a claim, given the truths as text."""
    context = _between(prompt, "Retrieval Contexts:", "Claims:")
    claims = re.findall(r"['\"](.+?)['\"](?:,|\])", _between(prompt, "Claims:", "JSON:"))
    return {"verdicts": [{"verdict": "yes" if supported(one, context) else "no", "reason": "words"} for one in claims]}


def _g_eval(prompt: str) -> dict[str, Any]:
    said = _between(prompt, "Actual Output:", "Parameters:")
    return {"reason": "rule", "score": 1 if RUDE.search(said) else 9}


def _roles(prompt: str) -> dict[str, Any]:
    turns = re.findall(r"'content': [\"'](.*?)[\"'], 'role': '(\w+)'", prompt[prompt.rindex("Messages:") :])
    found = [n for n, (text, role) in enumerate(turns) if role == "assistant" and RUDE.search(text)]
    return {"verdicts": [{"index": n, "reason": "rude", "ai_message": turns[n][0]} for n in found]}


def _question(prompt: str) -> dict[str, Any]:
    said = prompt[prompt.index("<reply ") :]
    return {"reason": "rule", "verdict": "no" if RUDE.search(said) else "yes"}


def _choice(prompt: str) -> dict[str, Any]:
    first = prompt[prompt.index("<first ") : prompt.index("<second ")]
    return {"reason": "rule", "better": "second" if RUDE.search(first) else "first"}


_SHAPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "StatementGeneratorOutput": _statements,
    "NLIStatementOutput": _nli,
    "AnswerRelevanceOutput": _relevance,
    "ContextPrecisionOutput": _precision,
    "ContextRecallOutput": _recall,
    "Truths": lambda prompt: {"truths": sentences(_between(prompt, "Text:", "JSON:"))},
    "Claims": lambda prompt: {"claims": sentences(_between(prompt, "AI Output:", "JSON:"))},
    "Verdicts": _verdicts,
    "ReasonScore": _g_eval,
    "OutOfCharacterResponseVerdicts": _roles,
    "verdict": _question,
    "choice": _choice,
}


_MARKS = {
    "NLIStatementOutput": "Structured output for NLI",
    "StatementGeneratorOutput": "Structured output for statement generation",
    "Truths": "'truths' key",
    "Claims": "'claims' key",
    "Verdicts": "'verdicts' key",
}


def vector(text: str) -> list[float]:
    """Words hashed into 64 places: texts with the same words have the same vector."""
    found = [0.0] * 64
    for word in words(text):
        found[hashlib.sha256(word.encode()).digest()[0] % 64] += 1.0
    return found


async def chat(request: web.Request) -> web.Response:
    body = json.loads(await request.read())
    text = reply(body)
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": len(body["messages"][-1]["content"]) // 4, "completion_tokens": len(text) // 4}
    return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})


async def embeddings(request: web.Request) -> web.Response:
    texts = json.loads(await request.read())["input"]
    rows = [{"index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
    return web.json_response({"data": rows, "usage": {"prompt_tokens": 1}})


async def models(_request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "judge-double"}]})


def application() -> web.Application:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_get("/v1/models", models)
    return app


async def serve() -> None:
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
