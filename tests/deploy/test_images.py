"""The image's recipe, read line by line: hashes for everything, nobody's root, no shell at run time. It is not built here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "charts" / "images" / "gateway.Dockerfile"
IGNORE = FILE.with_name(FILE.name + ".dockerignore")


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, argument) with continuation lines joined and comments left out."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in instructions if instruction == name]


def test_every_installation_checks_hashes_or_takes_no_dependency(instructions: list[tuple[str, str]]) -> None:
    installs = [part for run in arguments(instructions, "RUN") for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes" in install or "--no-deps --no-build-isolation ." in install, install


def test_it_runs_as_a_numbered_user_without_a_shell(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    assert "ADD" not in names
    (user,) = arguments(instructions, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    last_stage = names[len(names) - names[::-1].index("FROM") :]
    assert "RUN" not in last_stage[last_stage.index("USER") :]
    (command,) = arguments(instructions, "CMD")
    (health,) = arguments(instructions, "HEALTHCHECK")
    for exec_form in (command, health.partition("CMD ")[2]):
        assert isinstance(json.loads(exec_form), list)


def test_its_user_and_command_are_the_charts(instructions: list[tuple[str, str]]) -> None:
    values = yaml.safe_load((ROOT / "charts/callgate/values.yaml").read_text(encoding="utf-8"))
    context = values["securityContext"]
    assert arguments(instructions, "USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    deployment = (ROOT / "charts/callgate/templates/deployment.yaml").read_text(encoding="utf-8")
    assert f"command: [{', '.join(json.loads(arguments(instructions, 'CMD')[0]))}]" in deployment


def test_what_it_copies_is_there_and_let_through(instructions: list[tuple[str, str]]) -> None:
    let_through = {line[1:] for line in IGNORE.read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    copied = {
        source
        for rest in arguments(instructions, "COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == let_through
    missing = {source for source in copied if not (ROOT / source).exists()}
    assert not missing
