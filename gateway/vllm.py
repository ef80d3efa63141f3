"""What only vLLM has: a queue with priorities, a prefix cache that can be kept apart, and numbers about both.

Fields are those of vLLM's OpenAI server (``priority``, ``cache_salt``), metrics those of its Prometheus page. It sends nothing itself.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from gateway.types import Deployment, Health, Json

_NUMBERS = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc)(?:\{[^}]*\})? ([0-9.eE+-]+)$",
    re.MULTILINE,
)


def fields(deployment: Deployment, key_id: str) -> Json:
    """What is added to a request's body. The salt tells keys apart and is no secret."""
    added: Json = {}
    if deployment.priority is not None:
        added["priority"] = deployment.priority
    if deployment.prefix_by_key:
        added["cache_salt"] = blake2b(key_id.encode(), digest_size=16, person=b"callgate-prefix").hexdigest()
    return added


def served(listed: Json, model: str) -> bool:
    """Whether the answer to GET /v1/models names the model; LoRA adapters are listed beside their base."""
    models = listed.get("data")
    return type(models) is list and any(type(one) is dict and one.get("id") == model for one in models)


def health(metrics: bytes) -> Health:
    """Its queue and cache, from GET /metrics, summed over its engines (the cache: the fullest); zeros where it tells nothing."""
    sums: dict[bytes, float] = {}
    fullest = 0.0
    for name, number in _NUMBERS.findall(metrics):
        value = float(number)
        sums[name] = sums.get(name, 0.0) + value
        if name.endswith(b"_perc"):
            fullest = max(fullest, value)
    running, waiting = (int(sums.get(name, 0)) for name in (b"num_requests_running", b"num_requests_waiting"))
    return Health(True, running, waiting, min(1.0, fullest))
