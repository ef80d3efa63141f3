"""The gateway of tests/gateway, under faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    async with running(settings_for(tmp_path, openai_backend, redis_url)) as started:
        yield started
