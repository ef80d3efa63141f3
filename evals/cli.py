"""`callgate eval`: run a suite, compare, report, simulate, plan, gate; those about judges are in judges/cli.py.

Exit codes: 0 promote (or done), 1 reject, 2 inconclusive, 3 usage or broken. The only reader of the environment here:
CALLGATE_API_KEY (for the gateway), CALLGATE_JUDGE_KEY (for judges elsewhere) and CALLGATE_EVAL_KEY (signs and verifies reports, 16 bytes or
more).
"""

from __future__ import annotations

import contextlib
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evals.judges.cli import app as judges_app
from evals.terminal import (
    EXIT_BROKEN,
    Format,
    Machine,
    ReportFile,
    UsageIs3,
    broken_is_3,
    exit_code,
    finish,
    print_json,
    progress_bars,
    show,
    suite_names,
    target_names,
)

if TYPE_CHECKING:
    from evals.launch import Options
    from evals.progress import Progress
    from evals.report import Report
    from evals.simulate import Tally

app = typer.Typer(
    cls=UsageIs3,
    name="eval",
    no_args_is_help=True,
    help="Is this version better than that one? Says promote, reject or inconclusive, and why.\n\n"
    "First: callgate eval suites, then: callgate eval run call-centre-smoke --candidate degraded --baseline good\n\n"
    "A judge decides nothing until people's labels say that it may: callgate eval queue, then calibrate, then compare --labels.",
    epilog="Exit codes: 0 promote, 1 reject, 2 inconclusive, 3 usage or broken.",
)

app.registered_commands += judges_app.registered_commands

gate_app = typer.Typer(
    cls=UsageIs3,
    subcommand_metavar="",
    invoke_without_command=True,
    context_settings={"allow_interspersed_args": True},  # a group else takes what follows FILE for a subcommand
    epilog="Exit codes: 0 promote, 1 reject, 2 inconclusive, 3 usage or broken.",
)


class Engine(StrEnum):
    """Where the shards of a run are worked on; `job`: this process is one pod of a Kubernetes Indexed Job."""

    PROCESSES = "processes"
    RAY = "ray"
    JOB = "job"


Labels = Annotated[Path | None, typer.Option(help="Human labels (JSONL); they calibrate and correct the judges.")]


@app.command()
def run(
    suite: Annotated[
        str,
        typer.Argument(
            help="A shipped suite by name (see `callgate eval suites`), or a folder with a suite.yaml.",
            autocompletion=suite_names,
        ),
    ],
    candidate: Annotated[
        str, typer.Option(help="Target of the suite that wants to be promoted.", autocompletion=target_names)
    ],
    baseline: Annotated[str, typer.Option(help="Target of the suite that is in use.", autocompletion=target_names)],
    url: Annotated[str, typer.Option(help="An OpenAI-compatible server, /v1 included.")] = "http://127.0.0.1:8080/v1",
    judge_url: Annotated[
        str | None, typer.Option(help="Where the judges are (key: CALLGATE_JUDGE_KEY); default: --url.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html, report.md and junit.xml.")] = Path(
        ".callgate/evals"
    ),
    labels: Labels = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests under way at once.")] = 4,
    shard: Annotated[
        str | None, typer.Option(help="Only part i of n, as i/n from 1: no verdict; join with `compare`.")
    ] = None,
    shards: Annotated[int, typer.Option(min=1, max=1000, help="Cut into so many parts, and join them again.")] = 1,
    engine: Annotated[
        Engine, typer.Option(help="Where the shards run; job: this is one pod of an Indexed Job.")
    ] = Engine.PROCESSES,
    ray_address: Annotated[str, typer.Option(help="A Ray cluster; local: one of its own on this machine.")] = "local",
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Look every ten conversations; stop when the verdict is known.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Keep replies in this file for later runs too.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="Tell this MLflow tracking URI too.")] = None,
    model_version: Annotated[
        str | None, typer.Option(help="NAME/VERSION in MLflow's registry to tag with the verdict; needs --mlflow.")
    ] = None,
    wandb: Annotated[Literal["offline", "online"] | None, typer.Option(help="Tell Weights and Biases.")] = None,
    phoenix: Annotated[str | None, typer.Option(help="Tell this Phoenix server too (spans, annotations).")] = None,
    machine: Machine = False,
) -> None:
    """Ask both targets the same cases, score, compare, decide.

    A run that died is continued by the same command: replies are kept in OUT until a run is complete. Keys are read from CALLGATE_API_KEY
    (--url), CALLGATE_JUDGE_KEY (--judge-url, where that is another server) and CALLGATE_EVAL_KEY (signs the report).
    """
    from evals.launch import Options, record
    from evals.tracking import Trackers

    options = Options(
        suite, candidate, baseline, url, judge_url or url, out, labels, concurrency, _shard(shard), cache,
        os.environ.get("CALLGATE_API_KEY"), _signing_key(), sequential, os.environ.get("CALLGATE_JUDGE_KEY"),
    )  # fmt: skip
    with broken_is_3(), progress_bars(quiet=machine) as progress:
        _check_model_version(model_version, mlflow)
        if options.shard is not None:
            from evals.shards import launch_part

            place = launch_part(options, *options.shard, progress)
            typer.echo(f"part {shard} is done; join {place} with the other parts by `callgate eval compare`", err=True)
            return
        report = _work(options, shards, engine, ray_address, progress)
    if report is None:
        typer.echo("this shard is done, others are not yet; the last one to finish writes the report", err=True)
        return
    with contextlib.redirect_stdout(sys.stderr):  # where trackers greet; standard output is the report's
        for line in record(report, suite, out, Trackers(mlflow, wandb, model_version), phoenix):
            typer.echo(line, err=True)
    typer.echo(
        f"{out / 'report.html'} shows it, with report.json (for `callgate gate`), report.md and junit.xml", err=True
    )
    if engine is Engine.JOB:
        show(report, Format.JSON if machine else Format.TERMINAL)  # a verdict must not look like a pod that failed
        return
    finish(report, Format.JSON if machine else Format.TERMINAL)


