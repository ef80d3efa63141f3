"""`callgate eval` about its judges: calibrate, queue, lock, attack, and watch, which has them judge live calls.

Commands of evals/cli.py's app; exit code 3 for usage or broken.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from evals.terminal import (
    ArmShares,
    Machine,
    ReportFile,
    UsageIs3,
    arm_shares,
    broken_is_3,
    describe,
    describe_flips,
    print_json,
    progress_bars,
    suite_names,
)

app = typer.Typer(cls=UsageIs3)
OUT = Path(".callgate/evals")
JudgeUrl = Annotated[str, typer.Option(help="Where the judges are.")]
HERE = "http://127.0.0.1:8080/v1"


@app.command()
def calibrate(
    file: ReportFile,
    labels: Annotated[Path, typer.Argument(help="Human labels: JSONL of metric, sample_id, setting, human.")],
    machine: Machine = False,
) -> None:
    """How far each judge of a run agrees with people. Exits with 1 if one that was labelled is refused."""
    from evals.calibrate import calibrate as measure
    from evals.calibrate import load_labels
    from evals.report import load_report

    with broken_is_3():
        calibrations = measure(load_report(file).evidence, load_labels(labels))
    if machine:
        import msgspec

        print_json(msgspec.to_builtins(calibrations))
    if not calibrations and not machine:
        typer.echo("no metric of this run is judged: there is nothing that labels could calibrate")
    for calibration in () if machine else calibrations:
        typer.echo(describe(calibration))
    raise typer.Exit(int(any(c.trust.labels and not c.trust.may_decide for c in calibrations)))


@app.command()
def queue(
    file: ReportFile,
    suite: Annotated[str, typer.Argument(help="The suite of the report, for the questions.")],
    phoenix: Annotated[str, typer.Option(help="A Phoenix server.")] = "http://127.0.0.1:6006",
    file_out: Annotated[
        Path | None,
        typer.Option("--file", help="Write them into this JSONL file instead, for people to set `human` in."),
    ] = None,
    read: Annotated[Path | None, typer.Option(help="Read the labels back from Phoenix into this JSONL file.")] = None,
) -> None:
    """Put the answers whose labels would decide in front of people, in Phoenix or in a file, drawn at random; or read their labels back."""
    from evals.launch import ask_for_labels, read_labels, write_queue
    from evals.report import load_report

    with broken_is_3():
        found = load_report(file)
        if file_out is not None:
            lines = write_queue(found, suite, file_out)
        else:
            lines = ask_for_labels(found, suite, phoenix) if read is None else read_labels(found, phoenix, read)
        for line in lines:
            typer.echo(line)


@app.command()
def lock(
    suite: Annotated[str, typer.Argument(help="A suite with anchors, by name or folder.", autocompletion=suite_names)],
    judge_url: JudgeUrl = HERE,
    machine: Machine = False,
) -> None:
    """Score the labelled anchors of a suite and remember how far its judges agree: later runs say 'judge changed'."""
    import msgspec

    from evals.launch import lock as write

    with broken_is_3(), progress_bars(quiet=machine) as progress:
        scores = write(suite, judge_url, OUT, _key(), progress)
    if machine:
        print_json(msgspec.to_builtins(scores))
    for one in () if machine else scores:
        typer.echo(
            f"{one.metric}: kappa {one.kappa:.2f} [{one.low:.2f}, {one.high:.2f}] on {one.labels} anchors, {one.judge}"
        )


@app.command()
def attack(
    suite: Annotated[
        str, typer.Argument(help="The suite whose judges are attacked, by name or folder.", autocompletion=suite_names)
    ],
    judge_url: JudgeUrl = HERE,
    most: Annotated[float, typer.Option(min=0, max=100, help="Flips per 100 above which the exit code is 1.")] = 100.0,
    machine: Machine = False,
) -> None:
    """Judge 48 poor replies as they are and with a text added that instructs the judge; count the verdicts that flip.

    Exits with 1 above --most, with 2 where a judge left no verdict that could flip: it passed every poor reply, or said nothing clear.
    """
    import msgspec

    from evals.launch import attack as measure

    with broken_is_3(), progress_bars(quiet=machine) as progress:
        found = measure(suite, judge_url, OUT, _key(), progress)
    if machine:
        print_json(msgspec.to_builtins(found))
    for one in () if machine else found:
        typer.echo(describe_flips(one))
    if any(one.per_100.estimate > most for one in found):
        raise typer.Exit(1)
    raise typer.Exit(0 if all(one.measured for one in found) else 2)


@app.command()
def watch(
    suite: Annotated[str, typer.Argument(help="A suite by name or folder: its judges, its budget (for an hour).")],
    phoenix: Annotated[str, typer.Option(help="The Phoenix server that has the traces.")] = "http://127.0.0.1:6006",
    project: Annotated[str, typer.Option(help="Its project.")] = "callgate",
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the calls that is judged.")] = 0.05,
    arm_share: ArmShares = None,
    judge_url: JudgeUrl = HERE,
    every_s: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 30,
    since_minutes: Annotated[float, typer.Option(min=0, help="Also the calls of so many minutes before now.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="Look once and stop.")] = False,
) -> None:
    """Judge sampled live calls as they come and write the scores to their spans as annotations; Ctrl-C stops it.

    A call that was judged is not paid for again; where the suite's budget is spent, calls stay without a score.
    """
    from datetime import timedelta

    from evals.launch import Watching
    from evals.launch import watch as look

    with broken_is_3():
        shares = arm_shares(arm_share)
    watching = Watching(
        suite, judge_url, phoenix, project, share, every_s, timedelta(minutes=since_minutes), 1 if once else None, OUT,
        _key(), shares,
    )  # fmt: skip
    with broken_is_3():
        look(watching, typer.echo)


def _key() -> str | None:
    return os.environ.get("CALLGATE_JUDGE_KEY") or os.environ.get("CALLGATE_API_KEY")
