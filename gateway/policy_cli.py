"""`callgate policy ...` and `callgate explain`. They read arguments and print; the work is done elsewhere.

Exit codes: 0 it went right (plan within limits, applied, cases pass), 1 it did not, 2 no verdict (not reproducible, nothing recorded, not all
workers seen converged), 3 used or configured wrongly.
"""

from __future__ import annotations

import difflib
import getpass
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gateway.policy_session import Session
    from gateway.policy_settings import PlanLimits

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file.", envvar="CALLGATE_CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]
Name = Annotated[str, typer.Option(help="Its name in the settings; default: the name in policy.yaml.")]
By = Annotated[str, typer.Option(help="Who does it, for the history; default: the user of this machine.")]
Where = Annotated[str, typer.Argument(help="A policy's directory, or its name in the settings.")]
CONFIG = Path("callgate.yaml")


def build_policy() -> typer.Typer:
    """The sub-commands of `callgate policy`."""
    app = typer.Typer(
        no_args_is_help=True,
        help="Policies: checked, tested, planned on recorded traffic, applied everywhere or nowhere.",
    )
    for command in (check, plan, approve, apply, rollback, adopt, history, diff):
        app.command()(command)
    app.command("test")(run_cases)
    return app


def check(where: Where, config: Config = CONFIG, as_json: AsJson = False) -> None:
    """Build a policy as a gateway would: what it promises, what each rail costs, and what its digest covers; or the line that is wrong."""
    from gateway.policy_session import open_session, run

    async def work() -> Any:
        from gateway.steps.rehearse import Rehearsal

        async with Rehearsal(at.settings) as rehearsal:
            return (await rehearsal.of_directory(at.directory(where))).describe()

    with open_session(config) as at:
        facts = run(work)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{facts['name']}  {facts['digest']}")
    print(f"  {facts['claim']}")
    for rail in facts["rails"]:
        print(
            f"  {rail['stage']} {rail['rail']}: {rail['runs']}, {rail['mode']}, fails {rail['fail']}, {rail['deadline_ms']} ms; {rail['cost']}"
        )
    for part, digest in facts["parts"].items():
        print(f"  rests on {part} {digest[:40]}")


def run_cases(where: Where, config: Config = CONFIG, as_json: AsJson = False) -> None:
    """Run a policy's own cases (tests.yaml beside policy.yaml): conversation in, expected verdict out."""
    from gateway.policy_session import open_session, run

    async def work() -> Any:
        from gateway.steps.rehearse import Rehearsal

        async with Rehearsal(at.settings) as rehearsal:
            return await rehearsal.test(at.directory(where))

    with open_session(config) as at:
        results = run(work)
    failed = [result for result in results if not result["passed"]]
    if as_json:
        print(json.dumps({"passed": len(results) - len(failed), "failed": len(failed), "cases": results}, indent=2))
    else:
        for result in failed:
            print(f"FAILED {result['name']}: {result['why']}")
        print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


