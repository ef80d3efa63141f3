"""Every complaint about callgate.yaml names file, line, key, and what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway import settings

GOOD = """\
models:
  - name: a
    policy: null
    deployments:
      - name: d
        base_url: http://127.0.0.1:1/v1
        model: m
"""


def load(tmp_path: Path, text: str, **environment: str) -> settings.Settings:
    path = tmp_path / "callgate.yaml"
    path.write_text(text)
    return settings.load(path, environment)


@pytest.mark.parametrize(
    ("text", "line", "key", "hint"),
    [
        ("modelz: 1\n", 1, "modelz", "expected one of"),
        (GOOD + "server:\n  porrt: 1\n", 9, "server.porrt", "port"),
        (GOOD.replace("model: m", "modell: m"), 7, "models.0.deployments.0.modell", "model"),
        (GOOD + "server: {port: 99999}\n", 8, "server.port", "65535"),
        (GOOD.replace("policy: null", "policy: none"), None, "", "no policy 'none'"),
        (GOOD.replace("    policy: null\n", ""), 2, "models.0.policy", "missing"),
        (GOOD.replace("http://127.0.0.1:1/v1", "http://user:pw@host/v1"), 5, "models.0.deployments.0", "without user"),
        (
            GOOD.replace("http://127.0.0.1:1/v1", "${NOWHERE}"),
            6,
            "models.0.deployments.0.base_url",
            "${NOWHERE:-default}",
        ),
        ("models: [\n", 2, "", "YAML"),
        (GOOD + "auth: none\nserver: {host: 0.0.0.0}\n", None, "", "loopback"),
        (GOOD + GOOD.removeprefix("models:\n"), None, "", "twice"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line_and_what_would_be_right(
    tmp_path: Path, text: str, line: int | None, key: str, hint: str
) -> None:
    with pytest.raises(settings.SettingsError) as caught:
        load(tmp_path, text)
    assert caught.value.key == key
    assert hint in str(caught.value)
    if line is not None:
        assert f"callgate.yaml:{line}:" in str(caught.value)


def test_the_environment_wins_over_the_file_and_fills_references(tmp_path: Path) -> None:
    text = GOOD.replace("http://127.0.0.1:1/v1", "${WHERE:-http://127.0.0.1:1/v1}")
    assert load(tmp_path, text).models[0].deployments[0].base_url == "http://127.0.0.1:1/v1"
    loaded = load(tmp_path, text, WHERE="http://127.0.0.1:2/v1", CALLGATE_PORT="99")
    assert (loaded.models[0].deployments[0].base_url, loaded.server.port) == ("http://127.0.0.1:2/v1", 99)


def test_secrets_are_references_and_never_shown(tmp_path: Path) -> None:
    text = GOOD.replace("        model: m\n", "        model: m\n        api_key_env: MY_KEY\n")
    deployment = load(tmp_path, text).models[0].deployments[0]
    assert settings.api_key(deployment, {"MY_KEY": "sk-1"}) == "sk-1"
    with pytest.raises(settings.SettingsError, match="MY_KEY"):
        settings.api_key(deployment, {})


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert json.loads(settings.SCHEMA_FILE.read_text()) == settings.json_schema(), (
        "run: callgate check --schema > gateway/callgate.schema.json"
    )


def test_the_example_and_the_embedded_default_are_valid(tmp_path: Path) -> None:
    from gateway.cli import EXAMPLE

    load(tmp_path, EXAMPLE)
    settings.load(Path(__file__).parents[2] / "callgate.yaml", {})
