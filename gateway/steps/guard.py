"""A policy at work: its rails and its redactor, built together from a directory. It decides nothing and knows no request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.settings import SettingsError
from guardrails.actions import load_own_recognizers
from guardrails.added import STEP
from guardrails.asked import Ask
from guardrails.claim import Claim, refuse_impossible
from guardrails.nemo.embeddings import Embed
from guardrails.policy import Policy, PolicyError, load_policy
from guardrails.policy_lint import line_in
from guardrails.rails import Rails
from guardrails.redaction import RedactionSettings, Redactor, build_redactor
from guardrails.types import RedactionUnavailable


@dataclass(slots=True)
class _Shared:
    """A redactor, and how many guards use it: versions that redact alike share one, so hashes stay what they were over a swap."""

    redactor: Redactor
    uses: int = 0


class GuardBuilder:
    """Builds guards, and shares between them what is alike. ``timed`` False: for replays, where deadlines must not change a verdict."""

    def __init__(
        self, embed: Embed | None, *, timed: bool = True, ask: Ask | None = None, actions: Path | None = None
    ) -> None:
        self._embed = embed
        self._timed = timed
        self._ask = ask
        self._actions = actions
        self._shared: dict[str, _Shared] = {}

    async def build(self, directory: Path) -> Guard:
        """A policy, loaded and ready. Raises: SettingsError with the policy's file, line and key."""
        file = directory / "policy.yaml"
        try:
            policy = await asyncio.to_thread(load_policy, directory, self._actions)
            wanted = RedactionSettings.model_validate(policy.redaction)
            rails = Rails(policy, self._embed, timed=self._timed, ask=self._ask)
            shared, _ = await asyncio.gather(self._redactor(policy, wanted), rails.start())
            refuse_impossible(policy, {}, claim_of_both(rails, shared.redactor))
        except PolicyError as error:
            message = f"{error.message}; {error.hint}" if error.hint else error.message
            raise SettingsError(error.file, error.line, error.key, message) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ("redaction", *first["loc"])
            raise SettingsError(file, line_in(file, key), ".".join(map(str, key)), first["msg"]) from None
        except (ValueError, RedactionUnavailable) as error:
            raise SettingsError(file, line_in(file, ("redaction",)), "redaction", str(error)) from None
        shared.uses += 1
        return Guard(policy, rails, shared.redactor, wanted, self)

    async def _redactor(self, policy: Policy, wanted: RedactionSettings) -> _Shared:
        digest = policy.redaction_digest
        if (shared := self._shared.get(digest)) is None:
            own = await asyncio.to_thread(load_own_recognizers, policy.actions)
            redactor = await asyncio.to_thread(build_redactor, wanted, recognizers=own)
            shared = self._shared.setdefault(digest, _Shared(redactor))
            if shared.redactor is not redactor:
                await redactor.aclose()
        await shared.redactor.ready()
        return shared

    async def release(self, digest: str) -> None:
        """One guard less uses the redactor of this digest."""
        shared = self._shared[digest]
        shared.uses -= 1
        if not shared.uses:
            del self._shared[digest]
            await shared.redactor.aclose()


def claim_of_both(rails: Rails, redactor: Redactor) -> Claim:
    """The promise of the rails, and of the redactor that holds answers back before them."""
    held = redactor.added.horizon + STEP if redactor.added is not None else 0
    return replace(rails.claim, holds_chars=rails.claim.holds_chars + held)


@dataclass(frozen=True, slots=True)
class Guard:
    """A policy at work: what it removes and what it checks."""

    policy: Policy
    rails: Rails
    redactor: Redactor
    redaction: RedactionSettings
    builder: GuardBuilder

    @property
    def digest(self) -> str:
        return self.policy.digest

    def describe(self) -> dict[str, Any]:
        """What the policy is and promises, for people and machines."""
        claim = claim_of_both(self.rails, self.redactor)
        return {
            "name": self.policy.name,
            "digest": self.policy.digest,
            "parts": dict(self.policy.parts),
            "claim": claim.words(),
            "horizon_chars": claim.sees_chars,
            "holds_at_most_chars": claim.holds_chars,
            "first_token_ms": claim.first_token_ms,
            "passage_ms": claim.passage_ms,
            "longest_redacted_chars": self.redactor.horizon,
            "redacts": self.redactor.kinds(),
            "answers": self._answers(),
            "rails": self.rails.describe(),
        }

    def _answers(self) -> dict[str, Any] | None:
        """What is promised of personal data that a model adds; None where answers are not looked through."""
        added = self.redactor.added
        if added is None:
            return None
        return {
            "horizon_chars": added.horizon,
            "kinds": {kind: self.redaction.answer_action(kind) for kind in added.kinds},
            "company": len(self.redaction.answers.company),
        }

    async def aclose(self) -> None:
        await self.rails.aclose()
        await self.builder.release(self.policy.redaction_digest)
