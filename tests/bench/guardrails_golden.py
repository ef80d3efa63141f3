"""How many ordinary texts the shipped policy would stop that no training has seen: `python -m tests.bench.guardrails_golden`.

Three sets. The golden suites' ordinary cases were written to test answers, not rails, and have been read: a validation set. ordinary_calls.txt was written
for this measurement alone, and is not read when trainings are mended. Dialogues are callers' turns of real sets under $CALLGATE_DATA_DIR. A rail counts where it
has a say: not the language rail on Spanish (what a policy with `languages: [en, es]` would stop), nor off-topic on businesses that are not the policy's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guardrails.policy import Policy, load_policy
from guardrails.rails import Rails
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.train.data import is_measured
from guardrails.types import Segment
from guardrails.verdict import Outcome
from serving.embedding.minilm import EmbeddingBatcher, MiniLM

ROOT = Path(__file__).parents[2]
SUITES, POLICY = ROOT / "evals" / "suites", ROOT / "guardrails" / "policies" / "call-centre"
UNREAD = Path(__file__).with_name("ordinary_calls.txt")
ORDINARY: dict[
    str, tuple[str, ...]
] = {  # suite to slices in which no refusal is right, in the policy's language; none named: all of them
    "angry-caller": (),
    "next-action": (),
    "knowledge-answers": (),
    "call-summaries": (),
    "authentication": ("right", "wrong", "half", "general"),
    "personal-data": ("own", "summary"),
}
OWN_BUSINESS = {"bank", "telco"}
OWN_SERVICES = {"Banks", "Payment"}
MOST_DIALOGUES = 200  # of the schema-guided ones of each kind
Message = dict[str, str]
Figures = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation that ends with what the rails judge. ``groups``: what it is counted under; ``without``: rails that have no say."""

    messages: tuple[Message, ...]
    groups: tuple[str, ...]
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stopped:
    """A case and the rails that would stop it, with their scores; none where it passes."""

    case: Case
    rails: dict[str, float | None]


async def golden(policy: Policy, rails: Rails, folder: Path | None = None) -> Figures:
    """Shares stopped of all sets, by group and by rail. ``rails``: those of the policy, all watching, so that each says its word."""
    redactor = build_redactor(RedactionSettings.model_validate(policy.redaction))
    await redactor.ready()
    sets = {"golden": suite_cases(), "unread": unread_cases(), "dialogues": dialogue_cases(folder)}
    figures: Figures = {}
    for name, cases in sets.items():
        figures |= shares(name, [await judged(policy, rails, redactor, case) for case in cases])
    await redactor.aclose()
    return figures


async def judged(policy: Policy, rails: Rails, redactor: Redactor, case: Case) -> Stopped:
    """What would stop a case, after its personal data is taken out."""
    found = await redactor.redact([Segment(message["content"]) for message in case.messages])
    said = [{"role": m["role"], "content": t} for m, t in zip(case.messages, found.texts, strict=True)]
    verdicts = (await rails.check_input(said)).verdicts
    blocks = {
        v.rail: v.score for v in verdicts if v.outcome is Outcome.BLOCK and policy.rails[v.rail].mode == "enforce"
    }
    return Stopped(case, {rail: score for rail, score in blocks.items() if rail not in case.without})


def shares(name: str, found: list[Stopped]) -> Figures:
    """Of all cases, of each group, and by rail (of all cases)."""
    if not found:
        return {f"{name}.fpr": None}
    sizes = Counter(group for one in found for group in one.case.groups)
    stopped = Counter(group for one in found if one.rails for group in one.case.groups)
    by_rail = Counter(rail for one in found for rail in one.rails)
    return {
        f"{name}.fpr": sum(bool(one.rails) for one in found) / len(found),
        f"{name}.cases": len(found),
        **{f"{name}.fpr.{group}": stopped[group] / size for group, size in sizes.items()},
        **{f"{name}.fpr.{rail}": count / len(found) for rail, count in by_rail.items()},
    }


def suite_cases() -> Iterator[Case]:
    """Of the golden suites."""
    for suite, slices in ORDINARY.items():
        for line in (SUITES / suite / "cases.jsonl").read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            if not slices or case["slice"] in slices:
                yield Case(tuple(case["messages"]), (suite,))


def unread_cases() -> Iterator[Case]:
    """Of ordinary_calls.txt."""
    kind = business = language = ""
    for line in UNREAD.read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            kind, business, language = line[2:].split()
        elif line and not line.startswith("#"):
            turns = line.split(" // ")
            without = {"language"} if language != "en" else set()
            without |= set() if business in OWN_BUSINESS else {"off-topic"}
            yield Case(conversation(turns), (kind, business, language), frozenset(without))


def dialogue_cases(folder: Path | None) -> Iterator[Case]:
    """Every turn of callers in dialogues with agents, after those before it: banks and payments, other services, tourists on the phone, a shop.

    Of the half that is only measured; the other half may be read.
    """
    if folder is None:
        return
    own: list[list[Message]] = []
    other: list[list[Message]] = []
    for row in _rows(folder / "dialogues_sgd.jsonl"):
        if is_measured(row["id"]):
            (own if set(row["services"]) <= OWN_SERVICES else other).append(row["turns"])
    yield from _each_turn(own[:MOST_DIALOGUES], "sgd-banks", frozenset())
    elsewhere = frozenset({"off-topic"})
    yield from _each_turn(other[:MOST_DIALOGUES], "sgd-others", elsewhere)
    tourists = (row["turns"] for row in _rows(folder / "rag_dstc10_spoken.jsonl") if is_measured(row["id"]))
    yield from _each_turn(tourists, "dstc10", elsewhere)
    if (shop := folder / "dialogues_abcd_sample.json").is_file():
        chats = json.loads(shop.read_text(encoding="utf-8"))
        spoken = (
            [{"speaker": who, "text": text} for who, text in chat["original"] if who != "action"] for chat in chats
        )
        yield from _each_turn(spoken, "abcd", elsewhere)


def conversation(turns: Iterable[str]) -> tuple[Message, ...]:
    """Messages of turns that begin with the caller's."""
    return tuple(
        {"role": "assistant" if place % 2 else "user", "content": text.strip()} for place, text in enumerate(turns)
    )


def _each_turn(dialogues: Iterable[list[Message]], group: str, without: frozenset[str]) -> Iterator[Case]:
    for turns in dialogues:
        messages = [
            {"role": "user" if turn["speaker"] == "customer" else "assistant", "content": turn["text"]}
            for turn in turns
        ]
        for place, message in enumerate(messages):
            if message["role"] == "user":
                yield Case(tuple(messages[: place + 1]), (group,), without)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def watching(policy: Policy) -> Policy:
    """The policy with every rail watching, so that none keeps another from saying its word."""
    rails = {
        name: rail.model_copy(update={"mode": "monitor"}) for name, rail in policy.rails.items() if rail.mode != "off"
    }
    return replace(policy, rails=rails)


async def _main() -> int:
    folder = Path(os.environ.get("CALLGATE_DATA_DIR", ""))
    embedder, policy = EmbeddingBatcher(MiniLM(1)), load_policy(POLICY)
    rails = Rails(watching(policy), embedder.embed, timed=False)
    await rails.start()
    figures = await golden(policy, rails, folder)
    await rails.aclose()
    await embedder.aclose()
    for name, value in figures.items():
        print(f"{name:40} {value if value is None or isinstance(value, int) else f'{100 * value:.1f} %'}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
