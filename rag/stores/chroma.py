"""Passages and their vectors in an embedded Chroma: the only file that knows it. Blocking: call it in a thread."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ChromaStore:
    """One collection. ``folder`` None: in memory, and nobody else's. Vectors are compared by cosine.

    A folder belongs to one process at a time: Chroma does not lock it.
    """

    def __init__(self, name: str, folder: Path | None) -> None:
        import chromadb
        from chromadb.config import Settings

        quiet = Settings(anonymized_telemetry=False)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = chromadb.PersistentClient(str(folder), quiet) if folder else chromadb.EphemeralClient(quiet)
        # All in-memory clients of a process are one and the same database to Chroma: only a name of its own keeps a store apart.
        self._name = name if folder else f"{name}-{uuid.uuid4().hex}"
        self._in_memory = folder is None
        self._collection: Any = self._open()

    @property
    def digest(self) -> str:
        """The digest of what was put in last; empty when nothing was."""
        return str((self._collection.metadata or {}).get("digest", ""))

    def replace(self, ids: Sequence[str], vectors: NDArray[np.float32], digest: str) -> None:
        """Puts these vectors, shape (n, dimensions), in place of all there were.

        The digest is written last: an index that was interrupted half way has none, and the next start makes it anew.
        """
        self._client.delete_collection(self._name)
        self._collection = self._open()
        most = self._client.get_max_batch_size()  # 5,461 with Chroma 1.5.9; more in one call is an error
        for first in range(0, len(ids), most):
            part = slice(first, first + most)
            self._collection.add(ids=list(ids[part]), embeddings=vectors[part].tolist())
        self._collection.modify(metadata={"digest": digest})

    def nearest(self, vector: NDArray[np.float32], limit: int) -> list[str]:
        """Ids, nearest first."""
        found = self._collection.query(query_embeddings=[vector.tolist()], n_results=limit, include=[])
        ids: list[str] = found["ids"][0]
        return ids

    def close(self) -> None:
        """Lets the database go; what was in memory is gone. The store cannot be used after it."""
        if self._in_memory:
            self._client.delete_collection(self._name)
        self._client.close()

    def _open(self) -> Any:
        return self._client.get_or_create_collection(
            self._name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )
