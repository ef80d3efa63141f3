"""Runs are bounded and leave no text out; callers take turns, and one that goes away stops."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.embedding.minilm import LONGEST_SHARED_TOKENS, MOST_ROWS, EmbeddingBatcher, MiniLM, Rows, Vectors

TEXTS = ["block my card", "my card is lost", "", "roaming in Spain " * 30, "refund", "what is the fee", "block my card"]


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM()


@given(st.lists(st.text(max_size=300), max_size=40))
@settings(max_examples=50, deadline=None)
def test_every_text_is_in_exactly_one_bounded_run(model: MiniLM, texts: list[str]) -> None:
    runs = model.rows(texts)
    assert sorted(place for rows in runs for place in rows.places) == list(range(len(texts)))
    for rows in runs:
        assert rows.tokens.shape == (len(rows.places), model.count_tokens([texts[rows.places[0]]])[0])
        assert rows.tokens.shape[0] <= (MOST_ROWS if rows.tokens.shape[1] <= LONGEST_SHARED_TOKENS else 1)


def test_order_is_kept_and_neighbours_change_nothing(model: MiniLM) -> None:
    together = model.embed(TEXTS)
    assert together.shape == (7, 384)
    assert together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.allclose(model.embed([text])[0], vector, atol=1e-6)
    assert np.allclose(model.embed(TEXTS[::-1])[::-1], together, atol=1e-6)


def test_what_is_beyond_256_tokens_is_not_read(model: MiniLM) -> None:
    long = "card " * 400
    assert model.count_tokens([long]) == [256]
    assert np.array_equal(model.embed([long + "loan"]), model.embed([long + "roaming abroad"]))


class Recorded(MiniLM):
    """The real model, with a note of every run in order."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []

    def run(self, rows: Rows) -> Vectors:
        self.runs.append(rows.tokens.shape[1])
        return super().run(rows)


async def test_a_question_does_not_wait_for_all_of_a_large_batch() -> None:
    model = Recorded()
    batcher = EmbeddingBatcher(model)
    large = asyncio.create_task(batcher.embed(["block my card"] * 160))
    await asyncio.sleep(0)  # the large batch is in the queue first
    question = await batcher.embed(["how do I stop a direct debit"])
    served_at = len(model.runs)
    vectors = await large
    await batcher.aclose()
    assert len(model.runs) == 21
    assert served_at < 8
    assert question.shape == (1, 384)
    assert vectors.shape == (160, 384)


async def test_a_caller_that_goes_away_costs_no_more_runs_and_frees_its_place() -> None:
    model = Recorded()
    batcher = EmbeddingBatcher(model)
    gone = asyncio.create_task(batcher.embed(["block my card"] * 4000))
    await batcher.embed(["hello"])
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (await batcher.embed(["block my card"] * 200)).shape == (200, 384)
    await batcher.aclose()
    assert len(model.runs) < 60


async def test_nothing_is_embedded_without_a_text() -> None:
    batcher = EmbeddingBatcher(MiniLM())
    assert (await batcher.embed([])).shape == (0, 384)
    await batcher.aclose()
