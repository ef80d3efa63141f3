"""Opens what a scorer needs: models, logs, and what an earlier process had set aside. It scores nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.fraud.entries import Decided, Filed, decode_entry
from serving.fraud.features import feature_names
from serving.fraud.journal import Journal, read_journal, read_segment, segments_of
from serving.fraud.keeper import load_rivals
from serving.fraud.model import InvalidModel
from serving.fraud.score import REMEMBERED, Clock, FraudScorer
from serving.fraud.settings import FraudSettings
from serving.fraud.store import FeatureStore


async def build_scorer(settings: FraudSettings, store: FeatureStore, clock: Clock) -> FraudScorer:
    """A scorer with its model loaded and its logs open. `clock` gives Unix seconds.

    Raises:
        InvalidModel: the model cannot be served, or a rule names a feature that there is not.
    """
    names = feature_names()
    for rule in settings.rules:
        if rule.feature not in names:
            raise InvalidModel(f"rule {rule.name}: there is no feature {rule.feature}; one of {', '.join(names)}")
    rivals = await asyncio.to_thread(load_rivals, settings)
    sync, aside = settings.log_sync == "disk", settings.log_directory / "waiting"
    set_aside = await asyncio.to_thread(lambda: list(read_journal(aside)))
    latest = await asyncio.to_thread(_latest, settings.log_directory)
    journal = await asyncio.to_thread(Journal, settings.log_directory, sync, clock, settings.log_keep_days)
    waiting = await asyncio.to_thread(Journal, aside, sync, clock, settings.log_keep_days)
    scorer = FraudScorer(settings, rivals, store, journal, waiting, clock)
    scorer.remember(latest)
    scorer.resume(set_aside)
    return scorer


def _latest(directory: Path) -> list[Filed]:
    """The latest decisions on record, oldest first: a repeat is answered from them even if the store was lost as well."""
    found: list[Filed] = []
    for path in reversed(segments_of(directory)):
        entries = (decode_entry(data) for data in read_segment(path))
        found = [entry.filed for entry in entries if isinstance(entry, Decided)] + found
        if len(found) >= REMEMBERED:
            break
    return found[-REMEMBERED:]
