"""In which order the deployments of a route are tried. Pure: a route, what is known of its deployments and a source of chance go in.

Every way ends in a full order, so that failover has somewhere to go. Deployments of weight 0 are the last resort.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from hashlib import blake2b

from gateway.types import Deployment, Json

PREFIX_CHARS = 2048
Load = Callable[[Deployment], float]


def weighted(deployments: Sequence[Deployment], rng: random.Random) -> list[Deployment]:
    """Drawn without replacement in proportion to their weights (Efraimidis and Spirakis, 2006, algorithm A)."""
    keyed = [(rng.random() ** (1 / d.weight) if d.weight > 0 else -1.0, d) for d in deployments]
    keyed.sort(key=lambda pair: pair[0], reverse=True)
    return [deployment for _, deployment in keyed]


def sticky(deployments: Sequence[Deployment], key: bytes) -> list[Deployment]:
    """The same order for the same key in every worker, without any store: weighted rendezvous hashing (Thaler and Ravishankar, 1998).

    Over all keys each deployment comes first in proportion to its weight; a changed weight moves only the calls that it must.
    """

    def score(deployment: Deployment) -> float:
        if deployment.weight <= 0:
            return -1.0
        digest = blake2b(key, digest_size=8, key=deployment.name.encode()[:64]).digest()
        chance = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
        return -deployment.weight / math.log(chance)

    return sorted(deployments, key=score, reverse=True)


def place(key: bytes) -> float:
    """Where a key lies in [0, 1), evenly and the same in every worker: below a share that grows, it stays below."""
    return int.from_bytes(blake2b(key, digest_size=8, person=b"rollout").digest(), "big") / 2**64


def least_busy(deployments: Sequence[Deployment], load: Load, rng: random.Random) -> list[Deployment]:
    """By requests in flight for their weight; chance decides among equals."""
    return sorted(deployments, key=lambda d: (d.weight <= 0, load(d) / d.weight if d.weight > 0 else 0.0, rng.random()))


def fastest(deployments: Sequence[Deployment], latency_s: Load, load: Load, rng: random.Random) -> list[Deployment]:
    """The better of two drawn by weight comes first: lower expected time, its own latency times its queue (Mitzenmacher, 2001)."""
    order = weighted(deployments, rng)
    if len(order) > 1 and order[1].weight > 0:
        first, second = order[0], order[1]
        if latency_s(second) * (load(second) + 1) < latency_s(first) * (load(first) + 1):
            order[0], order[1] = second, first
    return order


def prefix_key(body: Json) -> bytes:
    """What the start of a conversation is told by: requests that share it find its key-value cache on the same replica."""
    read = ""
    for message in body.get("messages") or ():
        content = message.get("content")
        read += content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or ())
        if len(read) >= PREFIX_CHARS:
            break
    return (read or str(body.get("prompt", "")))[:PREFIX_CHARS].encode("utf-8", "replace")


def with_bounded_load(order: list[Deployment], load: Load) -> list[Deployment]:
    """Moves the first one back when it has more than 1.25 times its share of what is in flight (Mirrokni and others, 2018)."""
    total = sum(map(load, order)) + 1
    most = math.ceil(1.25 * total / len(order))
    for place, deployment in enumerate(order):
        if load(deployment) < most:
            return [deployment, *order[:place], *order[place + 1 :]]
    return order
