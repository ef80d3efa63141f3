"""A store keeps to itself, holds more than one call of Chroma takes, and never passes half an index for a whole one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.stores.chroma import ChromaStore


def unit(count: int, dimensions: int = 8) -> NDArray[np.float32]:
    vectors = np.random.default_rng(7).standard_normal((count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_stores_in_memory_do_not_see_each_other() -> None:
    one, other = ChromaStore("passages", None), ChromaStore("passages", None)
    one.replace(["a", "b"], unit(2), "first")
    assert other.digest == ""
    other.replace(["c"], unit(1), "second")
    assert (one.digest, one.nearest(unit(2)[1], 1)) == ("first", ["b"])
    one.close()
    assert other.nearest(unit(1)[0], 1) == ["c"]
    other.close()


def test_an_interrupted_index_has_no_digest(tmp_path: Path) -> None:
    store = ChromaStore("passages", tmp_path)
    store.replace(["a"], unit(1), "whole")
    with pytest.raises(ValueError, match=r"[Ll]ength|[Uu]nequal"):
        store.replace(["a", "b"], unit(3), "broken")
    store.close()
    again = ChromaStore("passages", tmp_path)
    assert again.digest == ""
    again.close()


def test_what_was_put_in_is_there_after_a_restart_and_replaces_what_was(tmp_path: Path) -> None:
    vectors = unit(3)
    store = ChromaStore("passages", tmp_path)
    store.replace(["old"], unit(1), "before")
    store.replace(["a", "b", "c"], vectors, "after")
    store.close()
    again = ChromaStore("passages", tmp_path)
    assert again.digest == "after"
    assert [again.nearest(vector, 1)[0] for vector in vectors] == ["a", "b", "c"]
    assert "old" not in again.nearest(vectors[0], 3)
    again.close()


def test_more_vectors_than_one_call_takes_are_all_found() -> None:
    store, vectors = ChromaStore("passages", None), unit(6000)
    store.replace([str(place) for place in range(6000)], vectors, "large")
    assert store.nearest(vectors[0], 1) == ["0"]
    assert store.nearest(vectors[5999], 1) == ["5999"]
    store.close()
