"""Plans are made, approved, applied and rolled back here: the rules of a change, for the command line and for /admin alike.

A plan belongs to exactly two digests. It is applied only while the one runs, while it is fresh, within its limits, and, with four eyes, when
somebody else has approved it. Who somebody is, is the caller's word on the command line and the token's name at /admin; the history keeps it.
What a plan keeps holds no text: examples name their requests, whose recordings are sealed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from gateway.policy_follow import Bundle, Coordinator
from gateway.policy_plan import breaches
from gateway.policy_settings import PlanLimits, PolicyStoreSettings
from gateway.sql import Database

Json = dict[str, Any]


class Refused(Exception):
    """A change that its rules do not allow, and what would be right."""


class Desk:
    """The rules, over the store of versions and the pointer. What is no coroutine blocks. ``now`` is UNIX seconds."""

    def __init__(
        self,
        database: Database,
        coordinator: Coordinator,
        settings: PolicyStoreSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._coordinator = coordinator
        self._settings = settings
        self._now = now

    def keep_plan(
        self, name: str, base: str, version_row: Mapping[str, Any], by: str, report: Json, limits: PlanLimits
    ) -> Json:
        """Keeps version and plan. The report gains ``plan``, ``limits`` and ``breaches``."""
        self._database.add_version(version_row)
        replayed = report["identity"]["replayed"]
        whole = report | {
            "plan": f"plan-{secrets.token_hex(6)}",
            "policy": name,
            "base": base,
            "digest": version_row["digest"],
            "at": self._now(),
            "by": by,
            "limits": limits.model_dump(),
            "breaches": breaches(report, replayed, limits),
        }
        self._database.add_plan(
            {
                "id": whole["plan"],
                "name": name,
                "base": base,
                "digest": version_row["digest"],
                "at": whole["at"],
                "by": by,
                "approved_by": "",
                "report": _without_texts(whole),
            }
        )
        return whole

    def history(self, name: str) -> list[Json]:
        """Every activation, newest first. Raises: DatabaseError."""
        return [dict(row) for row in self._database.history(name)]

    def plans(self, name: str) -> list[Json]:
        """The newest plans of a policy, without their reports. Raises: DatabaseError."""
        kept = ("id", "base", "digest", "at", "by", "approved_by")
        return [
            {key: plan[key] for key in kept} | {"breaches": plan["report"]["breaches"]}
            for plan in self._database.plans(name, 50)
        ]

    def approve(self, plan_id: str, by: str) -> Mapping[str, Any]:
        """Raises: Refused."""
        plan = self._database.plan(plan_id)
        if plan is None:
            raise Refused(f"there is no plan '{plan_id}'; 'callgate policy plan' makes one")
        if plan["by"] == by:
            raise Refused(f"{by} made this plan; somebody else must approve it")
        self._database.approve_plan(plan_id, by)
        return plan

    async def apply(self, name: str, digest: str, by: str) -> Json:
        """Activates a planned version everywhere, or nowhere. Raises: Refused, ApplyRefused, StoreError, DatabaseError."""
        base = await self._running(name)
        plan = await asyncio.to_thread(self._fitting_plan, name, base, digest)
        return await self._activate(name, base, digest, by, "apply", plan["id"])

    async def roll_back(self, name: str, to: str, by: str) -> Json:
        """Activates a version that ran before (``to``: its digest or the beginning of it; empty: the one before). Needs no plan."""
        base = await self._running(name)
        ran = [row["digest"] for row in await asyncio.to_thread(self._database.history, name)]
        earlier = [digest for digest in ran if digest != base and digest.startswith(to)]
        if not earlier:
            raise Refused(
                f"no version {to or 'before this one'} of '{name}' ever ran; see 'callgate policy history {name}'"
            )
        return await self._activate(name, base, earlier[0], by, "rollback", "")

    async def adopt(self, name: str, version_row: Mapping[str, Any], by: str) -> Json:
        """Points to a version without a plan, while no gateway follows the store: how an image with other weights comes in.

        Its replicas have run it from their files before. Raises: Refused, StoreError, DatabaseError.
        """
        following = [worker for worker, state in (await self._coordinator.workers()).items() if state.get("follows")]
        if following:
            raise Refused(
                f"{len(following)} workers follow the store, so versions come by plan and apply; "
                "let them follow files (policy_store.follow) or stop them first"
            )
        base = await self._coordinator.active(name) or ""
        digest, bundle = str(version_row["digest"]), version_row["files"]
        await asyncio.to_thread(self._database.add_version, version_row)
        await self._coordinator.point(name, digest, bundle)
        await asyncio.to_thread(self._note, name, "adopt", digest, base, by, "", "no worker followed the store")
        return {"policy": name, "digest": digest, "previous": base, "action": "adopt", "plan": ""}

    async def _running(self, name: str) -> str:
        if self._settings.follow != "store":
            raise Refused(
                "this gateway follows its policy files; set policy_store.follow to 'store' (make run POLICIES=store), or edit the files"
            )
        base = await self._coordinator.active(name)
        if base is None:
            raise Refused(
                f"no gateway has started with policy '{name}' yet; start one, it takes the files of its first start"
            )
        return base

    def _fitting_plan(self, name: str, base: str, digest: str) -> Mapping[str, Any]:
        if digest == base:
            raise Refused(f"{digest[:12]} runs already")
        plans = self._database.plans_for(name, base, digest)
        if not plans:
            raise Refused(
                f"there is no plan from {base[:12]} (it runs now) to {digest[:12]}; 'callgate policy plan' makes one"
            )
        plan = plans[0]
        age_s = self._now() - plan["at"]
        if age_s > self._settings.plan_max_age_s:
            raise Refused(
                f"{plan['id']} is {age_s / 3600:.1f} hours old, at most {self._settings.plan_max_age_s / 3600:g} allowed; plan again"
            )
        broken = (
            breaches(plan["report"], plan["report"]["identity"]["replayed"], self._settings.limits)
            or plan["report"]["breaches"]
        )
        if broken:
            raise Refused(f"{plan['id']} is over its limits: {'; '.join(broken)}")
        if self._settings.four_eyes and not plan["approved_by"]:
            raise Refused(
                f"{plan['id']} by {plan['by']} needs a second pair of eyes: callgate policy approve {plan['id']}"
            )
        return plan

    async def _activate(self, name: str, base: str, digest: str, by: str, action: str, plan: str) -> Json:
        row = await asyncio.to_thread(self._database.version, digest)
        if row is None:
            raise Refused(f"the store has no version {digest[:12]}")
        bundle: Bundle = row["files"]
        done = await self._coordinator.apply(
            name, base, digest, bundle, proposal=secrets.token_hex(8), timeout_s=self._settings.ack_timeout_s
        )
        await asyncio.to_thread(self._note, name, action, digest, base, by, plan, f"{done.workers} workers")
        return {"policy": name, "digest": digest, "previous": base, "action": action, "plan": plan, **asdict(done)}

    def _note(self, name: str, action: str, digest: str, base: str, by: str, plan: str, note: str) -> None:
        told = {"action": action, "digest": digest, "previous": base, "by": by, "plan": plan, "note": note}
        self._database.add_history({"name": name, "at": self._now(), **told})


def _without_texts(report: Json) -> Json:
    """A report to keep unsealed: its examples by request, score and rail alone."""
    kinds = {kind: value for kind, value in report.items() if isinstance(value, dict) and "examples" in value}
    bare = {
        kind: value | {"examples": [{k: v for k, v in one.items() if k != "text"} for one in value["examples"]]}
        for kind, value in kinds.items()
    }
    return report | bare
