"""Continuous training, one look at a time: drift of the log, then whatever is due. `python -m serving.fraud.cycle SETTINGS` is one look.

    no challenger: an alarm -> train on the history and the log -> judge whole and in slices -> register -> into the shadow, or refused
    a challenger:  labels of what it said in the shadow -> promoted, or it stays, or its time is over

A process of its own beside the service, since a look takes seconds of CPU. What it finds is left in `drift.json` beside the log, which the
service shows as gauges; what it decides is left in the folder of versions, which the service follows.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from serving.fraud.dataset import InvalidData, read_folder
from serving.fraud.features import FEATURES_VERSION, feature_names
from serving.fraud.logged import with_log
from serving.fraud.model import InvalidModel, digest_of_folder, load_model
from serving.fraud.monitor import NoReference, Report, load_reference, read_window, report
from serving.fraud.renew import Limits, Renewal, renew
from serving.fraud.settings import FraudSettings
from serving.fraud.shadow import judge_shadow
from serving.fraud.train import Plan
from serving.fraud.versions import State, Versions

DRIFT_FILE = "drift.json"
REST_S = 7 * 86_400.0  # between two trainings: labels that could tell whether the last one helped are not in before
SHADOW_S = 60 * 86_400.0  # a challenger that has not convinced by then is let go
REGISTERED_AS = {True: "challenger", False: "refused"}

Register = Callable[[Path, Renewal, str], str]
"""Tells a registry of a trained folder, what was found, and its alias; a line about it."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found and did. done: nothing, trained, refused, waiting, promoted, let go; reasons say why."""

    at_s: float
    alarms: tuple[str, ...] = ()
    gauges: dict[str, float] = {}
    done: str = "nothing"
    reasons: tuple[str, ...] = ()
    champion: str = ""
    challenger: str | None = None


@dataclass(frozen=True, slots=True)
class Cycle:
    """Where things are, and how to train. register, promoted: tell a registry; nothing by default."""

    settings: FraudSettings
    plan: Plan = field(default_factory=Plan)
    limits: Limits | None = None
    register: Register | None = None
    promoted: Callable[[], str] | None = None

    def look(self, now_s: float) -> Look:
        """One look at the log; what it did is in the folder of versions before it returns.

        Raises:
            InvalidModel, InvalidData, NoReference.
        """
        folder, log = self.settings.models_path, self.settings.log_directory
        if folder is None:
            found = _drift(log, self.settings.model_path)
            return self._leave(Look(at_s=now_s, alarms=found.alarms, gauges=found.gauges()))
        versions = Versions(folder)
        state = versions.begin(self.settings.model_path)
        found = _drift(log, versions.path(state.champion))
        if state.challenger is not None:
            done, reasons, state = self._judge(versions, state, now_s)
        elif found.alarms and now_s - state.trained_s >= REST_S:
            done, reasons, state = self._train(versions, state, now_s)
        else:
            done, reasons = "nothing", ()
        look = Look(
            at_s=now_s,
            alarms=found.alarms,
            gauges=found.gauges(),
            done=done,
            reasons=reasons,
            champion=state.champion,
            challenger=state.challenger,
        )
        return self._leave(look)

    def _train(self, versions: Versions, state: State, now_s: float) -> tuple[str, tuple[str, ...], State]:
        history = read_folder(self.settings.history_path) if self.settings.history_path else None
        table = with_log(history, self.settings.log_directory)
        version = versions.next_version()
        out = versions.path(version)
        found = renew(table, versions.path(state.champion), out, self.plan, "the decision log and what came before it", self.limits)  # fmt: skip
        told = (self.register(out, found, REGISTERED_AS[found.passed]),) if self.register is not None else ()
        state = msgspec.structs.replace(state, trained_s=now_s)
        if found.passed:
            state = msgspec.structs.replace(state, challenger=version, shadow_since_s=now_s)
        return "trained" if found.passed else "refused", (*found.reasons, *told), versions.write(state)

    def _judge(self, versions: Versions, state: State, now_s: float) -> tuple[str, tuple[str, ...], State]:
        champion, challenger = (
            digest_of_folder(versions.path(one)) for one in (state.champion, state.challenger or "")
        )
        verdict = judge_shadow(self.settings.log_directory, champion, challenger, costs=self.settings.costs)
        if verdict.promote:
            told = (self.promoted(),) if self.promoted is not None else ()
            state = State(champion=state.challenger or "", trained_s=state.trained_s)
            return "promoted", (verdict.reason, *told), versions.write(state)
        if now_s - state.shadow_since_s >= SHADOW_S:
            return "let go", (verdict.reason,), versions.write(msgspec.structs.replace(state, challenger=None))
        return "waiting", (verdict.reason,), state

    def _leave(self, look: Look) -> Look:
        part = self.settings.log_directory / f".{DRIFT_FILE}.{os.getpid()}"
        part.write_bytes(msgspec.json.encode(look) + b"\n")
        part.replace(self.settings.log_directory / DRIFT_FILE)
        return look


def cycle_of(settings: FraudSettings) -> Cycle:
    """A cycle that tells MLflow, where the settings name a tracking server."""
    if not settings.tracking_uri:
        return Cycle(settings)
    from serving.fraud.tracking import Tracking

    tracking = Tracking(settings.tracking_uri)
    return Cycle(
        settings,
        register=lambda folder, found, alias: tracking.tell(
            folder, found.trained, feature_names(), found.metrics(), alias
        ),
        promoted=tracking.tell_promoted,
    )


def read_look(log: Path) -> Look | None:
    """What the last look at a log found; None before the first."""
    try:
        return msgspec.json.decode((log / DRIFT_FILE).read_bytes(), type=Look)
    except (OSError, msgspec.DecodeError):
        return None


def _drift(log: Path, folder: Path) -> Report:
    model = load_model(folder, feature_names(), FEATURES_VERSION)
    try:
        return report(read_window(log), model, load_reference(folder))
    finally:
        model.close()


def main() -> int:
    """0: looked; 3: there was too little to look at, or what is there is broken."""
    os.nice(10)
    try:
        cycle_of(FraudSettings.model_validate_json(sys.argv[1])).look(time.time())
    except (InvalidModel, InvalidData, NoReference) as error:
        sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
