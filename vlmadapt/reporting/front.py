"""``vlmadapt.report``: results of any kind as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmadapt.data import Dataset
from vlmadapt.errors import InputError
from vlmadapt.experiments.evaluation import Evaluation
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.generative.results import TuningResults
from vlmadapt.reporting.report.compare import compare_report
from vlmadapt.reporting.report.evaluation import evaluation_report
from vlmadapt.reporting.report.tuning import tuning_report


def report(
    results: ProtocolResults | Evaluation | TuningResults,
    path: str | Path,
    *,
    data: Dataset | Sequence[Any] | None = None,
    run: str | Path | None = None,
    predictions: Mapping[str, Mapping[str, str]] | None = None,
    pictures: bool = True,
) -> Path:
    """Write what ``compare``, ``evaluate`` or ``generative.tune`` returned as one page to ``path``, and return that.

    data: the data set that was compared on, or the test records of tuning, whose pictures are shown. run: the folder of
        the classifier that was evaluated, for its support pictures and its graph. predictions: method -> record id ->
        text, of tuning. pictures: whether small copies of pictures are in it.
    Raises :class:`InputError` for results of another kind, or a ``path`` without .html; :class:`FileError` where it
    cannot be written.
    """
    if Path(path).suffix.lower() != ".html":
        raise InputError(f"path is {str(path)!r}: name a .html file.")
    if isinstance(results, Evaluation):
        return evaluation_report(results, run, pictures).write(path)
    if isinstance(results, TuningResults):
        records = () if data is None or isinstance(data, Dataset) else data
        return tuning_report(results, records, predictions, pictures).write(path)
    if isinstance(results, ProtocolResults):
        return compare_report(results, data if isinstance(data, Dataset) else None, pictures).write(path)
    raise InputError(f"results is a {type(results).__name__}: give what compare, evaluate or generative.tune returned.")
