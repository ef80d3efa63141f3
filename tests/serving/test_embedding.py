"""Vectors of the local MiniLM mean what they should, and do not depend on their neighbours."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.embedding.minilm import EmbeddingBatcher, EmbeddingsBusy, MiniLM


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM()


def test_close_meanings_are_closer_than_far_ones(model: MiniLM) -> None:
    a, b, c = model.embed(["I lost my credit card", "My bank card is missing", "What a lovely sunny day in Paris"])
    assert a @ b > 0.6
    assert a @ c < 0.3
    assert np.allclose(np.linalg.norm([a, b, c], axis=1), 1, atol=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours(model: MiniLM) -> None:
    alone = model.embed(["block my card"])[0]
    among = model.embed(["x " * 200, "block my card", ""])[1]
    assert np.array_equal(alone, among)


def test_nothing_gives_nothing_and_odd_texts_give_vectors(model: MiniLM) -> None:
    assert model.embed([]).shape == (0, 384)
    assert np.isfinite(model.embed(["", "\ud800", "\u200b", "x" * 100_000])).all()
    assert model.count_tokens(["one two three"]) == [5]


async def test_concurrent_callers_get_their_own_and_the_queue_is_bounded(model: MiniLM) -> None:
    batcher = EmbeddingBatcher(model)
    texts = [f"text number {n}" for n in range(20)]
    got = await asyncio.gather(*(batcher.embed([text]) for text in texts))
    assert np.array_equal(np.vstack(got), model.embed(texts))
    with pytest.raises(EmbeddingsBusy):
        await batcher.embed(["x"] * 5000)
    await batcher.aclose()
