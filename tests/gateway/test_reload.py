"""A changed settings file is put in place whole, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import shared_configuration
from gateway.reload import Reloader
from gateway.settings import Settings, SettingsError, load
from gateway.stores import RedisStore
from tests.doubles.openai_backend import Backend
from tests.gateway.conftest import Gateway, running, settings_for

CHAT = "/v1/chat/completions"


@pytest.fixture
async def gateway(tmp_path: Path, openai_backend: Backend, redis_url: str) -> AsyncIterator[Gateway]:
    settings = settings_for(tmp_path, openai_backend, redis_url, server={"reload_s": 0.01})
    async with running(settings, tmp_path / "callgate.yaml") as started:
        yield started


def change(file: Path, **changes: Any) -> None:
    data = yaml.safe_load(file.read_text()) | changes
    (file.parent / "new.yaml").write_text(yaml.safe_dump(data))
    (file.parent / "new.yaml").replace(file)


async def until(gateway: Gateway, outcome: str) -> None:
    """Waits until the metric of reloads shows the outcome."""
    async with asyncio.timeout(10):
        while True:
            async with gateway.session.get(gateway.url + "/metrics") as response:
                if f'callgate_configuration_reloads_total{{outcome="{outcome}"}} 1.0' in await response.text():
                    return


async def test_models_and_limits_change_under_load_and_no_request_fails(
    gateway: Gateway, tmp_path: Path, openai_backend: Backend
) -> None:
    ask = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    going, statuses = True, []

    async def load_it() -> None:
        while going:
            statuses.append((await gateway.post(CHAT, ask))[0])

    loads = [asyncio.create_task(load_it()) for _ in range(4)]
    deployments = [{"name": "other", "base_url": openai_backend.base_url, "model": "say"}]
    models = [{"name": name, "policy": None, "deployments": deployments} for name in ("echo", "brand-new")]
    change(
        tmp_path / "callgate.yaml", models=models, limits={"requests_per_minute": 100_000, "tokens_per_minute": None}
    )
    await until(gateway, "applied")
    going = False
    await asyncio.gather(*loads)
    assert set(statuses) == {200}
    status, _, response = await gateway.post(CHAT, {**ask, "model": "brand-new"})
    assert (status, response.headers["x-callgate-deployment"]) == (200, "other")
    assert response.headers["x-ratelimit-limit-requests"] == "100000"
    assert (await gateway.post(CHAT, {**ask, "model": "say"}))[0] == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"models": []},
        {"server": {"port": 9, "workers": 3}},
        {"models": [{"name": "x", "policy": None, "deployments": [{"name": "h", "provider": "anthropic/claude"}]}]},
        {"modles": []},
    ],
)
async def test_a_file_that_cannot_be_used_changes_nothing(
    gateway: Gateway, tmp_path: Path, changes: dict[str, Any]
) -> None:
    change(tmp_path / "callgate.yaml", **changes)
    await until(gateway, "refused")
    assert (await gateway.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}))[0] == 200


async def test_the_same_file_written_again_is_no_change(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    settings = settings_for(tmp_path, openai_backend, redis_url)
    applied: list[Settings] = []
    file = tmp_path / "callgate.yaml"
    reloader = Reloader(file, settings, applied.append, lambda _: None)
    file.write_bytes(file.read_bytes())
    assert await reloader.now() is None
    change(file, limits={"requests_per_minute": 1})
    assert await reloader.now() is True
    assert applied == [load(file, {})]


async def test_what_is_pushed_is_served_by_every_replica_and_a_push_that_cannot_be_used_by_none(
    tmp_path: Path, openai_backend: Backend, redis_url: str
) -> None:
    server = {"reload_s": 0.01, "shared_configuration": True}
    settings = settings_for(tmp_path, openai_backend, redis_url, server=server)
    store = RedisStore(redis_url)
    async with (
        running(settings, tmp_path / "callgate.yaml") as first,
        running(settings, tmp_path / "callgate.yaml") as second,
    ):
        pushed = tmp_path / "pushed.yaml"
        pushed.write_text(yaml.safe_dump({"models": named("pushed", openai_backend), "server": {"port": 1}}))
        text = shared_configuration.document(pushed)
        await shared_configuration.push(store, text, by="test", at="2026-11-25T00:00:00+00:00")
        for replica in (first, second):
            await until(replica, "applied")
            status, body, _ = await replica.post(
                CHAT, {"model": "pushed", "messages": [{"role": "user", "content": "a"}]}
            )
            assert (status, body["choices"][0]["message"]["content"]) == (200, "a")
        await shared_configuration.push(store, "models: []", by="test", at="2026-11-25T00:00:01+00:00")
        for replica in (first, second):
            await until(replica, "refused")
            assert (await replica.post(CHAT, {"model": "pushed", "messages": [{"role": "user", "content": "a"}]}))[
                0
            ] == 200
        # one that starts now takes the file, since what is shared cannot be used
        async with running(settings, tmp_path / "callgate.yaml") as third:
            assert (await third.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": "a"}]}))[0] == 200
        assert await shared_configuration.clear(store)
    await store.aclose()


def test_only_models_limits_and_keys_can_be_shared(tmp_path: Path) -> None:
    file = tmp_path / "callgate.yaml"
    file.write_text(
        "models: [{name: a, policy: null, deployments: [{name: a, base_url: 'http://127.0.0.1:1/v1', model: a}]}]"
    )
    assert (
        load(
            file,
            {},
            "models: [{name: b, policy: null, deployments: [{name: b, base_url: 'http://127.0.0.1:1/v1', model: b}]}]",
        )
        .models[0]
        .name
        == "b"
    )
    for text, complaint in (
        ("server: {port: 1}", "cannot be shared"),
        ("models: 3", "shared configuration:1"),
        ("[", "expected YAML"),
    ):
        with pytest.raises(SettingsError, match=complaint):
            load(file, {}, text)


def named(name: str, backend: Backend) -> list[dict[str, Any]]:
    return [
        {"name": name, "policy": None, "deployments": [{"name": name, "base_url": backend.base_url, "model": "echo"}]}
    ]