def _check_model_version(model_version: str | None, mlflow: str | None) -> None:
    """Raises ValueError, before anything is paid for."""
    if model_version is not None and (mlflow is None or not all(model_version.rpartition("/")[::2])):
        raise ValueError(
            f"--model-version is NAME/VERSION of a registry, and --mlflow says where; not {model_version!r} alone"
        )


def _work(options: Options, shards: int, engine: Engine, ray_address: str, progress: Progress) -> Report | None:
    """None where this was one shard of a job and others are still at work."""
    if engine is Engine.JOB:
        from evals.shards import launch_pod

        index = os.environ.get("JOB_COMPLETION_INDEX", "")
        if not index.isdigit() or int(index) >= shards:
            raise ValueError(f"--engine job needs JOB_COMPLETION_INDEX below --shards {shards}, not {index!r}")
        return launch_pod(options, int(index), shards, progress)
    if shards > 1 or engine is Engine.RAY:
        from evals.shards import launch_shards

        return launch_shards(options, shards, ray_address if engine is Engine.RAY else None, progress)
    from evals.launch import launch

    return launch(options, progress)


@app.command()
def compare(
    evidence: Annotated[list[Path], typer.Argument(help="evidence.json of a run, or of all its shards.")],
    labels: Labels = None,
    out: Annotated[Path | None, typer.Option(help="Write the joined report into this folder.")] = None,
    machine: Machine = False,
) -> None:
    """Decide again from stored scores, with new labels or from the shards of one run; asks no model."""
    from evals.calibrate import load_labels
    from evals.evidence import load_evidence, merge, require_whole
    from evals.launch import write_report
    from evals.report import build_report, sign

    key = _signing_key()
    with broken_is_3():
        joined = merge([load_evidence(path) for path in evidence])
        require_whole(joined)
        report = build_report(joined, load_labels(labels) if labels else None)
        report = sign(report, key) if key else report
        if out is not None:
            write_report(report, out)
    finish(report, Format.JSON if machine else Format.TERMINAL)


@app.command()
def report(
    file: ReportFile,
    form: Annotated[Format, typer.Option("--format", help="How to show it.")] = Format.TERMINAL,
) -> None:
    """Show a stored report. Exits with 0 whatever its verdict; `gate` exits with the verdict."""
    from evals.report import load_report

    with broken_is_3():
        found = load_report(file)
    show(found, form)


