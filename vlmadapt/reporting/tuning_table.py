"""Tables of tuned generative models."""

from __future__ import annotations

from pathlib import Path

from vlmadapt.generative.comparison import REDUCTIONS, RESIZED, place, resized
from vlmadapt.generative.results import TITLES, TuningResults
from vlmadapt.provenance.intervals import wilson
from vlmadapt.provenance.means import best_places, mean_and_deviation, measures_of, over_seeds, percent
from vlmadapt.reporting.table import Table

PRIOR = "answer prior"


def tuning_table(results: TuningResults) -> Table:
    """Test measures, trained parameters, seconds a step and peak memory: one row a method."""
    measures = measures_of(results.cells)
    counts = results.data["records"]
    rated = results.metric == "accuracy"  # of which an interval can be told from the number of records alone
    rows = []
    for method in results.methods:
        cells = results.of(method)
        steps = [cell.seconds_per_step for cell in cells if cell.seconds_per_step is not None]
        seconds = [cell.fit_seconds for cell in cells]
        rows.append(
            [
                method,
                *(percent(*results.mean(method, measure)) for measure in measures),
                *([str(wilson(results.mean(method, "accuracy")[0], counts["test"]))] if rated else []),
                f"{cells[0].trainable_parameters:,}",
                f"{mean_and_deviation(steps)[0]:.3f}" if steps else "-",
                f"{mean_and_deviation(seconds)[0]:.1f}" if steps else "-",
                f"{max(cell.peak_memory_mib for cell in cells):,.0f}" if steps else "-",
            ]
        )
    if results.prior:
        interval = [str(wilson(results.prior["accuracy"], counts["test"]))] if rated else []
        shares = [percent(results.prior[measure], None) for measure in measures]
        rows.append([PRIOR, *shares, *interval, "0", "-", "-", "-"])
    titles = [TITLES.get(measure, measure) for measure in measures]
    unit = "in %" if rated else "x 100"
    return Table(
        title=f"{results.data['name']}, {results.task}, model {results.model['name']}: test {titles[0]} {unit}",
        header=["method", *titles, *(["95 %"] if rated else []), "trained", "s a step", "fit s", "peak MiB"],
        rows=rows,
        notes=[
            f"{counts['train']:,} training, {counts['val']:,} validation and {counts['test']:,} test records; "
            f"{over_seeds(results.protocol['seeds'])}.",
            results.protocol["selection"],
            *(["95 %: Wilson, over test records."] if rated else []),
            *([f"{PRIOR}: what is right most often in training, by type of question."] if results.prior else []),
        ],
        bold=best_places([results.mean(method, measure)[0] for method in results.methods] for measure in measures),
    )


def kinds_table(results: TuningResults) -> str:
    """Markdown: the main measure by type of question in per cent, mean over the seeds."""
    kinds = list(results.cells[0].by_kind)
    lines = [f"| method | {' | '.join(kinds)} |", f"|:---|{'---:|' * len(kinds)}"]
    for method in results.methods:
        cells = results.of(method)
        means = [mean_and_deviation([cell.by_kind[kind] for cell in cells])[0] for kind in kinds]
        lines.append(f"| {method} | {' | '.join(percent(mean, None) for mean in means)} |")
    if results.prior_by_kind:
        shares = [percent(results.prior_by_kind[kind], None) for kind in kinds]
        lines.append(f"| {PRIOR} | {' | '.join(shares)} |")
    return "\n".join(lines)


def sizes_table(root: Path) -> Table:
    """Accuracy in per cent by size, one row a method; runs below ``root``, the folder of the task."""

    def results(label: str) -> TuningResults:
        return TuningResults.load(place(root, label))

    whole = results("full").cells[0].trainable_parameters
    rows, means = [], []
    for method in RESIZED:
        found = [(results(label), label) for label in (resized(method, reduction) for reduction in REDUCTIONS)]
        means.append([each.mean(label, each.metric)[0] for each, label in found])
        rows.append([method, *(percent(*each.mean(label, each.metric)) for each, label in found)])
    shares = [
        results(label).cells[0].trainable_parameters / whole
        for label in (resized("p-adapter", reduction) for reduction in REDUCTIONS)
    ]
    return Table(
        title="Held-out questions by size: test accuracy in %",
        header=["method", *(f"{100 * share:.1f} % trained" for share in shares)],
        rows=rows,
        notes=[
            "Shares of the model's parameters are the p-adapter's; each method at the rate found at the default size."
        ],
        bold=best_places(zip(*means, strict=True)),
    )
