"""Rails at work: what a policy's rails decide on an input, and on an answer before its bytes leave.

It knows texts and verdicts, not HTTP and not NeMo (guardrails/nemo/). A ruling is a function of text and policy. Fails closed: a rail that raises or is late did not run, and unless
its policy says `fail: open`, nothing passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from guardrails.asked import Ask
from guardrails.claim import COSTS, Claim, claim_of, refuse_impossible
from guardrails.detectors.reading import Reading
from guardrails.direct import DirectRail, build_direct
from guardrails.nemo.build import Rail, build_rails
from guardrails.nemo.checks import Check, NemoRail
from guardrails.nemo.embeddings import Embed
from guardrails.policy import Policy, PolicyError, RailSettings
from guardrails.tools import ToolCall
from guardrails.verdict import Outcome, Ruling, Stage, Verdict

Messages = Sequence[Mapping[str, str]]
_RANK = {"iorails": 0, "direct": 1, "colang": 2, "colang2": 2, "llm": 3}  # cheap before dear
_CHEAP = 1  # ranks up to this run one after another, without a task of their own (one thread embeds for all of them)


class Rails:
    """The rails of one policy. ``start`` builds them, ``aclose`` ends them; ``clock`` counts seconds.

    ``timed`` False: deadlines and budget do not hold, for replays, where a slow machine must not change a verdict.
    ``ask``: who answers rails that ask a model; without one a policy that has such rails is refused.
    """

    def __init__(
        self,
        policy: Policy,
        embed: Embed | None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        timed: bool = True,
        ask: Ask | None = None,
    ) -> None:
        self.policy = policy
        self._embed = embed
        self._clock = clock
        self._timed = timed
        self._ask = ask
        self._built: dict[str, Rail | DirectRail] = {}
        self._named: dict[Stage, list[str]] = {}  # every rail of a stage, in the policy's order
        self._order: dict[Stage, list[str]] = {}  # those that run, cheap before dear
        self._first_dear: dict[Stage, int] = {}
        self.claim = Claim(0, 0, 0, 0)  # as it is once built

    async def start(self) -> None:
        """Builds NeMo in a thread. Raises: PolicyError."""
        direct = build_direct(self.policy, vectors=self._embed is not None)
        embed = _bound(self._embed) if self._embed is not None else None
        flows = any(rail.flow is not None and rail.mode != "off" for rail in self.policy.rails.values())
        nemo = await asyncio.to_thread(build_rails, self.policy, embed, self._ask) if flows else {}
        self._built = {**nemo, **direct}
        for stage in get_args(Stage):
            named = self._named[stage] = [name for name, rail in self.policy.rails.items() if rail.stage == stage]
            rank = {name: _RANK[self._built[name].engine] for name in named if name in self._built}
            self._order[stage] = sorted(rank, key=rank.__getitem__)
            self._first_dear[stage] = sum(rank[name] <= _CHEAP for name in rank)
        engines = {name: built.engine for name, built in self._built.items()}
        dear = {stage: order[self._first_dear[stage] :] for stage, order in self._order.items()}
        self.claim = claim_of(self.policy, engines, dear)
        try:
            refuse_impossible(self.policy, engines, self.claim)
        except PolicyError:
            await self.aclose()
            raise

    async def check_call(self, call: ToolCall) -> Ruling:
        """What the tool rails say of a call that the model asks for."""
        return await self.check("tool", [{"role": "assistant", "content": call.name}], call)

    @property
    def checks_calls(self) -> bool:
        return any(rail.stage == "tool" and rail.mode != "off" for rail in self.policy.rails.values())

    @property
    def asking(self) -> frozenset[str]:
        """The rails that ask a model."""
        return frozenset(name for name, built in self._built.items() if built.engine == "llm")

    @property
    def checks_passages(self) -> bool:
        return any(rail.stage == "retrieval" and rail.mode != "off" for rail in self.policy.rails.values())

    @property
    def checks_output(self) -> bool:
        return any(rail.stage == "output" and rail.mode != "off" for rail in self.policy.rails.values())

    async def check_input(self, messages: Messages) -> Ruling:
        """What the input rails say of the last thing the user said, and the retrieval rails of what tools have answered since.

        Cheap rails run first, the first block ends it.
        """
        said = [place for place, message in enumerate(messages) if message["role"] == "user"]
        last = messages[said[-1]]["content"] if said else ""
        ruling = await self.check("input", [{"role": "user", "content": last}])
        since = messages[said[-1] + 1 :] if said else messages
        for message in since if self._named["retrieval"] else ():
            if ruling.decision == "block":
                break
            if message["role"] in ("tool", "function"):
                ruling = _both(ruling, await self.check_passage(message["content"]))
        return ruling

    async def check_passage(self, text: str) -> Ruling:
        """What the retrieval rails say of a passage, or of what a tool answered."""
        return await self.check("retrieval", [{"role": "tool", "content": text}])

    async def check(
        self, stage: Stage, messages: Messages, call: ToolCall | None = None, context: Messages = ()
    ) -> Ruling:
        """All rails of a stage on the same messages: cheap ones one after another, dear ones in parallel behind them.

        The first block in that order (ties: the policy's) cancels every rail after it, also one that had finished: what a stage decides
        is a function of the text and the policy, never of which rail was faster, so that a recording can be replayed.
        """
        begun = self._clock()
        order = self._order[stage]
        reading = Reading(messages[-1]["content"] if messages else "", self._embed, call, context)
        verdicts: dict[str, Verdict] = {}
        waiting: dict[str, asyncio.Task[Verdict]] = {}
        try:
            for place, name in enumerate(order):
                if place == self._first_dear[stage] and place < len(order) - 1:
                    waiting = {n: asyncio.create_task(self._run(n, messages, begun, reading)) for n in order[place:]}
                verdict = await (waiting[name] if name in waiting else self._run(name, messages, begun, reading))
                verdicts[name] = verdict
                if self._stops(verdict):
                    break
        finally:
            for task in waiting.values():
                task.cancel()
            if waiting:
                await asyncio.gather(*waiting.values(), return_exceptions=True)
        return self._rule([verdicts.get(name) or self._unrun(name, stage) for name in self._named[stage]])

    def _unrun(self, name: str, stage: Stage) -> Verdict:
        reason = "another rail blocked first" if name in self._built else "mode is off"
        return Verdict(name, stage, Outcome.NOT_RUN, reason, enforced=False)

    def guard_output(self, messages: Messages) -> OutputGuard:
        """A guard for one text of one answer."""
        return OutputGuard(self, messages)

    def describe(self) -> list[dict[str, Any]]:
        """What each rail is, for people: name, stage, mode, fail mode, deadline, cost class."""
        return [
            {
                "rail": name,
                "stage": rail.stage,
                "runs": rail.runs,
                "mode": rail.mode,
                "fail": rail.fail,
                "deadline_ms": rail.deadline_ms,
                "cost": COSTS[self._built[name].engine].words if name in self._built else "none",
            }
            for name, rail in self.policy.rails.items()
        ]

    async def aclose(self) -> None:
        for rail in self._built.values():
            await rail.aclose()

    async def _run(self, name: str, messages: Messages, begun: float, reading: Reading) -> Verdict:
        """One rail, within its deadline and what is left of the policy's budget since ``begun``."""
        rail, built = self.policy.rails[name], self._built[name]
        started = self._clock()
        late = "raised TimeoutError"
        try:
            check = self._at_once(built, reading)
            if check is None:
                limit_s, late = self._left(rail, started - begun)
                async with asyncio.timeout(limit_s if self._timed else None):
                    check = await (
                        built.check(messages, reading)
                        if isinstance(built, DirectRail)
                        else built.check(messages, reading.context)
                    )
        except TimeoutError:
            return self._not_run(name, rail, late, started)
        except Exception as error:  # noqa: BLE001 (whatever a rail raises: it did not run, and its fail mode decides)
            return self._not_run(name, rail, f"raised {type(error).__name__}", started)
        return self._verdict(name, rail, check, self._clock() - started)

    def _left(self, rail: RailSettings, spent_s: float) -> tuple[float, str]:
        """How long a rail may take, and what is said of one that takes longer."""
        limit_s, budget_ms = rail.deadline_ms / 1000, self.policy.budget_ms
        if budget_ms is not None and (left_s := budget_ms / 1000 - spent_s) < limit_s:
            return left_s, f"the policy's budget of {budget_ms} ms was spent"
        return limit_s, f"not done within {rail.deadline_ms} ms"

    def _at_once(self, built: Rail | DirectRail, reading: Reading) -> Check | None:
        """What a rail says without waiting for anything; None where it has to."""
        if isinstance(built, DirectRail):
            return built.at_once(reading)
        return built.at_once(reading.text) if isinstance(built, NemoRail) else None

    def _verdict(self, name: str, rail: RailSettings, check: Check, duration_s: float) -> Verdict:
        said, enforced = check.said, rail.mode == "enforce"
        if check.status == "passed":
            outcome, reason, text = Outcome.PASS, "", None
        elif check.status == "modified":
            outcome, reason, text = Outcome.REWRITE, rail.runs, check.text
        else:
            outcome, reason, text = Outcome.BLOCK, rail.runs, rail.refusal or check.text
        return Verdict(name, rail.stage, outcome, reason, text, said.score, said.threshold, duration_s, enforced)

    def _not_run(self, name: str, rail: RailSettings, reason: str, begun: float) -> Verdict:
        enforced = rail.mode == "enforce" and rail.fail == "closed"
        return Verdict(name, rail.stage, Outcome.NOT_RUN, reason, duration_s=self._clock() - begun, enforced=enforced)

    def _stops(self, verdict: Verdict) -> bool:
        return verdict.enforced and verdict.outcome in (Outcome.BLOCK, Outcome.NOT_RUN)

    def _rule(self, verdicts: Sequence[Verdict]) -> Ruling:
        for verdict in verdicts:
            if verdict.enforced and verdict.outcome is Outcome.BLOCK:
                respond = self.policy.rails[verdict.rail].respond
                return Ruling("block", tuple(verdicts), verdict.text, "content", respond)
        if any(verdict.enforced and verdict.outcome is Outcome.NOT_RUN for verdict in verdicts):
            return Ruling("block", tuple(verdicts), None, "rail_unavailable")
        for verdict in verdicts:
            if verdict.enforced and verdict.outcome is Outcome.REWRITE:
                return Ruling("rewrite", tuple(verdicts), verdict.text)
        return Ruling("allow", tuple(verdicts))


class OutputGuard:
    """Holds an answer's text back until the output rails have passed it.

    The law: no pattern of at most ``horizon_chars`` characters leaves even in part, whatever the split into deltas; a text without such a
    pattern leaves byte for byte. What may leave is everything checked, less the last horizon - 1 characters, which a pattern may still use.
    """

    def __init__(self, rails: Rails, messages: Messages) -> None:
        self._rails = rails
        self._messages = messages
        self._horizon = rails.policy.output.horizon_chars
        self._window = rails.policy.output.window_chars
        self._text = ""  # not yet released, and the context before it that a pattern may have begun in
        self._released = 0  # characters of _text that have left
        self._checked = 0
        self.ruling = Ruling()
        self.held_chars = 0

    async def feed(self, text: str) -> str:
        """What may leave now."""
        if self.ruling.decision == "block":
            return ""
        self._text += text
        self.held_chars = max(self.held_chars, len(self._text) - self._released)
        if len(self._text) - self._checked < self._window:
            return ""
        await self._check()
        return self._release(len(self._text) - (self._horizon - 1))

    async def finish(self) -> str:
        """The rest, at the end of the text."""
        if self.ruling.decision == "block":
            return ""
        if len(self._text) > self._checked or not self.ruling.verdicts:
            await self._check()
        return self._release(len(self._text))

    async def _check(self) -> None:
        ruling = await self._rails.check(
            "output", [*self._messages[-1:], {"role": "assistant", "content": self._text}], context=self._messages
        )
        self._checked = len(self._text)
        self.ruling = Ruling(
            ruling.decision, _added(self.ruling.verdicts, ruling.verdicts), ruling.text, ruling.kind, ruling.respond
        )
        if ruling.decision == "rewrite" and ruling.text is not None:
            # A rewrite of text that has left already cannot be taken back, so it counts as a block there.
            if self._released:
                self.ruling = Ruling("block", self.ruling.verdicts, None, "content")
            else:
                self._text, self._checked = ruling.text, len(ruling.text)

    def _release(self, upto: int) -> str:
        if self.ruling.decision == "block" or upto <= self._released:
            return ""
        out = self._text[self._released : upto]
        keep_from = max(0, upto - (self._horizon - 1))  # context for patterns that began before the border
        self._text, self._released = self._text[keep_from:], upto - keep_from
        self._checked -= keep_from
        return out


def _both(first: Ruling, then: Ruling) -> Ruling:
    """Two rulings as one: the second decides where it does not allow."""
    verdicts = (*first.verdicts, *then.verdicts)
    chosen = then if then.decision == "block" else first
    return Ruling(chosen.decision, verdicts, chosen.text, chosen.kind, chosen.respond)


def _added(before: Sequence[Verdict], now: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The last verdict of each rail, with the time of all its checks."""
    spent = {verdict.rail: verdict.duration_s for verdict in before}
    return tuple(
        Verdict(
            v.rail,
            v.stage,
            v.outcome,
            v.reason,
            v.text,
            v.score,
            v.threshold,
            v.duration_s + spent.get(v.rail, 0.0),
            v.enforced,
        )
        for v in now
    )


def _bound(embed: Embed) -> Embed:
    """The embedding function, with the loop it belongs to, for callers in other threads."""

    class Bound:
        loop = asyncio.get_running_loop()

        def __call__(self, texts: Sequence[str]) -> Awaitable[Any]:
            return embed(texts)

    return Bound()
