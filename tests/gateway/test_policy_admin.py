"""/admin: nobody without a token, each person by name; plans approved by somebody else, versions applied and rolled back; no text in what is kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gateway import settings as configuration
from gateway.policy_settings import PolicyStoreSettings
from gateway.settings import SettingsError
from gateway.sql import Database
from tests.gateway.test_policy_life import STRICTER, Life, edited, life, recorded  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(180)]

ADA, GRACE = "ada-has-a-long-token", "grace-has-another-one"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def call(at: Life, method: str, path: str, headers: Any = None, body: Any = None) -> tuple[int, Any]:
    """Status, and the body (parsed where it is JSON)."""
    sent = {"json": body} if body is not None else {}
    url = f"{at.gateway.url}/admin{path}"
    async with at.gateway.session.request(method, url, headers=headers or {"authorization": ""}, **sent) as response:
        assert response.headers["cache-control"] == "no-store"
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


async def test_a_version_is_approved_by_another_token_applied_and_rolled_back_over_http(
    life: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CALLGATE_ADMIN_TOKEN", f"ada:{ADA},grace:{GRACE}")
    at = await life(policy_store={"follow": "store", "poll_s": 0.05, "four_eyes": True})
    await at.traffic()
    await recorded(at, 9)
    before = await at.digest()
    stricter = edited(
        at.policy, tmp_path / "stricter", ("patterns:\n          - \\b(?:ig", STRICTER), file="config.yml"
    )
    _, report = await at.command("policy", "plan", str(stricter), "--by", "ada", "--json")
    assert report["newly_blocked"]["examples"][0]["text"]
    database = Database(at.store_url)
    kept = database.plan(report["plan"])
    database.close()
    assert kept is not None
    assert "text" not in kept["report"]["newly_blocked"]["examples"][0]
    assert "fee of 12 dollars" not in json.dumps(kept["report"])
    new = {"digest": report["digest"]}
    # nobody comes in without a token, with a wrong one, or, for a change, by what a browser sends by itself
    basic = {"authorization": "Basic " + base64.b64encode(f"ada:{ADA}".encode()).decode()}
    for headers in (None, bearer("ada"), bearer(ADA[:-1]), {"authorization": "Basic !"}, bearer("")):
        for method, path in (("GET", ""), ("GET", "/policies"), ("POST", "/policies/call-centre/apply")):
            status, said = await call(at, method, path, headers, new if method == "POST" else None)
            assert (status, said["error"]["code"]) == (401, "invalid_api_key")
    assert (await call(at, "POST", "/policies/call-centre/rollback", basic))[0] == 401
    # four eyes: who made a plan cannot approve it, whatever they call themselves
    status, said = await call(at, "POST", "/policies/call-centre/apply", bearer(ADA), new)
    assert (status, "second pair of eyes" in said["error"]["message"]) == (409, True)
    status, said = await call(at, "POST", f"/plans/{report['plan']}/approve", bearer(ADA))
    assert (status, "somebody else must approve it" in said["error"]["message"]) == (409, True)
    status, said = await call(at, "POST", f"/plans/{report['plan']}/approve", bearer(GRACE))
    assert (status, said["approved_by"]) == (200, "grace")
    status, said = await call(at, "GET", "/policies/call-centre/plans", bearer(GRACE))
    assert [(plan["id"], plan["by"], plan["approved_by"]) for plan in said["plans"]] == [
        (report["plan"], "ada", "grace")
    ]
    status, done = await call(at, "POST", "/policies/call-centre/apply", bearer(ADA), new)
    assert (status, done["workers"], done["behind"]) == (200, 1, [])
    assert await at.digest() == report["digest"][:12]
    status, page = await call(at, "GET", "", basic)
    assert (status, report["digest"][:12] in page, "All workers run what is active" in page) == (200, True, True)
    assert "<script" not in page
    body: Any
    for body in ({"digest": "../x"}, {"digest": "a" * 64, "by": "root"}, {}, []):
        status, said = await call(at, "POST", "/policies/call-centre/apply", bearer(ADA), body)
        assert status == 400, said
    status, said = await call(at, "POST", "/policies/call-centre/apply", bearer(ADA), {"digest": "a" * 5000})
    assert status == 413
    status, said = await call(at, "POST", "/policies/nobody/rollback", bearer(ADA))
    assert (status, "no gateway has started with policy" in said["error"]["message"]) == (409, True)
    status, done = await call(at, "POST", "/policies/call-centre/rollback", bearer(GRACE))
    assert (status, await at.digest()) == (200, before)
    _, said = await call(at, "GET", "/policies/call-centre/history", bearer(GRACE))
    assert [(row["action"], row["by"]) for row in said["history"][:2]] == [("rollback", "grace"), ("apply", "ada")]
    log = capsys.readouterr()
    assert ADA not in log.out + log.err


async def test_without_a_token_there_is_no_admin(life: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.delenv("CALLGATE_ADMIN_TOKEN")
    at = await life()
    for method, path in (("GET", ""), ("GET", "/policies"), ("POST", "/policies/call-centre/rollback")):
        assert (await call(at, method, path, bearer("")))[0] == 404


@pytest.mark.parametrize(
    "value", ["short", f"ada:{ADA},ada:{GRACE}", f"ada:{ADA},grace:{ADA}", f"a b:{ADA}", f"{ADA},", f":{ADA}"]
)
def test_what_is_no_token_stops_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match="openssl rand") as caught:
        configuration.admin_tokens(PolicyStoreSettings(), {"CALLGATE_ADMIN_TOKEN": value})
    assert ADA not in str(caught.value)
    assert configuration.admin_tokens(PolicyStoreSettings(), {"CALLGATE_ADMIN_TOKEN": ADA}) == {"admin": ADA}
    assert configuration.admin_tokens(PolicyStoreSettings(), {}) == {}
