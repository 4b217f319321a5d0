"""``vlmadapt eval``: a saved classifier on labelled pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.options import NoPictures, NoReport, RunArgument, command
from vlmadapt.experiments.options import EvaluateOptions

if TYPE_CHECKING:
    from vlmadapt.experiments.evaluation import Evaluation
    from vlmadapt.reporting.report.page import Report

HARDEST, MISTAKES = 3, 3  # of each so many are printed; the files have all


@command(EvaluateOptions)
def evaluate(
    run: RunArgument,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[DATA]",
            help="Other pictures of its classes or of some of them, in class folders, below folders of domains, or in "
            "a list.",
            show_default="what it was fitted on",
        ),
    ] = None,
    *,
    options: EvaluateOptions,
    no_report: NoReport = False,
    no_pictures: NoPictures = False,
) -> None:
    """Measure a saved classifier on labelled pictures: accuracy, macro-F1, calibration, every prediction and mistake.

    Data without splits are evaluated whole, unless the classifier was fitted on some of them; else the test split is.
    """
    from vlmadapt.classifier import read_run
    from vlmadapt.experiments import front
    from vlmadapt.experiments.tested import test_data
    from vlmadapt.reporting.report.evaluation import evaluation_report

    tested = test_data(read_run(run), data, options)
    folder = options.out or run / f"eval-{tested.dataset.name}"
    found = front.evaluate.with_options(run, tested, options=replace(options, report=note, out=folder))
    report = None if no_report else evaluation_report(found, run, pictures=not no_pictures)
    report_evaluation(found, folder, report)


def report_evaluation(found: Evaluation, folder: Path, report: Report | None) -> None:
    """Draw into ``folder``, where the files of ``found`` lie, write ``report`` there, and print the tables."""
    from vlmadapt.atomic import remove_file
    from vlmadapt.experiments.folders import BY_DOMAIN, CALIBRATION, CONFUSION, EVALUATED, REPORT
    from vlmadapt.reporting.confusion import draw_confusion
    from vlmadapt.reporting.evaluation import domain_table, hardest, measures_table, worst_mistakes
    from vlmadapt.reporting.reliability import draw_reliability
    from vlmadapt.reporting.table import protocol_table, show

    draw_reliability(found.results, folder / CALIBRATION)
    draw_confusion(found, folder / CONFUSION)
    if report is None:
        remove_file(folder / REPORT)  # of an evaluation that this one replaces
    else:
        report.write(folder / REPORT)
    show(protocol_table(found.results), output())
    say("")
    show(measures_table(found), output())
    if found.by_domain:
        say("")
        show(domain_table(found), output())
    for line in (hardest(found, HARDEST), *worst_mistakes(found, MISTAKES)):
        say(line)
    tables = (*EVALUATED, *[BY_DOMAIN] * bool(found.by_domain))
    say(f"written in {folder}: {', '.join((*tables, CALIBRATION, CONFUSION))}")
    if report is not None:
        say(f"report: {folder / REPORT}", "green")
