"""``vlmadapt compare``: the few-shot protocol on one data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.options import DataArgument, NoPictures, NoReport, command
from vlmadapt.experiments.options import CompareOptions

if TYPE_CHECKING:
    from vlmadapt.data import Dataset
    from vlmadapt.experiments.results import ProtocolResults


@command(CompareOptions)
def compare(
    data: DataArgument, *, options: CompareOptions, no_report: NoReport = False, no_pictures: NoPictures = False
) -> None:
    """Compare adapters over shots and seeds: a table, curves, report.html, results.json and results.csv.

    All methods see the same sampled pictures; choices are made on validation pictures; the test split is read once,
    at the end. Interrupted, the same command goes on where it stopped.
    """
    from vlmadapt.experiments import front, sources
    from vlmadapt.experiments.folders import places_of, refuse_inside
    from vlmadapt.provenance.place import hold

    options = sources.with_domains(data, options)
    dataset = sources.open_dataset(data, options)
    folder = options.out or Path("runs") / f"compare-{dataset.name}"
    options = replace(options, report=note, out=folder)
    refuse_inside(data, places_of(options))
    with hold(folder):
        results = front.compare.with_options(dataset, options=options)
        tested = sources.open_protocol(dataset, options).tests(dataset)[0].dataset
        report_comparison(results, folder, None if no_report else tested, pictures=not no_pictures)


def report_comparison(results: ProtocolResults, folder: Path, tested: Dataset | None, pictures: bool = True) -> None:
    """Write the curve, the tables and, where ``tested`` is given, the report of these data beside the results that lie
    in ``folder``, and print the tables."""
    from vlmadapt.experiments.folders import CALIBRATION, COMPARED, REPORT
    from vlmadapt.files import write_text
    from vlmadapt.reporting.curves import draw_curves
    from vlmadapt.reporting.reliability import draw_reliability
    from vlmadapt.reporting.report.compare import compare_report
    from vlmadapt.reporting.table import gains_table, protocol_table, show, to_markdown
    from vlmadapt.reporting.transfer import transfer_table

    several = results.test_sets != (None,)
    tables = [transfer_table(results)] if several else [protocol_table(results), gains_table(results)]
    tables = [table for table in tables if table]
    write_text(folder / "table.md", "\n\n".join(map(to_markdown, tables)) + "\n")
    curve = draw_curves(results, folder / "curve.png")
    reliability = draw_reliability(results, folder / CALIBRATION)
    report = None if tested is None else compare_report(results, tested, pictures).write(folder / REPORT)
    for number, table in enumerate(tables):
        if number:
            say("")
        show(table, output())
    say(f"curve: {curve}" + (f", calibration: {reliability}" if reliability else ""))
    if report is not None:
        say(f"report: {report}", "green")
    say(f"results: {', '.join(str(folder / name) for name in COMPARED if (folder / name).exists())}")
