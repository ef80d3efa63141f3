"""The service one would write first, for comparison: FastAPI and Pydantic in, JSON histories in Redis one command at a
time, `booster.predict`, no log, no keys.

`python -m tests.bench.fraud_naive PORT REDIS_URL`. It shares our window sums, so that only the way of serving differs.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

import numpy as np

from serving.fraud.features import ONE_EVENT, derive
from serving.fraud.history import EVENT, aggregate, aggregate_customer
from serving.fraud.settings import SHIPPED_MODEL


def serve(port: int, redis_url: str) -> None:
    import lightgbm
    import uvicorn
    from fastapi import FastAPI
    from pydantic import create_model
    from redis.asyncio import Redis

    app, client = FastAPI(), Redis.from_url(redis_url)
    booster = lightgbm.Booster(model_file=str(SHIPPED_MODEL / "model.txt"))
    fields: dict[str, Any] = dict.fromkeys(("transaction_id", "customer_id", "terminal_id", "currency"), (str, ...))
    shape = create_model("Payment", **fields, amount=(float, ...), timestamp=(datetime, ...))

    async def score(payment: Any) -> dict[str, Any]:
        at_s, cents = int(payment.timestamp.timestamp()), round(payment.amount * 100)
        sums: list[Any] = []
        for entity, read in ((payment.customer_id, aggregate_customer), (payment.terminal_id, aggregate)):
            events = json.loads(await client.get(f"naive:{entity}") or "[]")
            sums.append(read(b"".join(EVENT.pack(*event, 0, n) for n, event in enumerate(events)), at_s))
            await client.set(f"naive:{entity}", json.dumps([*events, [at_s, cents]]))
        row = list(derive(ONE_EVENT, at_s, cents, *sums).values())
        probability = float(booster.predict(np.array([row]), num_threads=1)[0])
        return {"score": probability, "decision": "decline" if probability > 0.5 else "approve"}

    score.__annotations__["payment"] = shape
    app.post("/v1/fraud/score")(score)
    app.get("/health/ready")(lambda: {"status": "ok"})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
