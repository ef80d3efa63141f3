"""The Grafana dashboard asks only for metrics that the gateway has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gateway.metrics import Metrics
from gateway.rollouts import figures
from gateway.routing import Router
from gateway.types import Deployment, Route

FILE = Path(__file__).parents[2] / "charts" / "grafana" / "callgate.json"


def test_every_expression_names_a_metric_that_exists() -> None:
    import random

    metrics = Metrics()
    route = Route("m", (Deployment("d", "m"),), None, None, 1.0, 1, 1, candidate=Deployment("c", "m"))
    router = Router({"m": route}, None, None, rng=random.Random(1))  # type: ignore[arg-type]
    metrics.watch(router.fleet, router.shadow)
    metrics.watch_figures(lambda: figures(router))
    known = set(re.findall(r"^# HELP (\S+)", metrics.exposition().decode(), re.MULTILINE))
    known = {name.removesuffix("_total") for name in known}
    panels = json.loads(FILE.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b((?:callgate|gen_ai)_[a-z_]+)", target["expr"])
    }
    asked.discard("gen_ai_token_type")
    missing = {name for name in asked if re.sub(r"_(bucket|sum|count|total)$", "", name) not in known}
    assert asked
    assert missing == set()
