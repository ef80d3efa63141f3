"""`callgate rollout`: give a candidate a growing share of live calls, and see, stop or forget a rollout.

Exit codes: 0 promoted (or done), 1 rolled back, 2 undecided and back at the champion, 3 usage, broken, or stopped by somebody else. Reads of the
environment CALLGATE_ROLLOUT_TOKEN (a token of the gateway's /admin) and CALLGATE_EVAL_KEY (verifies the report's signature).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from evals.terminal import EXIT_BROKEN, ArmShares, Machine, UsageIs3, arm_shares, broken_is_3, print_json

if TYPE_CHECKING:
    from evals.rollout.admin import Admin

_T = TypeVar("_T")
HERE = "http://127.0.0.1:8080"
Model = Annotated[str, typer.Argument(help="The model as callers name it; callgate.yaml gives it a candidate.")]
Url = Annotated[str, typer.Option(help="The gateway, for its /admin.")]

app = typer.Typer(
    cls=UsageIs3,
    name="rollout",
    no_args_is_help=True,
    help="Give a candidate that the gate promoted a growing share of live calls; it loses it by itself when it is shown to be worse.\n\n"
    "Example: callgate rollout run call-centre --report .callgate/evals/report.json --labels labels.jsonl",
    epilog="Exit codes: 0 promoted (or done), 1 rolled back, 2 undecided, 3 usage, broken, or stopped by somebody else.",
)


@app.command()
def run(
    model: Model,
    report: Annotated[Path, typer.Option(help="The gate's report of this candidate; only 'promote' may go live.")],
    labels: Annotated[
        Path | None, typer.Option(help="The labels that the report was made with; they correct live scores too.")
    ] = None,
    url: Url = HERE,
    phoenix: Annotated[str, typer.Option(help="The Phoenix server that has the traces.")] = "http://127.0.0.1:6006",
    project: Annotated[str, typer.Option(help="Its project.")] = "callgate",
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the calls that the watch judges, as it was told.")
    ] = 1.0,
    arm_share: ArmShares = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this metric of the suite; again for more. Default: all that live calls can be scored for."
        ),
    ] = None,
    stages: Annotated[str, typer.Option(help="Shares of the calls, growing.")] = "0.05,0.1,0.25,0.5",
    min_conversations: Annotated[
        int, typer.Option(min=1, help="Of the candidate, at every share, before the next.")
    ] = 50,
    alpha: Annotated[float, typer.Option(help="Accepted chance of a false promotion, and of a false rollback.")] = 0.05,
    margin: Annotated[float, typer.Option(min=0.001, max=0.5, help="Of calls unanswered or blocked, accepted.")] = 0.01,
    every_s: Annotated[float, typer.Option(min=0.1, max=900, help="Seconds between two looks.")] = 30,
    settle_s: Annotated[
        float,
        typer.Option(min=0, help="A conversation is its calls within so many seconds of the first."),
    ] = 300,
    wait_s: Annotated[
        float,
        typer.Option(
            min=0,
            help="It counts so many seconds after that; more than a call takes to end and be judged: what has no score by then is missing.",
        ),
    ] = 300,
    patience_minutes: Annotated[float, typer.Option(min=0.01, help="How long one share may stay undecided.")] = 24 * 60,
    out: Annotated[Path, typer.Option(help="Folder for rollout.jsonl and rollout.html.")] = Path(".callgate/rollouts"),
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Take a report that nobody signed.")] = False,
    machine: Machine = False,
) -> None:
    """Run a rollout to its end: promoted, rolled back, or undecided (and back at the champion).

    Scores of live calls come from `callgate eval watch`; that calls are answered and let pass is read of every traced call. If this command dies,
    the share ends with its lease.
    """
    from evals.rollout.launch import RolloutOptions, launch_rollout
    from evals.rollout.run import RolloutPlan

    with broken_is_3():
        plan = RolloutPlan(
            model, f"run-{secrets.token_hex(6)}", _shares(stages), alpha, min_conversations, every_s, timedelta(seconds=settle_s), timedelta(seconds=wait_s),
            timedelta(minutes=patience_minutes), operational_margin=margin,
        )  # fmt: skip
        options = RolloutOptions(
            plan, report, labels, url, phoenix, project, out, _token(), _signing_key(unsigned=unsigned), share, arm_shares(arm_share),
            tuple(metric or ())
        )  # fmt: skip
        say = (lambda _: None) if machine else lambda line: typer.echo(line, err=True)
        ending = launch_rollout(options, say)
    if ending is None:
        typer.echo("interrupted; the share is given back, or ends with its lease (callgate rollout status)", err=True)
        raise typer.Exit(EXIT_BROKEN)
    if machine:
        print_json({"outcome": ending.outcome.value, "reasons": ending.reasons, "share": ending.share})
    else:
        typer.echo("\n  ".join([ending.outcome.value, *ending.reasons]))
    raise typer.Exit({"promoted": 0, "rolled back": 1, "undecided": 2}.get(ending.outcome.value, EXIT_BROKEN))


@app.command()
def status(url: Url = HERE, machine: Machine = False) -> None:
    """Every model that has a candidate: its share, who started it, and why it is where it is."""
    with broken_is_3():
        found = _at(url, lambda admin: admin.rollouts())
    if machine:
        print_json(found)
        return
    for one in found:
        lease = f", lease {one['lease_s']:.0f} s" if one.get("lease_s") else ""
        by = f", by {one['by']} at {one['at']}" if one.get("by") else ""
        why = f": {one.get('reason') or one.get('note')}" if one.get("reason") or one.get("note") else ""
        typer.echo(
            f"{one['model']}: {one['candidate']} {one['state'].replace('_', ' ')}, {one['share']:.0%}{lease}{by}{why}"
        )
    if not found:
        typer.echo("no model has a candidate; give it one in callgate.yaml")


@app.command()
def stop(
    model: Model, reason: Annotated[str, typer.Option(help="Told to whoever asks.")] = "", url: Url = HERE
) -> None:
    """Back to the champion, whoever's rollout it is; its run ends by itself."""
    with broken_is_3():
        _at(url, lambda admin: admin.end(model, None, "rolled_back", reason))
    typer.echo(f"{model}: every call goes to the champion")


@app.command()
def clear(model: Model, url: Url = HERE) -> None:
    """Forget a rollout that is over. After a promotion: first make the candidate the model's deployment in callgate.yaml."""
    with broken_is_3():
        _at(url, lambda admin: admin.clear(model))
    typer.echo(f"{model}: callgate.yaml alone says who answers")


def _at(url: str, work: Callable[[Admin], Awaitable[_T]]) -> _T:
    from evals.rollout.admin import Admin
    from evals.target import open_session

    async def run() -> Any:
        async with open_session(2) as session:
            return await work(Admin(url, session, _token()))

    return asyncio.run(run())  # type: ignore[no-any-return]


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError:
        raise ValueError(
            f"--stages are shares separated by commas, for instance 0.05,0.1,0.25,0.5, not {text!r}"
        ) from None


def _token() -> str:
    token = os.environ.get("CALLGATE_ROLLOUT_TOKEN", "")
    if not token:
        raise ValueError("set CALLGATE_ROLLOUT_TOKEN to a token that the gateway's CALLGATE_ADMIN_TOKEN holds")
    return token


def _signing_key(*, unsigned: bool) -> bytes | None:
    text = os.environ.get("CALLGATE_EVAL_KEY")
    if not text and not unsigned:
        raise ValueError("set CALLGATE_EVAL_KEY to the key that signed the report, or say --unsigned")
    return text.encode() if text else None
