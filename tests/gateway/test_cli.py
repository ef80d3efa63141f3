"""`callgate keys` and `callgate serve` as a person uses them, on a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.app import create_app
from gateway.cli import build
from gateway.settings import SettingsError, load

YAML = """\
models:
  - {name: a, policy: null, deployments: [{name: d, base_url: "http://127.0.0.1:1/v1", model: m}]}
embedding: {enabled: false}
"""


@pytest.fixture
def config(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALLGATE_REDIS_URL", redis_url)
    path = tmp_path / "callgate.yaml"
    path.write_text(YAML)
    return path


def test_a_key_is_made_listed_without_itself_and_revoked(config: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(build(), ["keys", "create", "ivr", "-c", str(config), "--requests-per-minute", "5", "--json"])
    assert made.exit_code == 0, made.output
    key = json.loads(made.stdout)
    listed = runner.invoke(build(), ["keys", "list", "-c", str(config), "--json"])
    assert key["key"] not in listed.output
    assert [(row["id"], row["name"], row["requests_per_minute"]) for row in json.loads(listed.stdout)] == [
        (key["id"], "ivr", 5)
    ]
    assert runner.invoke(build(), ["keys", "revoke", key["id"], "-c", str(config)]).exit_code == 0
    assert runner.invoke(build(), ["keys", "revoke", key["id"], "-c", str(config)]).exit_code == 1


def test_a_wrong_setting_is_one_sentence_and_exit_code_3(config: Path) -> None:
    config.write_text(YAML + "limitz: {}\n")
    done = CliRunner().invoke(build(), ["check", "-c", str(config)])
    assert done.exit_code == 3
    assert "limitz" in done.output
    assert "Traceback" not in done.output


async def test_beyond_loopback_it_does_not_serve_before_there_is_a_key(config: Path, redis_url: str) -> None:
    config.write_text(YAML + "server: {host: 0.0.0.0}\n")  # noqa: ASYNC240 - a test
    app = create_app(load(config, {"CALLGATE_REDIS_URL": redis_url}))
    with pytest.raises(SettingsError, match="keys create"):
        async with app.router.lifespan_context(app):
            pytest.fail("it started without a key")
