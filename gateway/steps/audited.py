"""What a policy says of redaction, for `callgate leak-audit`: its settings, the countries, and what can be put back. It audits nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.settings import SettingsError
from guardrails.policy import PolicyError, load_policy
from guardrails.redaction_settings import RedactionSettings


@dataclass(frozen=True, slots=True)
class Promise:
    """``settings``: the redaction part of a policy with its paths made absolute. ``reversible``: whether a kind's values are put back."""

    settings: dict[str, Any]
    countries: tuple[str, ...]

    def reversible(self, kind: str) -> bool:
        return RedactionSettings.model_validate(self.settings).action(kind) in ("token", "allow")


def promise_of(directory: Path, actions: Path | None = None) -> Promise:
    """Raises: SettingsError with the policy's file, line and key."""
    try:
        policy = load_policy(directory, actions)
        countries = RedactionSettings.model_validate(policy.redaction).countries
    except PolicyError as error:
        raise SettingsError(error.file, error.line, error.key, error.message) from None
    except ValueError as error:
        raise SettingsError(directory / "policy.yaml", None, "redaction", str(error)) from None
    return Promise(policy.redaction, countries)
