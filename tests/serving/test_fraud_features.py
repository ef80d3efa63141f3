"""Features are the same online and offline, to the last bit, whatever the order of arrival."""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.fraud.dataset import Transactions, from_columns, read_folder
from serving.fraud.features import ONE_EVENT, derive, feature_names
from serving.fraud.history import (
    DAY_S,
    EVENT,
    FRAUD,
    GENUINE,
    KEPT_EVENTS,
    LARGEST_HISTORY,
    UNEXPLAINED_FRAUD,
    aggregate,
    aggregate_customer,
    pack_event,
    tidy,
)
from serving.fraud.simulate import World, simulate
from serving.fraud.train import features_of


def differing_rows(table: Transactions, first: int, rows: int) -> int:
    """Rows of a history whose online features, record by record, differ from the table's in any bit."""
    offline = features_of(table)
    codes = np.where(table.fraud == 0, GENUINE, np.where(offline.surprising, FRAUD, UNEXPLAINED_FRAUD)).tolist()
    customers: dict[int, bytearray] = defaultdict(bytearray)
    terminals: dict[int, bytearray] = defaultdict(bytearray)
    columns = [column.tolist() for column in (table.customer, table.terminal, table.at_s, table.cents)]
    differing = 0
    for index, (customer, terminal, at_s, cents) in enumerate(zip(*columns, strict=True)):
        if index >= first + rows:
            break
        mine, theirs = customers[customer], terminals[terminal]
        if index >= first:
            online = derive(
                ONE_EVENT, at_s, cents, aggregate_customer(bytes(mine), at_s), aggregate(bytes(theirs), at_s)
            )
            row = np.array(list(online.values()))
            differing += bool((row.view(np.int64) != offline.values[index].view(np.int64)).any())
        event = EVENT.pack(at_s, cents, codes[index], index)
        for record in (mine, theirs):
            record.extend(event)
            del record[: max(0, len(record) - KEPT_EVENTS * EVENT.size)]
    return differing


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 2),
            st.integers(0, 60 * 24).map(lambda hours: hours * 3_600),
            st.integers(0, 100_000_000),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=80,
    )
)
def test_one_event_and_a_table_give_the_same_bits(events: list[tuple[int, int, int, int, int]]) -> None:
    customer, terminal, at_s, cents, fraud = (np.array(column) for column in zip(*events, strict=True))
    table = from_columns(np.arange(len(events)), customer, terminal, at_s + 1_700_000_000, cents, fraud)
    assert differing_rows(table, 0, len(events)) == 0


def test_a_busy_entity_is_known_by_its_latest_events_in_both_ways() -> None:
    rng, rows = np.random.default_rng(1), 3 * LARGEST_HISTORY
    at_s = 1_700_000_000 + np.sort(rng.integers(0, 45 * DAY_S, rows))
    fraud = (rng.random(rows) < 0.1).astype(np.int64)
    one = np.zeros(rows, dtype=np.int64)
    table = from_columns(np.arange(rows), one, one, at_s, rng.integers(0, 100_000_000, rows), fraud)
    assert differing_rows(table, 0, rows) == 0


def test_a_generated_history_gives_the_same_bits() -> None:
    table = simulate(7, World(customers=150, terminals=200, days=60))
    assert len(table.at_s) > 10_000
    assert differing_rows(table, 0, len(table.at_s)) == 0


def test_a_hundred_thousand_real_events_give_the_same_bits() -> None:
    folder = os.environ.get("CALLGATE_DATA_DIR")
    if not folder or not list(Path(folder).glob("fraud_tx_*.parquet")):
        pytest.skip("set CALLGATE_DATA_DIR to a folder with fraud_tx_*.parquet")
    table = read_folder(Path(folder))
    cut = slice(0, 520_000)
    part = Transactions(*(getattr(table, name)[cut] for name in Transactions.__slots__))
    assert differing_rows(part, 420_000, 100_000) == 0


@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_late_and_repeated_events_change_nothing(rng: random.Random, count: int) -> None:
    events = [pack_event(1_700_000_000 + rng.randrange(40 * DAY_S), rng.randrange(10**8), f"t-{n}", rng.randrange(4)) for n in range(count)]  # fmt: skip
    in_order = b"".join(sorted(events, key=lambda event: EVENT.unpack(event)[::3]))
    shuffled = [*events, *rng.choices(events, k=5)]
    rng.shuffle(shuffled)
    now_s = 1_700_000_000 + 41 * DAY_S
    assert aggregate(b"".join(shuffled), now_s) == aggregate(in_order, now_s)
    assert tidy(b"".join(shuffled)) == in_order


def test_future_events_and_labels_not_yet_due_change_nothing() -> None:
    table = simulate(3, World(customers=100, terminals=100, days=50))
    now = int(table.at_s[len(table.at_s) // 2])
    before = features_of(table).values[table.at_s <= now]
    later = table.at_s > now
    young = table.at_s > now - 7 * DAY_S
    changed = Transactions(
        table.transaction,
        table.customer,
        table.terminal,
        table.at_s,
        np.where(later, 77, table.cents),
        np.where(young, 1 - table.fraud, table.fraud),
    )
    after = features_of(changed).values[table.at_s <= now]
    assert before.tobytes() == after.tobytes()


def test_a_cold_start_is_missing_not_guessed() -> None:
    features = derive(
        ONE_EVENT, 1_700_000_000, 2_000, aggregate_customer(b"", 1_700_000_000), aggregate(b"", 1_700_000_000)
    )
    assert tuple(features) == feature_names()
    assert math.isnan(features["customer_amount_ratio"])
    assert math.isnan(features["terminal_risk_7"])
    assert features["customer_count_30"] == 0.0
    assert features["amount"] == 2_000.0


def test_a_torn_record_is_read_up_to_its_last_whole_event() -> None:
    record = pack_event(1_700_000_000, 100, "a") + b"torn"
    assert aggregate(record, 1_700_000_001).count_1 == 1
