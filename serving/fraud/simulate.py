"""A generated history of card payments with three kinds of fraud, so that everything works with no data at hand.

After the idea of the Fraud Detection Handbook, chapter 3 (customers on a map who pay at terminals within reach; large
amounts, compromised terminals, leaked cards), written anew. All of it is invented: no figure measured on it says
anything about real payments. Knows nothing of features or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.fraud.dataset import Transactions, from_columns
from serving.fraud.history import DAY_S

START_S = 1_704_067_200  # 2024-01-01T00:00:00Z
_REACH = 6.0  # of a map of 100 by 100


@dataclass(frozen=True, slots=True)
class World:
    """How much to generate. The defaults give about 200,000 payments in a second or two."""

    customers: int = 1_500
    terminals: int = 2_500
    days: int = 75
    compromised_terminals_a_day: float = 0.75
    leaked_cards_a_day: float = 0.6
    large_amount_cents: int = 25_000
    newcomers: float = 0.5  # share of customers who join at a random day, so that cold starts are learnt


def simulate(seed: int, world: World) -> Transactions:
    """The same seed and world give the same history."""
    rng = np.random.default_rng(seed)
    within = _within_reach(rng, world)
    typical = rng.uniform(500, 10_000, world.customers)  # mean amount, cents
    pace = rng.uniform(0.2, 4.0, world.customers)  # payments a day
    customer = np.repeat(np.arange(world.customers), rng.poisson(pace * world.days))
    rows = len(customer)
    terminal = np.array([within[one][pick % len(within[one])] for one, pick in zip(customer, rng.integers(0, 1 << 30, rows), strict=True)])  # fmt: skip
    day = rng.integers(0, world.days, rows)
    joined = np.where(rng.random(world.customers) < world.newcomers, rng.integers(0, world.days, world.customers), 0)
    second = np.clip(rng.normal(DAY_S * 0.55, DAY_S * 0.2, rows), 0, DAY_S - 1)
    cents = np.maximum(np.abs(rng.normal(typical[customer], typical[customer] / 2)), 50)
    fraud, cents = _frauds(rng, world, customer, terminal, day, cents)
    at_s = START_S + day * DAY_S + second.astype(np.int64)
    columns = (np.arange(rows), customer, terminal, at_s, np.rint(cents), fraud)
    there = day >= joined[customer]
    return from_columns(*(column[there] for column in columns))


def _within_reach(rng: np.random.Generator, world: World) -> list[NDArray[np.int64]]:
    """For each customer the terminals nearby; at least the nearest one."""
    homes, shops = rng.uniform(0, 100, (world.customers, 2)), rng.uniform(0, 100, (world.terminals, 2))
    reach = []
    for home in homes:
        distance = np.hypot(*(shops - home).T)
        near = np.flatnonzero(distance < _REACH)
        reach.append(near if len(near) else np.array([int(distance.argmin())]))
    return reach


def _frauds(
    rng: np.random.Generator,
    world: World,
    customer: NDArray[np.int64],
    terminal: NDArray[np.int64],
    day: NDArray[np.int64],
    cents: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Adds the three kinds: very large amounts; terminals that skim for four weeks; cards misused for two."""
    fraud = np.zeros(len(day), dtype=np.int64)
    large = rng.random(len(day)) < 0.004
    cents = np.where(large, rng.uniform(1.0, 40.0, len(day)) * world.large_amount_cents, cents)
    fraud[large | (cents > world.large_amount_cents)] = 1
    for start in range(world.days):
        for one in rng.integers(0, world.terminals, rng.poisson(world.compromised_terminals_a_day)):
            fraud[(terminal == one) & (day >= start) & (day < start + 28)] = 1
        for one in rng.integers(0, world.customers, rng.poisson(world.leaked_cards_a_day)):
            misused = (customer == one) & (day >= start) & (day < start + 14) & (rng.random(len(day)) < 1 / 3)
            cents = np.where(misused & (fraud == 0), cents * 5, cents)
            fraud[misused] = 1
    return fraud, cents
