"""`callgate redact`: files, standard input and transcripts come back without personal data, and their form is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from guardrails.cli import redact


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(redact)
    return app


def test_a_text_file_keeps_its_lines_and_loses_its_values(command: typer.Typer, tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_text("Call jo@example.com\n\nCard 4111 1111 1111 1111, again jo@example.com\n")
    done = CliRunner().invoke(
        command, [str(file), "--out", str(tmp_path / "clean"), "--report", str(tmp_path / "report")]
    )
    assert done.exit_code == 0, done.output
    clean = (tmp_path / "clean" / "note.txt").read_text()
    assert clean == "Call [EMAIL_ADDRESS_1]\n\nCard [CREDIT_CARD_1], again [EMAIL_ADDRESS_1]\n"
    assert json.loads((tmp_path / "report").read_text())["found"] == {"EMAIL_ADDRESS": 2, "CREDIT_CARD": 1}


def test_a_transcript_is_read_as_a_conversation(command: typer.Typer) -> None:
    turns = [
        {"speaker": "agent", "text": "your card number?"},
        {"speaker": "customer", "text": "four two four two"},
        {"speaker": "customer", "text": "not jo@ but ann@example.com"},
    ]
    line = json.dumps({"id": 7, "email": "jo@example.com", "turns": turns})
    done = CliRunner().invoke(command, ["--jsonl"], input=f"{line}\n\nnot json jo@example.com\n")
    assert done.exit_code == 0, done.output
    first, empty, plain = done.stdout.split("\n")[:3]
    assert json.loads(first)["turns"][1] == {"speaker": "customer", "text": "[CREDIT_CARD_1]"}
    assert json.loads(first)["turns"][2]["text"] == "not jo@ but [EMAIL_ADDRESS_1]"
    assert json.loads(first)["email"] == "[EMAIL_ADDRESS_2]"  # numbered over the whole conversation
    assert (empty, plain) == ("", "not json [EMAIL_ADDRESS_1]")


def test_what_cannot_be_read_is_named_and_nothing_is_written(command: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path / "missing.txt")])
    assert done.exit_code == 3
    assert "missing.txt" in done.output
    file = tmp_path / "same.txt"
    file.write_text("jo@example.com")
    done = CliRunner().invoke(command, [str(file), "--out", str(tmp_path)])
    assert done.exit_code == 3
    assert file.read_text() == "jo@example.com"
