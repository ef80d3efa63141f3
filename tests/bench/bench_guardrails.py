"""What the shipped policy's rails catch and what they wrongly flag, and what they cost: `make bench-guardrails`.

It reads the guard_*, tox_*, topic_* and pii_sgd files of $CALLGATE_DATA_DIR (any folder of that shape; what is not there is null), trains nothing, and ends
with one line of JSON. QUICK=1 takes a sample of each set. Every figure is at the thresholds of the shipped policy. On the folder that the weights were
fitted on, figures are optimistic: the model cards have those of texts that were left out. What a request costs at other gateways is measured last, in the
same run (guardrails_peers.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from guardrails.detectors.cascade import MODELS, Cascade, Weights
from guardrails.detectors.reading import Reading
from guardrails.detectors.toxicity import LABELS, speech_of
from guardrails.policy import load_policy
from guardrails.rails import Rails
from guardrails.redaction import RedactionSettings, build_redactor
from guardrails.types import Segment
from guardrails.verdict import Outcome, Stage, Verdict
from serving.embedding.minilm import EmbeddingBatcher, MiniLM
from tests.bench import bench_policy, guardrails_peers
from tests.bench.guardrails_golden import golden, watching

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "guardrails" / "policies" / "call-centre"
NEAR = Path(__file__).with_name("near_topics.txt")
QUICK = bool(os.environ.get("QUICK"))
SEED = 5
MOST = 250 if QUICK else 2500
TURNS = ("topic_banking77.jsonl", "topic_clinc150.jsonl", "topic_nlupp.jsonl", "pii_sgd_turns.jsonl")
BANKING = {"banking", "credit_cards"}
KEYS = (
    *("injection.tpr", "injection.tpr_short", "injection.tpr_leave_source_out", "injection.fpr_turns"),
    *(
        "notinject.accuracy",
        "notinject.caught",
        "bipia.tpr",
        "bipia.fpr",
        "bipia.auroc",
        "harm.tpr",
        "harm.fpr_xstest_safe",
    ),
    *("toxicity.auprc", "toxicity.auprc_baseline", "davidson.macro_f1", "topic.auroc", "topic.auroc_nlupp"),
    *("ensemble.fpr_turns", "cpu_ms.median", "cpu_ms.mean", "swap.failed", "swap.converged_s", "replay.identity"),
    "split.leaked_chars",
)
Figures = dict[str, float | int | None]
Rows = list[dict[str, Any]]


def main() -> int:
    """Exit code: 0 measured, 3 no data."""
    folder = Path(os.environ.get("CALLGATE_DATA_DIR", ""))
    if not (folder / "guard_attacks.jsonl").is_file():
        print("CALLGATE_DATA_DIR holds no guard_attacks.jsonl", file=sys.stderr)
        return 3
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = asyncio.run(measure(folder))
    turns = list(dict.fromkeys(ordinary_turns(folder, business=True)))
    figures |= bench_policy.figures(folder, QUICK)
    figures |= guardrails_peers.measured(random.Random(SEED).sample(turns, min(MOST, 800, len(turns))))
    show(figures)
    known: Figures = dict.fromkeys(KEYS)
    print(json.dumps({name: _rounded(value) for name, value in (known | figures).items()}))
    return 0


class Judge:
    """The shipped policy's rails, watching only, so that each says its word on each text."""

    def __init__(self, rails: Rails, embedder: EmbeddingBatcher) -> None:
        self.rails = rails
        self.embedder = embedder

    async def verdicts(self, texts: Sequence[str], stage: Stage = "input") -> list[dict[str, Verdict]]:
        found = []
        for text in texts:
            ruling = await self.rails.check(stage, [{"role": "user", "content": text}])
            found.append({verdict.rail: verdict for verdict in ruling.verdicts})
        return found

    def named(self, detector: str) -> list[str]:
        """The rails of a kind: by detector; 'injection' includes NeMo flows of the input stage that are pattern rules against it."""
        rails = self.rails.policy.rails.items()
        return [
            name
            for name, rail in rails
            if rail.detector == detector
            or (detector == "injection" and rail.stage == "input" and rail.flow is not None)
        ]

    def flagged(self, verdicts: Sequence[dict[str, Verdict]], detector: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        names = self.named(detector)
        return np.array([any(one[name].outcome is Outcome.BLOCK for name in names if name in one) for one in verdicts])


async def measure(folder: Path) -> Figures:
    """All figures that the folder and the policy have something for."""
    embedder = EmbeddingBatcher(MiniLM(1))
    policy = load_policy(POLICY)
    rails = Rails(watching(policy), embedder.embed, timed=False)
    await rails.start()
    judge = Judge(rails, embedder)
    figures: Figures = {}
    for part in (injection, harm, toxicity, topic, indirect, answers, ensemble):
        begun = time.monotonic()
        figures |= await part(judge, folder)
        print(f"{part.__name__}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    figures |= await golden(policy, rails, folder)
    await rails.aclose()
    figures |= await cost(folder, embedder)
    await embedder.aclose()
    return figures


# --- one part for each kind of rail


async def injection(judge: Judge, folder: Path) -> Figures:
    if not judge.named("injection"):
        return {}
    attacks, benign = read(folder, "guard_attacks.jsonl"), read(folder, "guard_benign.jsonl")
    caught = judge.flagged(await judge.verdicts(texts(attacks)), "injection")
    short = np.array([len(row["text"]) <= 300 for row in attacks])
    figures: Figures = {
        "injection.tpr": share(caught),
        "injection.tpr_short": share(caught[short]),
        "injection.rows": len(attacks),
        "injection.tpr_leave_source_out": recorded("injection", "left out: "),
    }
    for field, prefix in (("kind", "injection.tpr_kind"), ("source", "injection.tpr_source")):
        for value in sorted({str(row.get(field)) for row in attacks}):
            figures[f"{prefix}.{value}"] = share(caught[np.array([str(row.get(field)) == value for row in attacks])])
    wrong = judge.flagged(await judge.verdicts(texts(benign)), "injection")
    for source, key in (("NotInject", "notinject.fpr"), ("WildGuard", "wildguard.fpr"), ("XSTest", "xstest.fpr")):
        figures[key] = share(wrong[np.array([source in row["source"] for row in benign])])
    if (fpr := figures["notinject.fpr"]) is not None:
        figures["notinject.accuracy"] = 1 - fpr
        figures["notinject.caught"] = figures["injection.tpr"]  # the attacks caught at the very same threshold
    for name in TURNS:
        if turns := read(folder, name):
            wrong = judge.flagged(await judge.verdicts(texts(turns)), "injection")
            figures[f"injection.fpr.{name.removesuffix('.jsonl')}"] = share(wrong)
    turns = ordinary_turns(folder)
    figures["injection.fpr_turns"] = share(judge.flagged(await judge.verdicts(turns), "injection"))
    return figures


async def harm(judge: Judge, folder: Path) -> Figures:
    if not judge.named("harm"):
        return {}
    harmful = read(folder, "guard_harmful_requests.jsonl")
    safe = [row for row in read(folder, "guard_benign.jsonl", everything=True) if row["source"] == "XSTest"]
    said, passed = await judge.verdicts(texts(harmful)), await judge.verdicts(texts(safe))
    name = judge.named("harm")[0]
    yes, no = [scores_of(found, name) for found in (said, passed)]
    return {
        "harm.tpr": share(judge.flagged(said, "harm")),
        "harm.fpr_xstest_safe": share(judge.flagged(passed, "harm")),
        "harm.auroc_xstest_safe": auroc(yes, no),
        "harm.fpr_turns": share(judge.flagged(await judge.verdicts(ordinary_turns(folder)), "harm")),
    }


async def toxicity(judge: Judge, folder: Path) -> Figures:
    weights = MODELS / "toxicity" / "weights.npz"
    if not weights.is_file():
        return {}
    from sklearn.metrics import average_precision_score, f1_score

    cascade = Cascade(Weights.load(weights))
    moderation, tweets = read(folder, "tox_openai_moderation.jsonl"), read(folder, "tox_davidson_tweets.jsonl")

    async def logits(rows: Rows) -> list[Any]:
        return [await cascade.logits(Reading(row["text"], judge.embedder.embed)) for row in rows]

    wanted = [row["any"] for row in moderation]
    figures: Figures = {
        "toxicity.auprc": float(
            average_precision_score(wanted, [row[LABELS.index("any")] for row in await logits(moderation)])
        ),
        "toxicity.auprc_baseline": baseline(texts(moderation), wanted),
    }
    gold, said = [row["label"] for row in tweets], [speech_of(row) for row in await logits(tweets)]
    figures["davidson.macro_f1"] = float(f1_score(gold, said, average="macro"))
    return figures


def baseline(moderated: Sequence[str], wanted: Sequence[int]) -> float | None:
    """alt-profanity-check on the same rows; None where it is not installed."""
    try:
        from profanity_check import predict_prob
    except ImportError:
        print("alt-profanity-check is missing", file=sys.stderr)
        return None
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(wanted, predict_prob(list(moderated))))


async def topic(judge: Judge, folder: Path) -> Figures:
    if not judge.named("topic"):
        return {}
    name = judge.named("topic")[0]
    banking, clinc = read(folder, "topic_banking77.jsonl"), read(folder, "topic_clinc150.jsonl")
    spoken = [row for row in read(folder, "topic_nlupp.jsonl") if row["domain"] == "banking"]
    on = texts(banking) + [row["text"] for row in clinc if row["domain"] in BANKING]
    off = [row["text"] for row in clinc if row["domain"] not in {*BANKING, "small_talk", "meta"}]
    found = await judge.verdicts(on), await judge.verdicts(off), await judge.verdicts(texts(spoken))
    good, bad, style = [scores_of(verdicts, name) for verdicts in found]
    return {
        "topic.auroc": auroc(bad, good),
        "topic.auroc_nlupp": auroc(bad, style),
        "topic.auroc_nlupp_leave_style_out": recorded("topic", "left out: auroc.nlupp"),
        "topic.caught": share(judge.flagged(found[1], "topic")),
        "topic.fpr": share(judge.flagged(found[0], "topic")),
        "topic.fpr_nlupp": share(judge.flagged(found[2], "topic")),
        **await near_topics(judge, name),
    }


async def near_topics(judge: Judge, rail: str) -> Figures:
    """Questions near the business, labelled by us: the AUROC, and shares refused."""
    lines = [line for line in NEAR.read_text(encoding="utf-8").splitlines() if line[:2] in ("- ", "+ ")]
    verdicts = await judge.verdicts([line[2:] for line in lines])
    off = np.array([line.startswith("-") for line in lines])
    flagged, scores = judge.flagged(verdicts, "topic"), scores_of(verdicts, rail)
    return {
        "topic.near.auroc": auroc(scores[off], scores[~off]),
        "topic.near.caught": share(flagged[off]),
        "topic.near.fpr": share(flagged[~off]),
    }


async def indirect(judge: Judge, folder: Path) -> Figures:
    if not judge.named("indirect"):
        return {}
    rows = read(folder, "guard_bipia_email.jsonl", everything=True)
    verdicts = await judge.verdicts(texts(rows), "retrieval")
    flagged, scores = judge.flagged(verdicts, "indirect"), scores_of(verdicts, judge.named("indirect")[0])
    label = np.array([row["label"] == 1 for row in rows])
    return {
        "bipia.tpr": share(flagged[label]),
        "bipia.fpr": share(flagged[~label]),
        "bipia.auroc": auroc(scores[label], scores[~label]),
        "bipia.negatives": len({row["text"] for row, yes in zip(rows, label, strict=True) if not yes}),
    }


async def answers(judge: Judge, folder: Path) -> Figures:
    """Ordinary answers of agents that output rails would stop: of the schema-guided dialogues, none of them trained on."""
    said = texts([row for row in read(folder, "pii_sgd_turns.jsonl", everything=True) if row["speaker"] == "SYSTEM"])
    verdicts = await judge.verdicts(said[:MOST], "output")
    return {
        f"answers.fpr.{name}": share(judge.flagged(verdicts, name))
        for name in ("promises", "toxicity")
        if judge.named(name)
    }


async def ensemble(judge: Judge, folder: Path) -> Figures:
    """Ordinary turns that the whole policy would stop: those about the business, since the others are off topic rightly."""
    turns = ordinary_turns(folder, business=True)
    verdicts = await judge.verdicts(turns)
    enforced = {
        name for name, rail in load_policy(POLICY).rails.items() if rail.mode == "enforce" and rail.stage == "input"
    }
    stopped = np.array([[one[name].outcome is Outcome.BLOCK for name in enforced] for one in verdicts])
    figures: Figures = {"ensemble.fpr_turns": share(stopped.any(axis=1)), "ensemble.turns": len(turns)}
    return figures | {f"ensemble.fpr.{name}": share(stopped[:, n]) for n, name in enumerate(enforced)}


async def cost(folder: Path, embedder: EmbeddingBatcher) -> Figures:
    """CPU of one request's redaction (without names) and input rails, and of the output rails on a short answer; each turn once, all threads."""
    policy = load_policy(POLICY)
    rails = Rails(policy, embedder.embed, timed=False)
    await rails.start()
    redactor = build_redactor(RedactionSettings.model_validate({**policy.redaction, "ner": "off"}))
    turns = list(dict.fromkeys(ordinary_turns(folder, business=True)))[:1500]
    answer = "Thank you for calling. Your card was blocked this morning, and a new one will reach you within five days."
    spent = []
    for turn in turns:
        begun = time.process_time_ns()
        redaction = await redactor.redact([Segment(turn)])
        messages = [{"role": "user", "content": redaction.texts[0]}]
        ruling = await rails.check_input(messages)
        if ruling.decision == "allow":
            guard = rails.guard_output(messages)
            await guard.feed(answer)
            await guard.finish()
        spent.append((time.process_time_ns() - begun) / 1e6)
    await rails.aclose()
    await redactor.aclose()
    return {
        "cpu_ms.median": float(np.median(spent)),
        "cpu_ms.mean": float(np.mean(spent)),
        "cpu_ms.p95": float(np.percentile(spent, 95)),
    }


# --- small parts


def read(folder: Path, name: str, *, everything: bool = False) -> Rows:
    """The rows of a file, or a fixed sample of them; none where there is no such file."""
    if not (folder / name).is_file():
        return []
    found = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]
    if everything or len(found) <= MOST:
        return found
    return random.Random(SEED).sample(found, MOST)


