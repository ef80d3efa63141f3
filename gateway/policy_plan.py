"""What a policy change would do, from recordings replayed under the old and the new version. Pure: values in, a report out.

First the identity: the running version must reproduce every recorded verdict, or nothing else is said. Shares are weighted, since blocked
traffic is always recorded and the rest is sampled. It replays nothing and knows no rail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.languages import language_of
from gateway.policy_settings import PlanLimits

SCORE_TOLERANCE = 0.002  # vectors of the sentence encoder differ in the fourth digit with the batch they were made in
EXAMPLES = 5
TIMING = ("another rail blocked first", "mode is off")
Ruled = Mapping[str, Any]
Json = dict[str, Any]
Timed = tuple[Ruled, Ruled, Ruled]
"""A recording, and what the old and the new version made of it in how much time."""


def outcome(ruled: Ruled) -> tuple[str, str]:
    """What the caller got, and the rail that decided: allowed, blocked, refused (politely), withheld (the answer), rewritten, unavailable."""
    if ruled["refused_redaction"]:
        return "blocked", "redaction"
    result = ("allowed", "")
    for ruling in ruled["rulings"]:
        if ruling["decision"] == "block":
            if ruling["kind"] == "rail_unavailable":
                return "unavailable", _decider(ruling, "not_run")
            if ruling["stage"] == "retrieval":  # a passage was left out, and the request went on
                continue
            word = (
                "withheld"
                if ruling["stage"] in ("output", "tool")
                else "refused"
                if ruling["respond"] == "refusal"
                else "blocked"
            )
            return word, _decider(ruling, "block")
        if ruling["decision"] == "rewrite":
            result = ("rewritten", _decider(ruling, "rewrite"))
    return result


def _decider(ruling: Mapping[str, Any], of: str) -> str:
    return next((v["rail"] for v in ruling["verdicts"] if v["outcome"] == of and v["enforced"]), "")


def is_incident(recorded: Ruled) -> str:
    """Why a recording says nothing of the policy: a rail was late or broke. Empty for a verdict that is a function of its text."""
    for ruling in recorded["rulings"]:
        for verdict in ruling["verdicts"]:
            if verdict["outcome"] == "not_run" and verdict["reason"] not in TIMING:
                return f"{verdict['rail']} {verdict['reason']}"
    return ""


def differences(recorded: Ruled, replayed: Ruled) -> list[str]:
    """How a replay differs from what was recorded; empty when every verdict is reproduced."""
    found = []
    if recorded["refused_redaction"] != replayed["refused_redaction"]:
        return [
            f"redaction refused {recorded['refused_redaction'] or 'nothing'}, now {replayed['refused_redaction'] or 'nothing'}"
        ]
    then = {(r["stage"], r["channel"]): r for r in recorded["rulings"]}
    now = {(r["stage"], r["channel"]): r for r in replayed["rulings"]}
    for key in sorted({*then, *now}):
        where = " ".join(filter(None, key))
        if key not in then or key not in now:
            found.append(f"{where}: ruled only {'then' if key in then else 'now'}")
            continue
        found += [
            f"{where}: {field} {then[key][field]}, now {now[key][field]}"
            for field in ("decision", "kind", "respond", "text")
            if then[key][field] != now[key][field]
        ]
        found += _verdict_differences(where, then[key]["verdicts"], now[key]["verdicts"])
    return found


def _verdict_differences(where: str, then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    by_rail = {verdict["rail"]: verdict for verdict in now}
    if sorted(by_rail) != sorted(verdict["rail"] for verdict in then):
        return [f"{where}: other rails"]
    for old in then:
        new = by_rail[old["rail"]]
        if old["outcome"] != new["outcome"]:
            found.append(f"{where}: {old['rail']} {old['outcome']}, now {new['outcome']}")
        elif (old["score"] is None) != (new["score"] is None) or abs(
            (old["score"] or 0) - (new["score"] or 0)
        ) > SCORE_TOLERANCE:
            found.append(f"{where}: {old['rail']} scored {old['score']}, now {new['score']}")
        elif old["threshold"] != new["threshold"]:
            found.append(f"{where}: {old['rail']} had threshold {old['threshold']}, now {new['threshold']}")
    return found


def identity(recordings: Sequence[Ruled], replays: Sequence[Ruled]) -> Json:
    """Whether the running version reproduces its own verdicts: how many, and every one that it does not, named."""
    incidents: list[Json] = []
    unlike: list[Json] = []
    for recorded, replayed in zip(recordings, replays, strict=True):
        if why := is_incident(recorded):
            incidents.append({"request_id": recorded["request_id"], "why": why})
        elif found := differences(recorded, replayed):
            unlike.append({"request_id": recorded["request_id"], "engine": recorded["engine"], "why": found})
    compared = len(recordings) - len(incidents)
    return {
        "replayed": compared,
        "reproduced": compared - len(unlike),
        "share": (compared - len(unlike)) / compared if compared else None,
        "not_reproduced": unlike[:50],
        "incidents": len(incidents),
        "incident_examples": incidents[:EXAMPLES],
    }


def compare(
    recordings: Sequence[Ruled], before: Sequence[Ruled], after: Sequence[Ruled], timed: Sequence[Timed]
) -> Json:
    """The difference between two versions on the same recordings: counts, weighted shares, cuts and examples.

    ``timed``: some of the recordings, each replayed by both alone, for the latency.
    """
    changes: list[Json] = []
    weights = 0.0
    for recorded, old, new in zip(recordings, before, after, strict=True):
        if is_incident(recorded):
            continue
        weights += recorded["weight"]
        changes += [
            {**change, **_labels(recorded), "weight": recorded["weight"]} for change in _changes(recorded, old, new)
        ]
    report: Json = {}
    for kind in ("newly_blocked", "newly_allowed", "changed_redaction", "changed_refusal"):
        mine = [change for change in changes if change["kind"] == kind]
        weight = sum(change["weight"] for change in mine)
        report[kind] = {
            "requests": len(mine),
            "percent": round(100 * weight / weights, 4) if weights else None,
            "by_rail": _cut(mine, "rail"),
            "by_intent": _cut(mine, "intent"),
            "by_language": _cut(mine, "language"),
            "examples": [_example(change) for change in mine[:EXAMPLES]],
        }
    unknown = [request for request in after if request["unknown"]]
    report["not_known"] = {"requests": len(unknown), "why": _count(why for one in unknown for why in one["unknown"])}
    report["not_asked"] = _count(rail for one in after for rail in dict.fromkeys(one["unasked"]))
    report["latency"] = {"requests": len(timed), **_latency(timed)}
    report["cuts"] = _cuts(recordings, before, after, timed)
    report["cost"] = _cost(recordings, before, after)
    return report


def _changes(recorded: Ruled, old: Ruled, new: Ruled) -> Iterable[Json]:
    (was, by_old), (now, by_new) = outcome(old), outcome(new)
    about = {
        "was": was,
        "now": now,
        "text": _last_text(recorded),
        "request_id": recorded["request_id"],
        "unknown": new["unknown"],
    }
    stopped = ("blocked", "refused", "withheld", "unavailable")
    if now == "unavailable" and by_new in new["unasked"]:
        pass  # nobody knows what the model would say: counted as not known
    elif now in stopped and was not in stopped:
        yield {"kind": "newly_blocked", "rail": by_new, **about, "scores": _scores(new, by_new)}
    elif was in stopped and now not in stopped:
        yield {"kind": "newly_allowed", "rail": by_old, **about, "scores": _scores(new, by_old)}
    elif was in stopped and (was != now or _words(old) != _words(new)):
        words = {"was": f"{was} '{_words(old) or ''}'", "now": f"{now} '{_words(new) or ''}'"}
        yield {"kind": "changed_refusal", "rail": by_new, **about, **words, "scores": _scores(new, by_new)}
    if new["redaction"]:
        said = ", ".join(f"{kind}: {what}" for kind, what in sorted(new["redaction"].items()))
        yield {"kind": "changed_redaction", "rail": "redaction", **about, "now": said, "scores": None}


def _labels(recorded: Ruled) -> Json:
    said = " ".join(m["content"] for m in recorded["conversation"] if m["role"] == "user")
    return {"intent": recorded["intent"] or "unlabelled", "language": language_of(said) if said else "unknown"}


def _last_text(recorded: Ruled) -> str:
    said = [m["content"] for m in recorded["conversation"] if m["role"] == "user"]
    return said[-1] if said else ""


def _words(ruled: Ruled) -> str | None:
    return next((r["text"] for r in ruled["rulings"] if r["decision"] == "block"), None)


def _scores(ruled: Ruled, rail: str) -> list[float | None] | None:
    for ruling in ruled["rulings"]:
        for verdict in ruling["verdicts"]:
            if verdict["rail"] == rail:
                return [verdict["score"], verdict["threshold"]]
    return None


def _example(change: Json) -> Json:
    text = change["text"]
    kept = ("request_id", "rail", "intent", "language", "was", "now", "scores", "unknown")
    return {name: change[name] for name in kept} | {"text": text if len(text) <= 300 else text[:300] + "..."}


def _cut(changes: Sequence[Json], by: str) -> dict[str, int]:
    return _count(change[by] for change in changes)


def _count(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _latency(timed: Sequence[Timed]) -> Json:
    """Time of the rails by request, old and new on the same machine: compare them, not their absolute size."""
    told: Json = {}
    for place, name in ((1, "old"), (2, "new")):
        side = sorted(one[place]["spent_ms"] for one in timed)
        told |= {f"{name}_p{p}_ms": _quantile(side, p / 100) for p in (50, 95)}
    return told


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else None


def _cost(recordings: Sequence[Ruled], before: Sequence[Ruled], after: Sequence[Ruled]) -> Json:
    """Tokens of answers that would no longer be asked for, and of what rails ask; what newly allowed requests would cost nobody knows."""
    asked = saved = old_rails = new_rails = 0.0
    more = 0
    for recorded, old, new in zip(recordings, before, after, strict=True):
        weight = recorded["weight"]
        tokens = sum(recorded["tokens"]) * weight
        asked += tokens
        old_rails, new_rails = old_rails + old["asked_tokens"] * weight, new_rails + new["asked_tokens"] * weight
        was, now = (outcome(side)[0] in ("blocked", "refused") for side in (old, new))
        saved += tokens if now and not was else 0.0
        more += was and not now
    return {
        "tokens": round(asked),
        "tokens_no_longer_asked_for": round(saved),
        "requests_newly_asked": more,
        "old_rail_tokens": round(old_rails),
        "new_rail_tokens": round(new_rails),
    }


def _cuts(recordings: Sequence[Ruled], before: Sequence[Ruled], after: Sequence[Ruled], timed: Sequence[Timed]) -> Json:
    """Latency and cost by intent and by language, the commonest first; and the mean time of each rail, by check."""
    told: Json = {}
    sides = list(zip(recordings, before, after, strict=True))
    for by in ("intent", "language"):
        groups = _grouped(sides, by)
        clocked = _grouped(timed, by)
        told[f"by_{by}"] = {
            name: {
                "requests": len(mine),
                **_latency(clocked.get(name, ())),
                **_cost(*zip(*mine, strict=True)),
            }
            for name, mine in sorted(groups.items(), key=lambda item: -len(item[1]))
        }
    old, new = _rail_ms([one[1] for one in timed]), _rail_ms([one[2] for one in timed])
    told["by_rail"] = {rail: {"old_ms": old.get(rail), "new_ms": new.get(rail)} for rail in sorted({*old, *new})}
    return told


def _grouped(sides: Sequence[Timed], by: str) -> dict[str, list[Timed]]:
    groups: dict[str, list[Timed]] = defaultdict(list)
    for one in sides:
        groups[_labels(one[0])[by]].append(one)
    return groups


def _rail_ms(side: Sequence[Ruled]) -> dict[str, float]:
    spent: dict[str, list[float]] = defaultdict(list)
    for ruled in side:
        for ruling in ruled["rulings"]:
            for verdict in ruling["verdicts"]:
                if verdict["outcome"] != "not_run":
                    spent[verdict["rail"]].append(verdict["duration_ms"])
    return {rail: round(sum(times) / len(times), 3) for rail, times in spent.items()}


def breaches(report: Mapping[str, Any], replayed: int, limits: PlanLimits) -> list[str]:
    """Which limits a plan breaks, in words; empty: it may be applied."""
    found = []
    for kind in ("newly_blocked", "newly_allowed", "changed_redaction", "changed_refusal"):
        limit, share = getattr(limits, kind), report[kind]["percent"]
        if limit is not None and (share is None or share > limit):
            found.append(
                f"{kind.replace('_', ' ')} {'unknown' if share is None else f'{share:.2f} %'}, at most {limit:g} % allowed"
            )
    old, new = report["latency"]["old_p95_ms"], report["latency"]["new_p95_ms"]
    if limits.added_p95_ms is not None and old is not None and new is not None and new - old > limits.added_p95_ms:
        found.append(f"adds {new - old:.2f} ms at the 95th percentile, at most {limits.added_p95_ms:g} ms allowed")
    if limits.newly_blocked is not None:
        found += [
            f"what '{rail}' would block is not known for {count} requests, since its model was not asked"
            for rail, count in report["not_asked"].items()
        ]
    if replayed < limits.min_requests:
        found.append(f"only {replayed} requests were replayed, at least {limits.min_requests} needed")
    return found
