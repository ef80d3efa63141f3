"""`callgate leak-audit`: reads arguments, shows progress, prints the table of zeros or what is not zero. The audit itself is gateway/audit/run.py."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway import settings as configuration
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from gateway.audit.run import Report

_TABLE_COLUMNS = 120  # where there are fewer, a wide table is better than cut names
HELP = """Plant values that look like personal data in a gateway with your policies, and look for them wherever they must not be.

It starts a gateway of its own from callgate.yaml (your policies, knowledge bases, rails and fraud settings; its own Redis, and in place of your
models a server that keeps all it is sent), sends it fresh values of every kind by every route, whole and streamed, in messages, tool calls, file
names, participants, headers and mistakes, before backends that answer, fail, hang and hang up; then it searches what models and judges were
sent, spans, logs, metrics, Redis, recordings, files, errors, and answers to other callers. Nothing real is sent anywhere.

Reading the table: a row a kind, a column a place, a number the ways by which values came there. It never shows a value. A place whose
control (harmless words sent along) did not arrive there, or a kind that no request carried through, is told: its zeros prove nothing.

Exit codes: 0 nothing leaked; 1 something did, or the stand did not start; 2 nothing was found, but not all of it is proven; 3 used wrongly.

Examples: callgate leak-audit; callgate leak-audit --kind CREDIT_CARD --json; callgate leak-audit --policy call-centre --seed 7
"""


def leak_audit(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.", envvar="CALLGATE_CONFIG")] = Path(
        "callgate.yaml"
    ),
    policy: Annotated[
        list[str] | None, typer.Option(help="Only models of this policy; repeat for more. None given: all.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind, e.g. CREDIT_CARD; repeat for more. None given: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the values; the same seed plants the same ones.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder for what the gateway leaves; else it is deleted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")] = False,
) -> None:
    from gateway.audit.honeytokens import KINDS
    from gateway.audit.run import as_json as described
    from gateway.audit.run import audit
    from gateway.audit.stand import targets_of
    from gateway.children import PartFailedError
    from gateway.parts import PartMissingError

    if strange := sorted(set(kind or ()) - {known.name for known in KINDS}):
        _fail(f"no such kind: {', '.join(strange)}; there are {', '.join(sorted({known.name for known in KINDS}))}")
    try:
        settings = configuration.load(config)
        targets = [target for target in targets_of(settings) if not policy or target.policy in policy]
    except SettingsError as error:
        _fail(str(error))
    if not targets:
        _fail("no model of these settings has such a policy, so nothing is promised of it; see callgate check")
    if keep is not None and keep.exists():
        _fail(f"{keep} is there already; name a folder that is not")
    try:
        with _folder(keep) as folder:
            report = asyncio.run(
                audit(settings, targets, folder, seed=seed, kinds=kind or (), tell=_teller(quiet=as_json))
            )
    except (PartFailedError, PartMissingError) as error:
        _fail(str(error), 1)
    if as_json:
        print(json.dumps(described(report), indent=2))
    else:
        unguarded = [model.name for model in settings.models if model.policy is None]
        _render(report, unguarded)
    raise typer.Exit(report.exit_code)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder of the stand: the one named, or one that goes away."""
    if keep is not None:
        keep.mkdir(parents=True, mode=0o700)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="callgate-audit-") as made:
        yield Path(made)


def _teller(*, quiet: bool) -> Callable[[str, int, int], None]:
    """Progress on standard error: one line that moves on a terminal, else a line a step."""
    moving = sys.stderr.isatty()

    def tell(what: str, done: int, of: int) -> None:
        if moving:
            print(f"\r\033[K  {done + 1}/{of}  {what}", end="", file=sys.stderr, flush=True)
        elif not quiet:
            print(f"  {done + 1}/{of}  {what}", file=sys.stderr, flush=True)

    return tell


def _render(report: Report, unguarded: list[str]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from gateway.audit.run import PLACES, as_json

    console = Console(soft_wrap=True, highlight=False)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    title = "Ways by which values came where they must not be"
    table = Table("kind", "planted", *PLACES, title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for kind, row in as_json(report)["table"].items():
        cells = [str(row[place]) if row[place] == 0 else f"[bold red]{row[place]}[/]" for place in PLACES]
        table.add_row(kind, str(report.planted[kind]), *cells)
    Console(highlight=False, width=max(console.width, _TABLE_COLUMNS)).print(table)
    for leak in report.leaks:
        console.print(
            f"LEAK  {leak.kind} ({leak.form}) by '{leak.probe}' in {leak.place}: {PLACES[leak.place]}", markup=False
        )
    for why in report.unproven:
        console.print(f"NOT PROVEN  {why}", markup=False)
    if unguarded:
        console.print(f"Not audited, since they have no policy: {', '.join(unguarded)}", markup=False)
    restored = f"{report.restored} of {report.restorable} values came back to their caller"
    verdict = {0: "Nothing leaked.", 1: "Personal data leaked.", 2: "Nothing was found, but not all of it is proven."}
    console.print(
        f"{verdict[report.exit_code]} {report.requests} requests, seed {report.seed}; {restored}.", markup=False
    )


def _fail(message: str, code: int = 3) -> NoReturn:
    print(f"callgate leak-audit: {message}", file=sys.stderr)
    raise typer.Exit(code)
