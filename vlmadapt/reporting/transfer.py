"""The table of a comparison that was tested on several sets: a row a method and number of shots, a column a set."""

from __future__ import annotations

import statistics

from vlmadapt.experiments.protocols import BaseToNew
from vlmadapt.experiments.results import ProtocolResults, Summary
from vlmadapt.provenance.intervals import NAME
from vlmadapt.provenance.means import mean_and_deviation, percent
from vlmadapt.reporting.table import ONE_DRAW, Table, draw_notes, figure, protocol_notes

STOOD_IN = "*"  # behind an accuracy that another method gave


def transfer_table(results: ProtocolResults) -> Table:
    """Test accuracy in per cent on each test set, and over them: the harmonic mean of base and new, or the mean of
    all others than the first."""
    places = [name for name in results.test_sets if name is not None]
    last = "harmonic mean" if results.protocol_name == BaseToNew.name else "mean of the others"
    rows = [
        [
            method,
            str(shots),
            *(_marked(results.of(method, shots, tested_on=place)) for place in places),
            _over(results, method, shots),
        ]
        for method in results.methods
        for shots in results.shots
    ]
    sizes = [f"{place}: {results.pictures(place):,}" for place in places]
    return Table(
        title=f"{results.dataset['name']}, protocol {results.protocol_name}, encoder {results.encoder['name']}: test "
        "accuracy in %",
        header=["method", "shots", *places, last],
        rows=rows,
        notes=[
            *protocol_notes(results),
            f"[low, high]: of the test pictures ({NAME}), {', '.join(sizes)}.",
            *_stood_in(results),
            *draw_notes(results),
        ],
        divisible=True,
    )


def _marked(summary: Summary) -> str:
    return figure(summary) if summary.answered_by is None else f"{figure(summary)}{STOOD_IN}"


def _stood_in(results: ProtocolResults) -> list[str]:
    names = dict.fromkeys(cell.answered_by for cell in results.cells if cell.answered_by is not None)
    return [
        f"{STOOD_IN}: what the method learned is bound to the classes it was fitted on; {name} answered."
        for name in names
    ]


def _over(results: ProtocolResults, method: str, shots: int) -> str:
    """Mean and deviation over the seeds of what is taken over the test sets of one seed."""
    by_place = {place: results.cells_of(method, shots, place) for place in results.test_sets}
    accuracies = [{cell.seed: cell.accuracy for cell in cells} for cells in by_place.values()]
    if results.protocol_name == BaseToNew.name:
        values = [statistics.harmonic_mean([each[seed] for each in accuracies]) for seed in accuracies[0]]
    else:
        values = [statistics.fmean(each[seed] for each in accuracies[1:]) for seed in accuracies[0]]
    if all(results.of(method, shots, tested_on=place).one_draw for place in by_place):
        return f"{percent(values[0], None)} {ONE_DRAW}"
    return percent(*mean_and_deviation(values))
