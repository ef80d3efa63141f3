"""What a guarded request costs, beside others: a part of `make bench-guardrails`.

Ours under the shipped policy without the name model, and without a policy; NeMo's own server with the same NeMo files; LiteLLM's proxy with its Presidio
guardrail, where LITELLM_PYTHON names an interpreter that has litellm[proxy] (some of its parts are not free to redistribute, so it is in no lock file).
The same turns go to each, one gateway after another; CPU is that of all its processes, from /proc. `python -m tests.bench.guardrails_peers nemo|presidio
PORT FOLDER` are the servers that have no command of their own, or none that keeps to loopback.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.bench.bench_redaction import presidio_analyzer
from tests.bench.gateway_client import KEY, first_answer, one_answer, request
from tests.bench.processes import cpu_s, session

POLICY = Path(__file__).parents[2] / "guardrails" / "policies" / "call-centre"
MOCK, OURS, NEMO, LITELLM, PRESIDIO = 19201, 19210, 19220, 19230, 19240
UPSTREAM = f"http://127.0.0.1:{MOCK}/v1"
CONNECTIONS, WARMING = 4, 40
QUIET = {"OMP_NUM_THREADS": "1", "NEMO_GUARDRAILS_NO_USAGE_STATS": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@dataclass(frozen=True)
class Peer:
    """A gateway: its processes (command and environment), the last of which answers at ``port``."""

    name: str
    port: int
    commands: Sequence[Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)


def measured(turns: Sequence[str]) -> dict[str, float | int | None]:
    """Mean CPU milliseconds of a request at each; None for a peer that is not there."""
    figures: dict[str, float | int | None] = {"peers.litellm_presidio.cpu_ms": None, "peers.turns": len(turns)}
    mock = [sys.executable, "-m", "tests.bench.gateway_load", "mock", str(MOCK), "5"]
    with tempfile.TemporaryDirectory() as folder, session(mock):
        for peer in peers(Path(folder)):
            figures[f"peers.{peer.name}.cpu_ms"] = cost_ms(peer, turns)
    return figures


def peers(folder: Path) -> list[Peer]:
    serve = [sys.executable, "-m", "tests.bench.serve"]
    where = ["--port", str(OURS), "--upstream", UPSTREAM]
    here = [sys.executable, "-m", "tests.bench.guardrails_peers"]
    (folder / "nemo" / "call-centre").mkdir(parents=True)
    for name in ("config.yml", "prompts.yml"):
        shutil.copy(POLICY / name, folder / "nemo" / "call-centre")
    model = {"MAIN_MODEL_ENGINE": "openai", "MAIN_MODEL_BASE_URL": UPSTREAM, "OPENAI_API_KEY": "none"}
    found = [
        Peer("callgate_passthrough", OURS, [[*serve, "passthrough", *where]]),
        Peer("callgate", OURS, [[*serve, "rails", *where]]),
        Peer("nemo", NEMO, [[*here, "nemo", str(NEMO), str(folder / "nemo")]], model),
    ]
    if python := os.environ.get("LITELLM_PYTHON"):
        config = folder / "litellm.yaml"
        config.write_text(yaml.safe_dump(litellm_settings()))
        proxy = [str(Path(python).with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
        presidio = [*here, "presidio", str(PRESIDIO), str(folder)]
        found.append(Peer("litellm_presidio", LITELLM, [presidio, [*proxy, "--port", str(LITELLM)]]))
    else:
        print("LITELLM_PYTHON names no interpreter: LiteLLM is left out", file=sys.stderr)
    return found


def litellm_settings() -> dict[str, Any]:
    """As its documentation sets Presidio up: before the call, masking, on for every request."""
    base = f"http://127.0.0.1:{PRESIDIO}"
    guardrail = {
        "guardrail": "presidio",
        "mode": "pre_call",
        "default_on": True,
        "presidio_analyzer_api_base": base,
        "presidio_anonymizer_api_base": base,
    }
    return {
        "model_list": [
            {
                "model_name": "mock",
                "litellm_params": {"model": "openai/mock", "api_base": UPSTREAM, "api_key": "none"},
            }
        ],
        "guardrails": [{"guardrail_name": "personal-data", "litellm_params": guardrail}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }


def cost_ms(peer: Peer, turns: Sequence[str]) -> float:
    url = f"http://127.0.0.1:{peer.port}/v1/chat/completions"
    with ExitStack() as running:
        pids = [running.enter_context(session(one, {**QUIET, **peer.environment})) for one in peer.commands]
        asyncio.run(first_answer(url, 120))
        asyncio.run(ask(url, turns[:WARMING]))
        before = sum(map(cpu_s, pids))
        asyncio.run(ask(url, turns[WARMING:]))
        return (sum(map(cpu_s, pids)) - before) / len(turns[WARMING:]) * 1000


async def ask(url: str, turns: Sequence[str]) -> None:
    """Each turn once, on four connections."""
    left = list(turns)

    async def some() -> None:
        host, port, _ = request(url)
        reader, writer = await asyncio.open_connection(host, port)
        while left:
            await one_answer(reader, writer, request(url, prompt=left.pop())[2])
        writer.close()

    await asyncio.gather(*(some() for _ in range(CONNECTIONS)))


# --- servers


def serve_nemo(port: int, folder: str) -> None:
    """`nemoguardrails server`, which binds every interface, on loopback."""
    import uvicorn
    from nemoguardrails.server import api

    api.app.rails_config_path = folder
    api.app.disable_chat_ui = True
    api.set_default_config_id("call-centre")
    uvicorn.run(api.app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def serve_presidio(port: int) -> None:
    """Presidio's two services in one process, with the small English model: the same requests, answers and defaults."""
    from aiohttp import web
    from presidio_analyzer import RecognizerResult as Found
    from presidio_anonymizer import AnonymizerEngine
    from presidio_anonymizer.entities import RecognizerResult

    analyzer, anonymizer = presidio_analyzer(), AnonymizerEngine()

    async def analyze(request: web.Request) -> web.Response:
        wanted = await request.json()
        found: list[Found] = analyzer.analyze(
            wanted["text"], wanted["language"], wanted.get("entities"), score_threshold=wanted.get("score_threshold")
        )
        return web.json_response([one.to_dict() for one in found])

    async def anonymize(request: web.Request) -> web.Response:
        wanted = await request.json()
        found = [RecognizerResult.from_json(one) for one in wanted["analyzer_results"]]
        done = anonymizer.anonymize(wanted["text"], found)
        return web.Response(text=done.to_json(), content_type="application/json")

    app = web.Application()
    app.add_routes([web.post("/analyze", analyze), web.post("/anonymize", anonymize)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    if sys.argv[1] == "nemo":
        serve_nemo(int(sys.argv[2]), sys.argv[3])
    else:
        serve_presidio(int(sys.argv[2]))
