"""``vlmadapt tune``: adapt a generative model to captioning, question answering or visual entailment."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.options import NoPictures, NoReport, command
from vlmadapt.generative.options import TuneOptions

if TYPE_CHECKING:
    from vlmadapt.generative.data.records import RecordSet
    from vlmadapt.generative.results import TuningResults

SHOWN = 8


@command(TuneOptions)
def tune(*, options: TuneOptions, no_report: NoReport = False, no_pictures: NoPictures = False) -> None:
    """Adapt a generative model by one or more methods: a table, a picture, report.html, results.json and results.csv.

    All methods train on the same records in the same loop; the epoch is chosen on validation records; the test split is
    read once, at the end. Interrupted, the same command goes on where it stopped. The adapters stay in OUT/fits.
    """
    from vlmadapt.generative import front

    finish = functools.partial(report_tuning, report=not no_report, pictures=not no_pictures)
    front.tune.with_options(replace(options, report=note, progress=True, finish=finish))


def report_tuning(
    results: TuningResults, records: RecordSet, folder: Path, report: bool = True, pictures: bool = True
) -> None:
    """Write the table, the picture and the report beside the results that lie in ``folder``, and print the table."""
    from vlmadapt.files import write_text
    from vlmadapt.generative.front import REPORT
    from vlmadapt.generative.tuning import predictions_of
    from vlmadapt.reporting.report.tuning import tuning_report
    from vlmadapt.reporting.said_picture import choose_records, describe_records, draw_said
    from vlmadapt.reporting.table import show, to_markdown
    from vlmadapt.reporting.tuning_table import tuning_table

    table = tuning_table(results)
    write_text(folder / "table.md", to_markdown(table) + "\n")
    seed = results.protocol["seeds"][0]
    predictions = {label: predictions_of(folder, label, seed) for label in results.methods}
    chosen = choose_records(records.test, predictions, SHOWN)
    subtitle = "Test records" + (", those on which the methods disagree first" if len(predictions) > 1 else "")
    title = f"{records.name}, {records.task}: what each method says (seed {seed})"
    picture = draw_said(describe_records(chosen, predictions), title, subtitle, folder / "said.png")
    page = tuning_report(results, records.test, predictions, pictures).write(folder / REPORT) if report else None
    show(table, output())
    say(f"picture: {picture}")
    if page is not None:
        say(f"report: {page}", "green")
    say(f"results: {folder / 'results.json'}, {folder / 'results.csv'}")
    say(f"adapters: {folder / 'fits'}")