def plan(
    new: Annotated[Path, typer.Argument(help="The directory of the new version.")],
    config: Config = CONFIG,
    name: Name = "",
    most: Annotated[int, typer.Option(min=1, help="Replay at most so many recordings, the newest.")] = 20_000,
    max_newly_blocked: Annotated[
        float | None, typer.Option(help="Limit in % of traffic; default: policy_store.limits.")
    ] = None,
    max_newly_allowed: Annotated[
        float | None, typer.Option(help="Limit in % of traffic; default: policy_store.limits.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write the plan as one HTML file, for a change ticket.")
    ] = None,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Replay the recording under the running version (every verdict must be reproduced), then under the new one, and show the difference."""
    from gateway.parts import write_private
    from gateway.policy_render import plan_html, show_identity, show_plan
    from gateway.policy_session import open_session, run

    with open_session(config) as at:
        given = {"newly_blocked": max_newly_blocked, "newly_allowed": max_newly_allowed}
        changed = {key: value for key, value in given.items() if value is not None}
        limits = at.settings.policy_store.limits.model_copy(update=changed)
        report = run(lambda: _planned(at, new, name, most, by or getpass.getuser(), limits))
    whole = "newly_blocked" in report
    if as_json:
        print(json.dumps(report, indent=2))
    elif whole:
        show_plan(report)
    else:
        show_identity(report)
    if whole and html is not None:
        write_private(html, plan_html(report))  # its examples are the texts of sealed recordings, redacted
    no_verdict = not whole or (report["breaches"] and not report["identity"]["replayed"])
    raise typer.Exit(2 if no_verdict else 1 if report["breaches"] else 0)


async def _planned(at: Session, new: Path, name: str, most: int, by: str, limits: PlanLimits) -> dict[str, Any]:
    from gateway.steps.rehearse import Rehearsal, policy_key
    from gateway.steps.versions import read_version

    key = policy_key(at.settings, new, name)
    version = read_version(new, at.settings.policy_store.actions_dir)
    base = await at.running(key)
    recordings = at.recordings().of_version(base["name"], base["digest"], most)
    async with Rehearsal(at.settings) as rehearsal:
        running = await rehearsal.of_version(base)
        found, before = await rehearsal.identity(running, recordings)
        if found["reproduced"] != found["replayed"]:
            return {"identity": found, "base": base["digest"], "digest": version.digest}
        candidate = await rehearsal.of_directory(new)
        report = {"identity": found} | await rehearsal.compare(running, candidate, recordings, before)
    async with at.desk() as desk:
        return desk.keep_plan(key, base["digest"], version.row(time.time(), by), by, report, limits)


def approve(
    plan_id: Annotated[str, typer.Argument(help="The plan's id.")], config: Config = CONFIG, by: By = ""
) -> None:
    """Approve somebody else's plan (policy_store.four_eyes)."""
    from gateway.policy_session import open_session, run

    who = by or getpass.getuser()

    async def work() -> Any:
        async with at.desk() as desk:
            return desk.approve(plan_id, who)

    with open_session(config) as at:
        approved = run(work)
    print(f"{plan_id} ({approved['base'][:12]} -> {approved['digest'][:12]}) approved by {who}")


def apply(
    new: Annotated[str, typer.Argument(help="The planned version: its directory, or its digest.")],
    config: Config = CONFIG,
    name: Name = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Activate a planned version in every worker, or in none. Needs a fresh plan of exactly this version against exactly the running one."""
    from gateway.policy_session import fail, open_session, run, told
    from gateway.steps.rehearse import policy_key
    from gateway.steps.versions import read_version

    async def work() -> dict[str, Any]:
        async with at.desk() as desk:
            return await desk.apply(key, digest, by or getpass.getuser())

    with open_session(config) as at:
        if Path(new).is_dir():
            key, digest = told(
                lambda: (
                    policy_key(at.settings, Path(new), name),
                    read_version(Path(new), at.settings.policy_store.actions_dir).digest,
                )
            )
        else:
            row = at.database.version(new)
            if row is None:
                fail(f"'{new}' is neither a directory nor the digest of one version in the store")
            key, digest = name or row["name"], row["digest"]
        done = run(work)
    _show(done, as_json)


def rollback(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    to: Annotated[
        str, typer.Option(help="Digest (or its beginning) of a version that ran before; default: the one before.")
    ] = "",
    config: Config = CONFIG,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Go back to a version that ran before, in every worker or in none. Needs no plan."""
    from gateway.policy_session import open_session, run

    async def work() -> dict[str, Any]:
        async with at.desk() as desk:
            return await desk.roll_back(name, to, by or getpass.getuser())

    with open_session(config) as at:
        done = run(work)
    _show(done, as_json)


def adopt(
    name: Annotated[str, typer.Argument(help="The policy's name in the settings.")],
    config: Config = CONFIG,
    by: By = "",
) -> None:
    """Make the version of these files and this image the one to start with, without a plan, while no gateway follows the store."""
    from gateway.policy_session import fail, open_session, run
    from gateway.steps.versions import read_version

    async def work() -> dict[str, Any]:
        version = read_version(at.settings.policies[name], at.settings.policy_store.actions_dir)
        async with at.desk() as desk:
            return await desk.adopt(name, version.row(time.time(), who), who)

    who = by or getpass.getuser()
    with open_session(config) as at:
        if name not in at.settings.policies:
            fail(f"no policy '{name}' in the settings; there is: {', '.join(at.settings.policies)}")
        done = run(work)
    print(
        f"{name}: {done['previous'][:12] or 'nothing'} -> {done['digest'][:12]}, for gateways that start from here on"
    )


def _show(done: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(done))
    else:
        seconds = done["converged_s"]
        when = "not yet seen in all of them" if seconds is None else f"in all of them after {seconds:.2f} s"
        moved = f"{done['policy']}: {done['previous'][:12]} -> {done['digest'][:12]}"
        print(f"{moved}, compiled by {done['workers']} workers in {done['prepared_s']:.2f} s, running {when}")
    raise typer.Exit(2 if done["converged_s"] is None else 0)


def history(
    name: Annotated[str, typer.Argument(help="The policy's name.")], config: Config = CONFIG, as_json: AsJson = False
) -> None:
    """Every version that ran, newest first: when, who, by which plan."""
    from gateway.policy_session import open_session, told

    with open_session(config) as at:
        rows = [dict(row) for row in told(lambda: at.database.history(name))]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("at", "action", "version", "before", "by", "plan")
    for row in rows:
        when = datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            when, row["action"], row["digest"][:12], row["previous"][:12] or "-", row["by"], row["plan"] or "-"
        )
    Console().print(table if rows else f"No version of '{name}' was ever applied here.")


def diff(
    old: Annotated[str, typer.Argument(help="A directory, a name of the settings, or a digest.")],
    new: Annotated[str, typer.Argument(help="A directory, a name of the settings, or a digest.")],
    config: Config = CONFIG,
    as_json: AsJson = False,
) -> None:
    """What differs between two versions: lines of their files, and the weights they rest on. Exit code 1 when anything does."""
    from gateway.policy_session import open_session

    with open_session(config) as at:
        (files, parts), (other_files, other_parts) = at.files(old), at.files(new)
    lines: list[str] = []
    for path in sorted({*files, *other_files}):
        before, after = files.get(path, "").splitlines(), other_files.get(path, "").splitlines()
        lines += difflib.unified_diff(before, after, f"old/{path}", f"new/{path}", lineterm="")
    moved = {
        part: [parts.get(part), other_parts.get(part)]
        for part in sorted({*parts, *other_parts})
        if parts.get(part) != other_parts.get(part)
    }
    if as_json:
        print(json.dumps({"lines": lines, "parts": moved}, indent=2))
    else:
        print(
            "\n".join([*lines, *(f"rests on {part}: {a} -> {b}" for part, (a, b) in moved.items())]) or "no difference"
        )
    raise typer.Exit(1 if lines or moved else 0)


def explain(
    request_id: Annotated[str, typer.Argument(help="The x-request-id of a recorded request.")],
    config: Config = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Compute a recorded verdict again: which rail decided, on what (redacted) text, with which score and threshold."""
    from gateway.policy_render import show_explanation
    from gateway.policy_session import fail, open_session, run, told

    async def work(row: Mapping[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
        from gateway.steps.rehearse import Rehearsal

        async with Rehearsal(at.settings) as rehearsal:
            return await rehearsal.explain(row, recorded)

    with open_session(config) as at:
        recorded = told(lambda: at.recordings().of_request(request_id))
        if recorded is None:
            kept = f"a share of requests is kept, for {at.settings.recorder.retention_days:g} days"
            fail(f"there is no recording of request '{request_id}'; {kept}", 2)
        row = told(lambda: at.database.version(recorded["digest"]))
        if row is None:
            fail(f"the store has no version {recorded['digest'][:12]}, under which it was recorded", 2)
        explained = run(partial(work, row, recorded))
    if as_json:
        print(json.dumps(explained, indent=2))
    else:
        show_explanation(explained)
    raise typer.Exit(0 if explained["reproduced"] else 2)
