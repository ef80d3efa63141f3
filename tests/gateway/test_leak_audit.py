"""The leak audit finds nothing under the shipped policy, finds what a policy lets through, and never shows a value."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gateway.audit.honeytokens import KINDS, honeytokens
from gateway.audit.search import Search, needles_of
from gateway.audit.values import Values
from gateway.cli import build
from guardrails.detectors import checks

ROOT = Path(__file__).parents[2]
SEED = 20


def leak_audit(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "leak-audit", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.timeout(400)
def test_the_shipped_configuration_leaks_nothing_and_gives_every_value_back(tmp_path: Path) -> None:
    done = leak_audit("--json", "--seed", str(SEED), "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["leaks"] == report["unproven"] == []
    assert {count for row in report["table"].values() for count in row.values()} == {0}
    expected = {kind.name for kind in KINDS if not kind.countries or kind.countries & {"US", "UK"}}
    assert set(report["planted"]) == expected
    assert report["restored"] == report["restorable"] > 500
    drawn = honeytokens(Values(SEED), ["US", "UK"])
    assert not Search(needle for token in drawn for needle in token.needles).found(done.stdout + done.stderr)


@pytest.mark.timeout(300)
def test_a_policy_that_lets_a_kind_through_fails_with_its_kind_and_place_and_without_the_value(tmp_path: Path) -> None:
    policy = {"version": 1, "name": "open", "redaction": {"ner": "off", "entities": {"EMAIL_ADDRESS": "allow"}}}
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "policy.yaml").write_text(yaml.safe_dump(policy))
    (tmp_path / "open" / "config.yml").write_text("models: []\n")
    model = {
        "name": "m",
        "policy": "open",
        "deployments": [{"name": "d", "base_url": "http://127.0.0.1:1/v1", "model": "m"}],
    }
    settings = {"policies": {"open": "open"}, "models": [model], "embedding": {"enabled": False}}
    (tmp_path / "callgate.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("--kind", "EMAIL_ADDRESS", "--kind", "IBAN_CODE", "--seed", str(SEED))
    done = leak_audit(*arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-4000:]
    assert "LEAK  EMAIL_ADDRESS (written) by 'chat, whole' in model" in done.stdout
    assert "LEAK  IBAN_CODE" not in done.stdout
    assert "Personal data leaked" in done.stdout
    drawn = honeytokens(Values(SEED), ["US", "UK"], ("EMAIL_ADDRESS", "IBAN_CODE"))
    assert not Search(needle for token in drawn for needle in token.needles).found(done.stdout + done.stderr)


def test_used_wrongly_it_says_what_would_be_right(tmp_path: Path) -> None:
    app, runner = build(), CliRunner()
    wrong = runner.invoke(app, ["leak-audit", "--kind", "CARDS", "--config", str(ROOT / "callgate.yaml")])
    assert wrong.exit_code == 3
    assert "CREDIT_CARD" in wrong.stderr
    assert runner.invoke(app, ["leak-audit", "--config", str(tmp_path / "no.yaml")]).exit_code == 3
    taught = runner.invoke(app, ["leak-audit", "--help"]).stdout
    assert "Exit codes" in taught
    assert "Examples" in taught


@pytest.mark.parametrize(
    "written",
    [
        "4539 1488 0343 6467",
        '{"card": 4539148803436467}',
        "card=4539%201488%200343%206467",
        "４５３９ 1488 0343 6467",
        r"\u0034\u0035\u0033\u0039148803436467",
        "4539\u200b1488\u200b0343\u200b6467",
        base64.b64encode(b"4539 1488 0343 6467").decode(),
        hashlib.sha256(b"4539 1488 0343 6467").hexdigest(),
    ],
)
def test_a_value_is_found_however_it_is_written(written: str) -> None:
    search = Search(needles_of("4539 1488 0343 6467", "my card number is "))
    assert search.found(f"before {written} after")
    assert not search.found("before 4539 1488 0343 6466 after")


def test_a_short_value_is_looked_for_with_the_words_before_it() -> None:
    search = Search(needles_of("737", "the security code of the card is "))
    assert not search.found("took 737 ms")
    assert search.found("The security code of the card is 737.")


def test_values_are_what_their_validators_take_and_are_never_drawn_twice() -> None:
    values = Values(SEED)
    drawn = honeytokens(values, ["US", "UK", "EU", "IN", "ES", "MX"])
    fields = [token.field[1] for token in drawn if token.field is not None]
    assert len(set(fields)) == len(fields) == len(KINDS)
    for _ in range(50):
        assert checks.card(values.card())
        assert checks.iban(values.iban())
        assert checks.is_ssn(values.ssn())
        assert checks.is_itin(values.itin())
        assert checks.is_nhs(values.nhs())
        assert checks.is_nino(values.nino())
        assert checks.is_aba_routing(values.routing())
        assert checks.is_aadhaar(values.aadhaar())
        assert checks.is_spanish_id(values.spanish_id())
