"""Retrieval, measured: by meaning, by words and both, on XQuAD's questions and paragraphs.

Run from the root: `python -m tests.bench.bench_rag` with CALLGATE_DATA_DIR set; QUICK=1 takes 100 questions. It reads `rag_xquad_en.jsonl` (fields
question, context) and ends with one line of JSON. It does not cover spoken questions, answers, or attacks: those keys are null.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.retrieve import Knowledge, WordIndex
from rag.stores.chroma import ChromaStore
from rag.types import Passage
from serving.embedding.minilm import EmbeddingBatcher, MiniLM

NOT_MEASURED = (
    *(f"dstc10.{key}" for key in ("r1", "r5", "mrr5", "e2e_r1", "e2e_r5", "e2e_mrr5", "detection_f1")),
    "bipia.attack_success",
    "bipia.attack_success_without",
)
Figures = dict[str, float | int | None]


def main() -> int:
    """Exit code: 0 measured, 3 no data."""
    source = Path(os.environ.get("CALLGATE_DATA_DIR", "")) / "rag_xquad_en.jsonl"
    if not source.is_file():
        print(f"CALLGATE_DATA_DIR holds no {source.name}", file=sys.stderr)
        return 3
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    asked = rows[:100] if os.environ.get("QUICK") else rows
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            measure([row["question"] for row in asked], [row["context"] for row in asked], contexts, Path(folder))
        )
    show(figures, len(asked), len(contexts))
    print(json.dumps(figures | dict.fromkeys(NOT_MEASURED)))
    return 0


async def measure(questions: Sequence[str], gold: Sequence[str], contexts: Sequence[str], folder: Path) -> Figures:
    """All figures. Every context is an article of its own, so a hit is the very paragraph that the question was asked about."""
    articles, store = folder / "articles", folder / "store"
    articles.mkdir()
    for place, context in enumerate(contexts):
        (articles / f"{place:05}.md").write_text(f"# Paragraph\n\n{' '.join(context.split())}", encoding="utf-8")
    wanted = [f"{contexts.index(context):05}" for context in gold]
    begun = time.perf_counter()
    model = MiniLM()
    figures: Figures = {"embedding.load_s": time.perf_counter() - begun}
    batcher = EmbeddingBatcher(model)
    first = Knowledge(batcher.embed, store)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    await first.start(articles)
    figures["ingest.chunks_per_s"] = len(first) / (time.perf_counter() - begun)
    figures["ingest.cpu_ms_per_chunk"] = (time.process_time() - begun_cpu) * 1000 / len(first)
    await first.aclose()
    knowledge = Knowledge(batcher.embed, store)
    begun = time.perf_counter()
    await knowledge.start(articles)
    figures["start.unchanged_s"] = time.perf_counter() - begun
    took, cpu, hybrid = [], time.process_time(), []
    for question in questions:
        begun = time.perf_counter()
        hybrid.append([passage.source.removesuffix(".md") for passage in await knowledge.retrieve(question, 5)])
        took.append((time.perf_counter() - begun) * 1000)
    figures["query.cpu_ms"] = (time.process_time() - cpu) * 1000 / len(questions)
    figures["query.p50_ms"], figures["query.p99_ms"] = (float(np.percentile(took, p)) for p in (50, 99))
    await knowledge.aclose()
    await batcher.aclose()
    alone = apart(questions, [Passage(f"{n:05}", "Paragraph", text, "") for n, text in enumerate(contexts)], model)
    rankings = {"xquad": hybrid, **alone}
    for name, ranked in rankings.items():
        figures |= {f"{name}.r{k}": share(found(ranked, wanted, k)) for k in (1, 5)}
    for name in alone:
        ours, theirs = found(hybrid, wanted, 1), found(rankings[name], wanted, 1)
        figures[f"{name}.r1_only_hybrid"] = int((ours & ~theirs).sum())
        figures[f"{name}.r1_only_this"] = int((~ours & theirs).sum())
    return figures


def apart(questions: Sequence[str], passages: Sequence[Passage], model: MiniLM) -> dict[str, list[list[str]]]:
    """The two rankings that are fused, each on its own: what fusion has to beat."""
    store, index = ChromaStore("passages", None), WordIndex(passages)
    store.replace([p.id for p in passages], model.embed([f"{p.title}. {p.text}" for p in passages]), "bench")
    vectors = model.embed(questions)
    near = [store.nearest(vector, 5) for vector in vectors]
    store.close()
    return {"xquad.vector": near, "xquad.words": [index.best(question, 5) for question in questions]}


def found(ranked: Sequence[Sequence[str]], wanted: Sequence[str], k: int) -> NDArray[np.bool_]:
    """For each question, whether its paragraph is among the first k."""
    return np.array([name in names[:k] for names, name in zip(ranked, wanted, strict=True)])


def share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean())


def show(figures: Figures, questions: int, contexts: int) -> None:
    """The table for people."""
    print(
        f"{questions} questions over {contexts} paragraphs (XQuAD, written questions: they share words with their paragraphs)"
    )
    for name, label in (("xquad.vector", "meaning alone"), ("xquad.words", "words alone"), ("xquad", "both, fused")):
        print(f"  {label:15} R@1 {figures[f'{name}.r1']:.3f}   R@5 {figures[f'{name}.r5']:.3f}")
    for name, value in figures.items():
        if not name.startswith("xquad"):
            print(f"  {name:25} {value:.2f}")


if __name__ == "__main__":
    sys.exit(main())
