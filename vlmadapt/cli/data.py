"""``vlmadapt data``: look at data before fitting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from vlmadapt.cli.console import fail, say
from vlmadapt.cli.options import DataArgument, command
from vlmadapt.experiments.options import CheckOptions

commands = typer.Typer(name="data", help="Look at data sets.", no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """Look at data sets."""


@commands.command()
@command(CheckOptions)
def check(data: DataArgument, options: CheckOptions) -> None:
    """Read every picture of a data set and say what is wrong: missing, unreadable, twice, left out.

    A .jsonl file may also hold captions, questions or hypotheses for vlmadapt tune: then every line of it is checked.

    Exit code 0 when nothing is, 1 otherwise.
    """
    from vlmadapt.experiments.folders import refuse_inside
    from vlmadapt.experiments.outliers import check as checked
    from vlmadapt.generative.data.own import check_own, is_own, task_of

    report: Any
    if is_own(data) and Path(data).is_file() and task_of(data) is not None:
        report = check_own(data)
    else:
        refuse_inside(data, {"--cache": options.cache})
        report = checked(data, options)
    *findings, verdict = report.lines()
    for line in findings:
        say(line)
    if report.ok:
        say(verdict, "green")
    else:
        fail(verdict)
        raise typer.Exit(1)


@commands.command("list")
def list_sets() -> None:
    """List the built-in data sets, what the missing ones need, and the benchmarks that can be read from disk."""
    from vlmadapt.cli.console import output
    from vlmadapt.data import BENCHMARKS, builtin_status
    from vlmadapt.reporting.table import Table, show

    rows = [[status.name, "ready" if status.available else status.fix] for status in builtin_status()]
    rows += [[name, f"needs --root, the folder that holds {one.folder}/"] for name, one in BENCHMARKS.items()]
    show(Table("Data sets", ["name", "state"], rows, left=frozenset({0, 1})), output())