@gate_app.callback()
@app.command()
def gate(
    file: ReportFile,
    suite: Annotated[
        str | None, typer.Option(help="Refuse a report of another suite, or of this one before it was changed.")
    ] = None,
    candidate: Annotated[str | None, typer.Option(help="Refuse a report about another target; needs --suite.")] = None,
    machine: Machine = False,
) -> None:
    """Verify a report (digests, numbers, verdict, and the signature if CALLGATE_EVAL_KEY is set); exit with its
    verdict.
    """
    from evals.report import load_report, require_about, verify
    from evals.suite import find_suite, load_suite

    key = _signing_key()
    with broken_is_3():
        if (suite is None) != (candidate is None):
            raise ValueError("--suite and --candidate go together: they say what the report has to be about")
        found = load_report(file)
        verify(found, key)
        if suite is not None and candidate is not None:
            require_about(found.evidence, load_suite(find_suite(suite)), candidate)
    verdict, reasons = found.gate.verdict.value, list(found.gate.reasons)
    if machine:
        print_json({"verdict": verdict, "reasons": reasons, "report": found.digest})
    else:
        typer.echo("\n  ".join([verdict, *reasons]))
    about = found.evidence
    typer.echo(
        f"{about.suite} {about.suite_version}: {about.candidate.name} (version {about.candidate.version}) against {about.baseline.name}",
        err=True,
    )
    if key is None:
        typer.echo("the signature was not checked: CALLGATE_EVAL_KEY is not set", err=True)
    raise typer.Exit(exit_code(verdict))


@app.command()
def plan(
    margin: Annotated[float, typer.Option(help="How much worse is acceptable, as a share.")] = 0.05,
    difference: Annotated[float, typer.Option(help="The true difference you hope for.")] = 0.0,
    discordance: Annotated[float, typer.Option(help="Share of cases on which the two differ.")] = 0.2,
    alpha: Annotated[float, typer.Option(help="Accepted chance of a false promotion.")] = 0.05,
    power: Annotated[float, typer.Option(help="Wanted chance to promote.")] = 0.8,
    cases: Annotated[float, typer.Option(help="Cases a conversation.")] = 1.0,
    icc: Annotated[float, typer.Option(help="Correlation of the cases of a conversation.")] = 0.0,
    labelled: Annotated[float, typer.Option(help="Share of the cases that people label; 1 for checks.")] = 1.0,
    judge_correlation: Annotated[float, typer.Option(help="Of judged and human differences; 1 for checks.")] = 1.0,
    conversations: Annotated[int | None, typer.Option(min=2, help="What would this many show?")] = None,
    machine: Machine = False,
) -> None:
    """How many conversations decide, or what a given number of them can show.

    For 'better' instead of 'not worse' give --margin 0 and the --difference you hope for. Example, four cases a conversation of which people
    label a third: callgate eval plan --margin 0.05 --cases 4 --icc 0.2 --labelled 0.33 --judge-correlation 0.7
    """
    from evals.statistics.planning import Design, conversations_needed, detectable_difference

    with broken_is_3():
        design = Design(discordance, alpha, power, cases, icc, labelled, judge_correlation)
        needed = conversations_needed(design, margin=margin, difference=difference)
        detectable = detectable_difference(design, conversations) if conversations else None
    if machine:
        print_json({"conversations_needed": needed, "detectable_difference": detectable})
        return
    claim = f"not worse by {margin:g}" if margin else "better"
    if needed is None:
        typer.echo(f"no number of conversations shows '{claim}' where the true difference is {difference:+g}")
    else:
        typer.echo(
            f"{needed} conversations show '{claim}' in {power:.0%} of the cases where the true difference is {difference:+g}"
        )
    if conversations and detectable is None:
        typer.echo(f"{conversations} conversations show nothing, however large the difference")
    elif conversations and detectable is not None:
        typer.echo(
            f"{conversations} conversations show it where the true difference is at least {detectable - margin:+.3f}"
        )


