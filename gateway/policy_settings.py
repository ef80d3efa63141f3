"""The parts of callgate.yaml about the life of policies: where versions are kept, what is recorded, what a change may do. Values only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanLimits(_Strict):
    """What a plan may show and still be applied, in per cent of the replayed traffic (weighted by sampling); null: no limit.

    ``min_requests``: fewer replayed requests than this prove nothing.
    """

    newly_blocked: Share | None = None
    newly_allowed: Share | None = None
    changed_redaction: Share | None = None
    changed_refusal: Share | None = None
    added_p95_ms: Annotated[float, Field(ge=0)] | None = None
    min_requests: Annotated[int, Field(ge=0)] = 1


class PolicyStoreSettings(_Strict):
    """Versions, plans and history. ``url``: SQLAlchemy's; empty: SQLite in state_dir; postgresql+psycopg://... for several machines.

    ``follow``: ``files``: an edited policy directory is taken over at once (development); ``store``: only what was applied runs.
    ``plan_max_age_s``: older plans are not applied. ``four_eyes``: somebody else than the plan's author must approve it.
    ``ack_timeout_s``: how long an apply waits for every worker to have compiled the version.
    ``admin_token_env``: holds the token of /admin, or one for each person as ``name:token``, separated by commas.
    """

    url: str = ""
    follow: Literal["files", "store"] = "files"
    poll_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    ack_timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    plan_max_age_s: Annotated[float, Field(gt=0)] = 86_400.0
    four_eyes: bool = False
    limits: PlanLimits = PlanLimits()
    admin_token_env: str = "CALLGATE_ADMIN_TOKEN"  # noqa: S105 (the name of a variable)
    actions_dir: Path | None = None


class GuardModelSettings(_Strict):
    """Which of the models here the rails ask that ask one (empty: none may), and what they may spend in one worker."""

    model: str = ""
    tokens_per_minute: Annotated[int, Field(ge=1)] = 100_000
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0


class RecorderSettings(_Strict):
    """Sealed recordings of models that set ``record``. Keys: ``id:base64`` of 32 bytes each, the first seals, all of them open.

    They come from the variable ``keys_env`` (separated by commas) or the mounted file ``keys_file`` (one a line).
    """

    url: str = ""
    keys_env: str = "CALLGATE_RECORDING_KEYS"
    keys_file: Path | None = None
    retention_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    flush_s: Annotated[float, Field(gt=0, le=60)] = 1.0
