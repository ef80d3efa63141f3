"""Passages and their vectors in an embedded Chroma: the only file that knows it. Blocking: call it in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ChromaStore:
    """One collection. ``folder`` None: in memory. Vectors are compared by cosine."""

    def __init__(self, name: str, folder: Path | None) -> None:
        import chromadb
        from chromadb.config import Settings

        quiet = Settings(anonymized_telemetry=False)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = chromadb.PersistentClient(str(folder), quiet) if folder else chromadb.EphemeralClient(quiet)
        self._name = name
        self._collection: Any = self._open()

    @property
    def digest(self) -> str:
        """The digest of what was put in last; empty when nothing was."""
        return str((self._collection.metadata or {}).get("digest", ""))

    def replace(self, ids: Sequence[str], vectors: NDArray[np.float32], digest: str) -> None:
        """Puts these vectors in place of all there were."""
        self._client.delete_collection(self._name)
        self._collection = self._open(digest)
        self._collection.add(ids=list(ids), embeddings=vectors.tolist())

    def nearest(self, vector: NDArray[np.float32], limit: int) -> list[str]:
        """Ids, nearest first."""
        found = self._collection.query(query_embeddings=[vector.tolist()], n_results=limit, include=[])
        ids: list[str] = found["ids"][0]
        return ids

    def _open(self, digest: str | None = None) -> Any:
        metadata = {"digest": digest} if digest else None
        return self._client.get_or_create_collection(
            self._name, embedding_function=None, metadata=metadata, configuration={"hnsw": {"space": "cosine"}}
        )
