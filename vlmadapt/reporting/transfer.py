"""The table of a comparison that was tested on several sets: a row a method and number of shots, a column a set."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.experiments.paired import NAME as BOOTSTRAP
from vlmadapt.experiments.protocols import BaseToNew
from vlmadapt.experiments.results import ProtocolResults, Summary
from vlmadapt.provenance.bootstrap import interval_of
from vlmadapt.provenance.intervals import NAME
from vlmadapt.provenance.means import mean_and_deviation, percent
from vlmadapt.reporting.table import ONE_DRAW, Table, draw_notes, figure, protocol_notes, validation_notes

TINY = 1e-12  # the harmonic mean with an accuracy of nothing is nothing
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
            f"[low, high]: of the test pictures ({NAME}), {', '.join(sizes)}; of the {last}: {BOOTSTRAP}.",
            *_stood_in(results),
            *validation_notes(results),
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
    """Mean and deviation over the seeds of what is taken over the test sets of one seed, and its interval."""
    by_seed: dict[int, list[float]] = {}
    for place in results.test_sets:
        for cell in results.cells_of(method, shots, place):
            by_seed.setdefault(cell.seed, []).append(cell.accuracy)
    values = [float(_mean(results, torch.tensor(each, dtype=torch.float64))) for each in by_seed.values()]
    summaries = [results.of(method, shots, tested_on=place) for place in results.test_sets]
    of_mean = summaries if results.protocol_name == BaseToNew.name else summaries[1:]
    same = all(summary.one_draw for summary in of_mean)
    spread = f"{percent(values[0], None)} {ONE_DRAW}" if same else percent(*mean_and_deviation(values))
    draws = [each[method] for each in (results.draws(shots, place) for place in results.test_sets) if each is not None]
    known = f"{spread} {interval_of(_mean(results, torch.stack(draws)))}" if len(draws) == len(summaries) else spread
    return known + STOOD_IN * any(summary.answered_by is not None for summary in summaries)


def _mean(results: ProtocolResults, accuracies: Tensor) -> Tensor:
    """Over the test sets, which are the first dimension: harmonic of base and new, else of all but the first."""
    if results.protocol_name == BaseToNew.name:
        return len(accuracies) / (1 / accuracies.clamp(min=TINY)).sum(0)
    return accuracies[1:].mean(0)