def ordinary_turns(folder: Path, *, business: bool = False) -> list[str]:
    """What callers say: the four sets in equal parts. ``business``: of CLINC150 and NLU++ only banking, of SGD only banks and payments."""
    found = []
    for name in TURNS:
        rows = read(folder, name, everything=True)
        if business:
            rows = [row for row in rows if _is_business(name, row)]
        found += random.Random(SEED).sample(texts(rows), min(MOST // 2, len(rows)))
    return found


def _is_business(name: str, row: dict[str, Any]) -> bool:
    if "domain" in row:
        return row["domain"] in BANKING
    if name.startswith("pii_sgd"):
        return row["speaker"] == "USER" and bool({"Banks", "Payment"} & set(row["services"]))
    return True


def texts(rows: Rows) -> list[str]:
    return [row["text"] for row in rows]


def scores_of(verdicts: Sequence[dict[str, Verdict]], rail: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([one[rail].score if one[rail].score is not None else np.nan for one in verdicts], dtype=np.float64)


def share(hits: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    return float(hits.mean()) if len(hits) else None


def auroc(yes: np.ndarray[Any, Any], no: np.ndarray[Any, Any]) -> float | None:
    from sklearn.metrics import roc_auc_score

    if not len(yes) or not len(no):
        return None
    return float(roc_auc_score([1] * len(yes) + [0] * len(no), [*yes, *no]))


def recorded(model: str, prefix: str) -> float | None:
    """The lowest of some figures that the training wrote beside the weights (it takes a training run on the data)."""
    kept = MODELS / model / "figures.json"
    if not kept.is_file():
        return None
    figures: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))["figures"]
    found = [value for name, value in figures.items() if name.startswith(prefix)]
    return min(found) if found else None


def _rounded(value: float | None) -> float | int | None:
    return round(value, 4) if isinstance(value, float) else value


def show(figures: Figures) -> None:
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "-" if value is None else f"{value:.4g}")
    Console().print(table)
    print(
        "recorded figures: python -m guardrails.train injection --data $CALLGATE_DATA_DIR, python -m guardrails.train topic ..."
    )


if __name__ == "__main__":
    sys.exit(main())