@app.command()
def simulate(
    releases: Annotated[int, typer.Option(min=1, help="Simulated releases a world.")] = 10_000,
    margin: Annotated[float, typer.Option(min=0.001, max=0.2, help="A bad release is worse by exactly this.")] = 0.05,
    alpha: Annotated[float, typer.Option(min=0.001, max=0.49, help="Accepted chance of a false promotion.")] = 0.05,
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Write power curves into this SVG file too.")] = None,
    machine: Machine = False,
) -> None:
    """False promotions of naive gates and of ours, on releases whose truth is known. Exits with 1 if ours exceeds
    alpha.
    """
    import msgspec

    from evals.simulate import power_curve
    from evals.simulate import simulate as play

    tallies = []
    for tally in play(releases, margin=margin, alpha=alpha, seed=seed):
        tallies.append(tally)
        if not machine:
            shown = tally.promoted
            typer.echo(
                f"{tally.world:32} {tally.method:20} promoted {shown.estimate:7.2%} [{shown.low:6.2%}, {shown.high:6.2%}]  "
                f"rejected {tally.rejected / tally.releases:7.2%}  looked at {tally.mean_share_used:4.0%}"
            )
    if machine:
        print_json(msgspec.to_builtins(tallies))
    if plot is not None:
        differences = [round(-3 * margin + margin * step / 4, 6) for step in range(21)]
        power = list(power_curve(differences, max(200, releases // 5), margin=margin, alpha=alpha, seed=seed))
        with broken_is_3():
            plot.write_text(_power_plot(power, margin), encoding="utf-8")
    raise typer.Exit(int(any(t.bad and t.method == "ours" and t.promoted.low > alpha for t in tallies)))


def _power_plot(power: list[Tally], margin: float) -> str:
    from evals.plots import curves

    series: dict[str, list[tuple[float, float]]] = {}
    for tally in power:
        series.setdefault(tally.method, []).append((tally.difference, tally.promoted.estimate))
    title = f"Share of releases promoted by their true difference ({power[0].world})"
    limits = [("margin", -margin), ("equal", 0.0)]
    return curves(series, title=title, across="true difference, candidate minus baseline", limits=limits)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A public set: BEGIN, HaluEval, LLMBar, SGD, ABCD, DSTC10, XQuAD ...")],
    out: Annotated[Path, typer.Option(help="JSONL to write.")],
    labels: Annotated[str | None, typer.Option(help="Labelled answers for this metric, not cases.")] = None,
    part: Annotated[
        Literal["train", "validation"] | None, typer.Option(help="Only one part of the frozen split.")
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="No more than so many.")] = None,
) -> None:
    """Turn a public set into cases for a suite, or into labelled answers that lock its judges (anchors)."""
    from evals.shapes import import_cases, import_labels

    with broken_is_3():
        if labels is None:
            typer.echo(import_cases(source, out, part=part, most=most))
        else:
            typer.echo(import_labels(source, out, labels, part=part, most=most))


@app.command()
def suites(machine: Machine = False) -> None:
    """The shipped suites: how many cases, which targets and which metrics decide. Write your own beside them: CARD.md tells how each is meant."""
    from evals.suite import find_suite, load_suite, shipped_suites

    with broken_is_3():
        found = {name: load_suite(find_suite(name)) for name in shipped_suites()}
    if machine:
        print_json(
            {
                name: {
                    "cases": len(suite.dataset.samples),
                    "targets": list(suite.model.targets),
                    "decides": [metric.name for metric in suite.model.metrics if metric.decides],
                    "folder": str(find_suite(name)),
                }
                for name, suite in found.items()
            }
        )
    for name, suite in () if machine else found.items():
        targets, deciding = ", ".join(suite.model.targets), ", ".join(m.name for m in suite.model.metrics if m.decides)
        typer.echo(f"{name:20} {len(suite.dataset.samples):3} cases; targets {targets}; decided by {deciding}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of suite.yaml."""
    from evals.suite import json_schema

    print_json(json_schema())


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        typer.echo(f"error: --shard is i/n with 1 <= i <= n, for instance 2/4, not {text!r}", err=True)
        raise typer.Exit(EXIT_BROKEN)
    return int(index) - 1, int(count)


def _signing_key() -> bytes | None:
    """None where there is none. One that is set and too short is a secret that did not arrive, and must not turn the check off."""
    text = os.environ.get("CALLGATE_EVAL_KEY")
    if text is not None and len(text.encode()) < 16:
        typer.echo("error: CALLGATE_EVAL_KEY is set and has fewer than 16 bytes; unset it to do without", err=True)
        raise typer.Exit(EXIT_BROKEN)
    return text.encode() if text else None
