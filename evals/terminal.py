"""What a person or a CI job sees of a run: bars with what is left, tables, JSON, and exit codes that tell verdicts and faults apart.

Decides nothing; evals/cli.py has the commands.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

if TYPE_CHECKING:
    from evals.attack import Flips
    from evals.calibrate import Calibration, PassRate
    from evals.progress import Progress
    from evals.report import Report
    from evals.statistics.agreement import Bounded
    from evals.statistics.corrections import CorrectedMean

EXIT_BROKEN = 3
Machine = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
ArmShares = Annotated[
    list[str] | None, typer.Option("--arm-share", help="Another share for one arm of a rollout, for instance canary=1.")
]
ReportFile = Annotated[Path, typer.Argument(help="A report.json of a run.")]


def suite_names(incomplete: str) -> list[str]:
    """For the shell's completion: the shipped suites."""
    from evals.suite import shipped_suites

    return [name for name in shipped_suites() if name.startswith(incomplete)]


def target_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: the targets of the suite that was named; none where it cannot be read."""
    from evals.errors import EvalError
    from evals.suite import find_suite, load_suite

    suite = ctx.params.get("suite") or next(iter(ctx.args), "")  # a line that is not whole leaves it among the rest
    try:
        targets = load_suite(find_suite(suite)).model.targets
    except EvalError:
        return []
    return [name for name in targets if name.startswith(incomplete)]


class UsageIs3(TyperGroup):
    """Typer ends a usage error with 2, which here means inconclusive; CI must be able to tell them apart."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _usage_is_3():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _usage_is_3():
            return super().invoke(ctx)


@contextlib.contextmanager
def _usage_is_3() -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        error.exit_code = EXIT_BROKEN
        raise


class Format(StrEnum):
    TERMINAL = "terminal"
    JSON = "json"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    HTML = "html"


def finish(found: Report, form: Format) -> None:
    show(found, form)
    raise typer.Exit(exit_code(found.gate.verdict.value))


def show(found: Report, form: Format) -> None:
    import msgspec
    from rich.console import Console

    from evals.render import to_junit, to_markdown, to_terminal

    if form is Format.TERMINAL:
        Console().print(to_terminal(found))
    elif form is Format.JSON:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n")
    else:
        from evals.html import to_html

        write = {Format.MARKDOWN: to_markdown, Format.JUNIT: to_junit, Format.HTML: to_html}[form]
        sys.stdout.write(write(found))


def exit_code(verdict: str) -> int:
    return {"promote": 0, "reject": 1, "inconclusive": 2}[verdict]


def describe(calibration: Calibration) -> str:
    trust = calibration.trust
    more = f"; about {trust.labels_needed} labels would decide" if trust.labels_needed else ""
    lines = [f"{calibration.metric}: {trust.standing.value}: {trust.reason}{more}"]
    if calibration.unmatched:
        lines.append(
            f"{calibration.unmatched} labels fit no scored answer of this run: another text, an unknown case, or not scored"
        )
    agreement = calibration.agreement
    if agreement is not None:
        figures = {
            "balanced accuracy": agreement.balanced_accuracy,
            "sensitivity": agreement.sensitivity,
            "specificity": agreement.specificity,
        }
        lines.append(", ".join(f"{name} {_bounded(figure)}" for name, figure in figures.items()))
    lines += [describe_rate(rate) for rate in calibration.pass_rates if rate.labels]
    return "\n  ".join(lines)


def describe_rate(rate: PassRate) -> str:
    """The share of the answers of one setting that pass, as judged and as corrected by its labels."""
    gladen = f"{_bounded(rate.rogan_gladen)} (Rogan-Gladen)" if rate.rogan_gladen else "Rogan-Gladen cannot be had"
    ppi = f"{_bounded(rate.ppi)} (PPI++)" if rate.ppi else "PPI++ cannot be had"
    return f"{rate.setting} passes: {rate.judged:.2f} as judged; corrected by {rate.labels} of {rate.answers} labelled {ppi}, {gladen}"


def _bounded(figure: Bounded | CorrectedMean) -> str:
    return f"{figure.estimate:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def describe_flips(flips: Flips) -> str:
    where = ", ".join(f"{family} {count}" for family, count in flips.families[:4])
    share = f"{flips.per_100.estimate:.1f} flips per 100 [{flips.per_100.low:.1f}, {flips.per_100.high:.1f}]"
    counts = f"{flips.to_pass} to pass, {flips.to_fail} to fail, {flips.not_scored} of {flips.cases} not scored"
    told = f"{flips.metric}: {share}: {counts}" + (f"; most by {where}" if where else "")
    if flips.passed_plain:
        left = flips.cases - flips.not_scored - flips.passed_plain
        told += f"; {flips.passed_plain} of these poor replies passed without any attack, so {left or 'none'} could be talked over"
    return told


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def arm_shares(texts: list[str] | None) -> dict[str, float]:
    """ARM=SHARE, each. Raises ValueError naming what is no such thing."""
    found = {}
    for text in texts or ():
        arm, _, share = text.partition("=")
        if not arm or not share.replace(".", "", 1).isdigit() or not 0 <= float(share) <= 1:
            raise ValueError(f"--arm-share is ARM=SHARE with a share from 0 to 1, for instance canary=1, not {text!r}")
        found[arm] = float(share)
    return found


@contextlib.contextmanager
def broken_is_3() -> Iterator[None]:
    from evals.errors import EvalError

    try:
        yield
    except (EvalError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BROKEN) from error
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here, what was paid for is kept", err=True)
        raise
    except Exception as error:
        traceback.print_exc()
        raise typer.Exit(EXIT_BROKEN) from error


@contextlib.contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Progress]:
    """A bar a stage on standard error, with rate, time left and dollars spent so far; lines where that is no terminal; silent for machines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from evals.progress import say_nothing

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s{task.fields[cost]}"),
    )
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield say_nothing if quiet else progress_lines(time.monotonic)
        return
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, cost_usd: Decimal | None) -> None:
            task = tasks.setdefault(stage, None)
            if task is None:
                task = tasks[stage] = bars.add_task(stage, total=total, rate="-", cost="")
            speed = bars.tasks[task].speed
            bars.update(task, completed=done, rate="-" if speed is None else f"{speed:.1f}", cost=_spent(cost_usd))

        yield show


def progress_lines(now_s: Callable[[], float], every_s: float = 30) -> Progress:
    """For the log of a CI job: a line at the end of a stage, and one in between where that takes long."""
    last_s = now_s()

    def show(stage: str, done: int, total: int, cost_usd: Decimal | None) -> None:
        nonlocal last_s
        if done == total or now_s() - last_s >= every_s:
            last_s = now_s()
            typer.echo(f"{stage}: {done} of {total}{_spent(cost_usd)}", err=True)

    return show


def _spent(cost_usd: Decimal | None) -> str:
    return f" ${cost_usd:.4f}" if cost_usd else ""
