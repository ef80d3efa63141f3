"""Boosted decision trees as plain numbers: read from JSON, added up in pure Python, nothing to unpickle.

Knows nothing of what the numbers mean or of how they were learned (evals/train.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tree:
    """By node: the number it looks at (-1: a leaf), the limit up to which one goes `left`, and what a leaf adds."""

    feature: tuple[int, ...]
    limit: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    @classmethod
    def read(cls, document: dict[str, Any], features: int) -> Tree:
        """Raises ValueError for a tree that would not end, would read beside the numbers, or holds no numbers."""
        tree = cls(
            feature=tuple(int(v) for v in document["feature"]),
            limit=tuple(float(v) for v in document["limit"]),
            left=tuple(int(v) for v in document["left"]),
            right=tuple(int(v) for v in document["right"]),
            value=tuple(float(v) for v in document["value"]),
        )
        size = len(tree.feature)
        if not size or any(len(part) != size for part in (tree.limit, tree.left, tree.right, tree.value)):
            raise ValueError("a tree's lists need one entry for each node")
        for node, feature in enumerate(tree.feature):
            inside = node < tree.left[node] < size and node < tree.right[node] < size
            if not -1 <= feature < features or (feature >= 0 and not inside):
                raise ValueError(f"node {node} of a tree leads nowhere")
        if not all(map(math.isfinite, (*tree.limit, *tree.value))):
            raise ValueError("a tree needs finite numbers")
        return tree

    def add(self, numbers: Sequence[float]) -> float:
        """What the leaf adds that `numbers` lead to."""
        node = 0
        while (feature := self.feature[node]) >= 0:
            node = self.left[node] if numbers[feature] <= self.limit[node] else self.right[node]
        return self.value[node]
