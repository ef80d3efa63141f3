"""What no policy may hold is refused on a running gateway, with file, line and reason, and what runs goes on running."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import Any

import pytest

from tests.gateway.test_policy_life import ADMIN, Life, life  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(180)]

LOOSE = "    threshold: 0.952"
COLANG = "define subflow check topic\n  $ok = execute is_on_topic\n  if not $ok\n  else ((\n"
BAD: dict[str, tuple[dict[str, tuple[str, str]], str]] = {
    "unknown key": (
        {"policy.yaml": ("    threshold:", "    thresold:")},
        r"policy\.yaml:8: rails\.off-topic\.thresold: unknown key; expected one of: .*threshold",
    ),
    "a key twice": (
        {"policy.yaml": (LOOSE, f"{LOOSE}\n{LOOSE}")},
        r"policy\.yaml:9: rails\.off-topic\.threshold: is given twice",
    ),
    "an invalid threshold": (
        {"policy.yaml": ("0.952", "95.2")},
        r"policy\.yaml:8: rails\.off-topic\.threshold: .*less than or equal to 1",
    ),
    "a missing file": ({"config.yml": ("", "")}, r"config\.yml: there is no such file"),
    "a flow that is nowhere": (
        {"policy.yaml": ("flow: regex check output", "flow: check nothing")},
        r"policy\.yaml:12: rails\.answer\.flow: 'check nothing' is not declared",
    ),
    "a kind that is none": (
        {"policy.yaml": ('ner: "off"', 'ner: "off", entities: {EMAIL_ADDRESS: vanish}')},
        r"policy\.yaml:13: redaction\.entities\.EMAIL_ADDRESS",
    ),
    "a Colang syntax error": ({"rails.co": ("", COLANG)}, r"rails\.co:4: NeMo Guardrails refuses"),
    "a catastrophic regex": (
        {"config.yml": (r"\bnew (?:system )?", r"(?:w+)+ (?:system )?")},
        r"config\.yml:17: .*exponential time",
    ),
    "an action that imports what it may not": (
        {"policy.yaml": ("version: 1", "version: 1\nactions: [reaches]")},
        r"reaches\.py:2: actions: imports 'os'",
    ),
    "an action from nowhere": (
        {"policy.yaml": ("version: 1", "version: 1\nactions: [nobody]")},
        r"nobody\.py: actions: there is no such file in the trusted folder",
    ),
    "Python beside it": ({"actions.py": ("", "VALUE = 1\n")}, r"actions\.py: Python beside a policy is never run"),
}


async def test_each_is_refused_with_its_place_and_changes_nothing(life: Any) -> None:  # noqa: F811
    trusted = "trusted"
    at: Life = await life(policy_store={"follow": "files", "actions_dir": trusted}, server={"reload_s": 0.02})
    (at.folder / trusted).mkdir()
    (at.folder / trusted / "reaches.py").write_text("import re\nimport os\n")
    good = at.folder / "good"
    shutil.copytree(at.policy, good)
    before = await at.digest()
    for name, (changes, said) in BAD.items():
        for file, (old, new) in changes.items():
            path = at.policy / file
            text = path.read_text() if path.exists() else ""
            assert old in text, name
            if old or new:
                path.write_text(text.replace(old, new, 1) if old else new)
            else:
                path.unlink()
        assert re.search(said, await refusal(at)), name
        assert await at.digest() == before, name
        code, output = await at.command("policy", "check", str(at.policy))
        assert (code, bool(re.search(said, output))) == (3, True), (name, output)
        for path in at.policy.iterdir():
            path.unlink()
        shutil.copytree(good, at.policy, dirs_exist_ok=True)
        assert await refusal(at, none=True) == "", name
    assert await at.digest() == before


async def refusal(at: Life, *, none: bool = False) -> str:
    """What /admin says is wrong with the files, once it does (``none``: once it says nothing)."""
    async with asyncio.timeout(20):
        while True:
            async with at.gateway.session.get(
                at.gateway.url + "/admin/policies", headers={"authorization": f"Bearer {ADMIN}"}
            ) as response:
                state = await response.json()
            said = "; ".join(reason for worker in state["workers"] for reason in worker["failed"].values())
            if bool(said) is not none:
                return said
            await asyncio.sleep(0.02)
