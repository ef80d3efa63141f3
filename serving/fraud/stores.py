"""Which feature store the settings mean: Redis, or Hopsworks if they name a feature group of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from serving.fraud.settings import FraudSettings
from serving.fraud.store import FeatureStore, open_redis


def open_store(redis_url: str, settings: FraudSettings) -> AbstractAsyncContextManager[FeatureStore]:
    """Opened and closed by its block. Raises: ValueError where Hopsworks is meant and cannot be opened."""
    if settings.hopsworks is None:
        return open_redis(redis_url, settings)
    from serving.fraud.hopsworks import open_hopsworks

    return open_hopsworks(settings.hopsworks)
