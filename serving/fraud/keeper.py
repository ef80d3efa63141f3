"""Beside a scorer: has the log looked at now and then (`cycle`, in a process of its own), and follows the models that it decides on.

Telemetry and training fail open: a look that failed is told in the gauges and tried again, scores go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from serving.fraud.cycle import read_look
from serving.fraud.features import FEATURES_VERSION, feature_names
from serving.fraud.gauges import PREFIX, Gauge
from serving.fraud.kept import keep
from serving.fraud.model import InvalidModel, Model, load_model
from serving.fraud.score import FraudScorer
from serving.fraud.settings import FraudSettings
from serving.fraud.shadow import Rivals
from serving.fraud.versions import Versions

_TURN_S = 5.0


class Keeper:
    """Start it with `start`; `aclose` before the scorer's."""

    def __init__(self, settings: FraudSettings, scorer: FraudScorer) -> None:
        self._settings, self._scorer = settings, scorer
        self._versions = Versions(settings.models_path) if settings.models_path else None
        self._followed_ns = self._versions.changed_ns() if self._versions else 0
        self._task: asyncio.Task[None] | None = None
        self.failed = 0

    def start(self) -> None:
        if self._versions is not None or self._settings.drift_every_s:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="fraud-keep")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> bool:
        """One look at the log. False: there was too little to see, or it failed."""
        command = [sys.executable, "-m", "serving.fraud.cycle", self._settings.model_dump_json()]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        self.failed += code not in (0, 3)
        return code == 0

    async def follow(self) -> bool:
        """Takes up the champion and challenger of the folder of versions, if they have changed."""
        if self._versions is None or (changed_ns := self._versions.changed_ns()) == self._followed_ns:
            return False
        self._followed_ns = changed_ns
        try:
            self._scorer.follow(await asyncio.to_thread(load_rivals, self._settings))
        except InvalidModel:
            self.failed += 1
            return False
        return True

    def gauges(self) -> list[Gauge]:
        """The scorer's, and what the last look found."""
        look = read_look(self._settings.log_directory)
        found = [Gauge(f"{PREFIX}looks_failed_total", "Looks for drift, and models, that failed.", self.failed)]
        if look is not None:
            found.append(
                Gauge(f"{PREFIX}drift_looked_timestamp_seconds", "When the log was last looked at.", look.at_s)
            )
            found += [Gauge(f"{PREFIX}{name}", "Of the last look for drift.", value) for name, value in look.gauges.items()]  # fmt: skip
            signals = sorted({"calibration", "concept", "covariates", "scores", *look.alarms})
            found += [
                Gauge(f"{PREFIX}drift_alarm", "1: raised by the last look.", name in look.alarms, {"signal": name})
                for name in signals
            ]
        return [*self._scorer.gauges(), *found]

    async def _keep(self) -> None:
        due_s = time.monotonic() + self._settings.drift_every_s
        while True:
            await asyncio.sleep(_TURN_S)
            if self._settings.drift_every_s and time.monotonic() >= due_s:
                due_s = time.monotonic() + self._settings.drift_every_s
                await self.look()
            await self.follow()


def load_rivals(settings: FraudSettings) -> Rivals:
    """The models that the settings name, or that the folder of versions does; kept beside the log for replays.

    Raises:
        InvalidModel.
    """
    champion, challenger = settings.model_path, settings.challenger_path
    if settings.models_path is not None:
        versions = Versions(settings.models_path)
        state = versions.begin(settings.model_path)
        champion = versions.path(state.champion)
        challenger = versions.path(state.challenger) if state.challenger else None
    keep(settings, [champion, *([challenger] if challenger else [])])
    names = feature_names()
    first = load_model(champion, names, FEATURES_VERSION)
    second: Model | None = load_model(challenger, names, FEATURES_VERSION) if challenger else None
    return Rivals(settings, first, second)
