"""The report of tuned generative models."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from vlmadapt.generative.data.records import Record
from vlmadapt.generative.results import TITLES, TuningResults
from vlmadapt.provenance.intervals import NAME, wilson
from vlmadapt.provenance.means import mean_and_deviation, measures_of, over_seeds, percent
from vlmadapt.reporting.report.charts import Chart, Figure, dots, heat_map, width_of
from vlmadapt.reporting.report.costs import Cost, cost_section
from vlmadapt.reporting.report.gallery import MOST_CARDS, Album, Card, facet_of, gallery_html
from vlmadapt.reporting.report.html import paragraphs, text
from vlmadapt.reporting.report.page import Report, Section
from vlmadapt.reporting.report.settings import plain, settings_section
from vlmadapt.reporting.said_picture import Said, choose_records, describe_records
from vlmadapt.reporting.table import Table
from vlmadapt.reporting.tuning_table import PRIOR, tuning_table

SCALE = ((0.0, "@zero"), (1.0, "@s1"))


def tuning_report(
    results: TuningResults,
    tested: Sequence[Record] = (),
    predictions: Mapping[str, Mapping[str, str]] | None = None,
    pictures: bool = True,
) -> Report:
    """What ``results`` hold as one page.

    tested: test records that may be shown. predictions: method -> record id -> text, of the first seed. pictures:
    whether small copies of the records' pictures are shown.
    """
    album = Album(pictures)
    title = TITLES.get(results.metric, results.metric)
    sections = [_measures(results)]
    kinds = _kinds(results)
    sections += [kinds] if kinds else []
    sections.append(cost_section(_costs(results), _unit(results, title), f"{over_seeds(results.protocol['seeds'])}."))
    if tested and predictions:
        sections.append(_gallery(results, tested, predictions, album))
    sections.append(_settings(results))
    best = max(results.methods, key=lambda method: results.mean(method, results.metric)[0])
    counts = results.data["records"]
    figures = [
        (f"highest {_unit(results, title)}", percent(*results.mean(best, results.metric)), best),
        ("methods", str(len(results.methods)), over_seeds(results.protocol["seeds"])),
        ("test records", f"{counts['test']:,}", f"{counts['train']:,} to train on, {counts['val']:,} to choose by"),
    ]
    lead = f"{results.task} with the model {results.model['name']}: {len(results.methods)} methods of adapting it."
    return Report(f"Tuned on {results.data['name']}", lead, figures, sections, album)


def _unit(results: TuningResults, title: str) -> str:
    return f"{title}, %" if results.metric == "accuracy" else f"{title} x 100"


def _costs(results: TuningResults) -> list[Cost]:
    found = []
    for method in results.methods:
        cells = results.of(method)
        found.append(
            Cost(
                method,
                100 * results.mean(method, results.metric)[0],
                cells[0].trainable_parameters,
                statistics.fmean(cell.fit_seconds for cell in cells),
                max(cell.peak_memory_mib for cell in cells),
            )
        )
    return found


def _measures(results: TuningResults) -> Section:
    names = measures_of(results.cells)
    number = results.data["records"]["test"]
    figures = {TITLES.get(name, name): _dots(results, name, number) for name in names}
    several = len(results.protocol["seeds"]) > 1
    lines = (
        "one sample deviation over the seeds, none where nothing is trained"
        if several
        else f"of accuracies the interval of the records, {NAME}"
    )
    best = max(results.methods, key=lambda method: results.mean(method, names[0])[0])
    chart = Chart(
        "measures",
        f"Points of the test {TITLES.get(names[0], names[0])} of each method, the highest on top: {best}.",
        figures,
        tuning_table(results),
        f"Lines: {lines}.",
        "measure",
    )
    return Section("Measures", "Test measures", "", [chart])


def _dots(results: TuningResults, name: str, number: int) -> Figure:
    means = {method: results.mean(method, name) for method in results.methods}
    order = sorted(means, key=lambda method: -means[method][0])
    around = None
    if len(results.protocol["seeds"]) > 1:  # what has nothing to train is fitted once: no line
        ends = [(means[method][0], means[method][1] or 0.0) for method in order]
        around = [(100 * (mean - deviation), 100 * (mean + deviation)) for mean, deviation in ends]
    elif name == "accuracy":
        found = [wilson(means[method][0], number) for method in order]
        around = [(100 * each.low, 100 * each.high) for each in found]
    hover = [f"{method}: {percent(*means[method])}" for method in order]
    values = [100 * means[method][0] for method in order]
    figure = dots(
        order, values, hover, f"test {TITLES.get(name, name)}, {'%' if name == 'accuracy' else 'x 100'}", around
    )
    figure["layout"]["xaxis"]["zeroline"] = False
    return figure


def _kinds(results: TuningResults) -> Section | None:
    kinds = list(results.cells[0].by_kind)
    if not kinds:
        return None
    rows = {
        method: [mean_and_deviation([cell.by_kind[kind] for cell in results.of(method)])[0] for kind in kinds]
        for method in results.methods
    }
    if results.prior_by_kind:
        rows[PRIOR] = [results.prior_by_kind[kind] for kind in kinds]
    values = [[100 * value for value in row] for row in rows.values()]
    said = [[f"{value:.1f}" for value in row] for row in values]
    written = [[f"{value:.0f}" for value in row] for row in values] if len(kinds) <= 12 else None
    figure = heat_map(list(rows), kinds, values, SCALE, (0, 100), said, written=written)
    table = Table(
        "by type of question",
        ["method", *kinds],
        [[name, *(f"{value:.1f}" for value in row)] for name, row in zip(rows, values, strict=True)],
    )
    alt = f"Matrix of the test measure by method and type of question: {', '.join(kinds)}."
    chart = Chart("kinds", alt, {"": figure}, table, "Mean of the seeds.", width=width_of(2 * len(kinds)))
    return Section("Types", "By type of question", "", [chart])


def _gallery(
    results: TuningResults, tested: Sequence[Record], predictions: Mapping[str, Mapping[str, str]], album: Album
) -> Section:
    chosen = choose_records(tested, predictions, MOST_CARDS)
    told = describe_records(chosen, predictions)
    judged = any(right is not None for each in told for _, right in each.texts.values())
    bodies = [_card(each, album) for each in told]
    facets, fits = [], []
    if judged:
        for label, wanted in (("wrong by", False), ("right by", True)):
            names = [[name for name, (_, right) in each.texts.items() if right is wanted] for each in told]
            facet, own = facet_of(label, names)
            if facet.options:
                facets.append(facet)
                fits.append(own)
    if any(each.record.kind for each in told):
        facet, own = facet_of("type", [[each.record.kind] for each in told])
        facets.append(facet)
        fits.append(own)
    cards = [Card(body, [own[place] for own in fits]) for place, body in enumerate(bodies)]
    note = f"{len(told):,} of {len(tested):,} test records"
    note += ", those on which the methods disagree first" if len(predictions) > 1 else ""
    return Section(
        "Answers",
        "What each method says",
        paragraphs([f"{note}; seed {results.protocol['seeds'][0]}."]) + gallery_html(cards, facets),
    )


def _card(one: Said, album: Album) -> str:
    record = one.record
    marks = {None: "", True: "✓ ", False: "✗ "}
    kinds = {None: "", True: "right", False: "wrong"}
    said = "".join(
        f'<li><span class="muted">{text(name)}</span> '
        f'<span class="{kinds[right]}">{marks[right]}{text(words)}</span></li>'
        for name, (words, right) in one.texts.items()
    )
    alt = f"picture of the record {record.id}"
    return (
        f'<div class="head">{album.show(record.image, alt)}<div>'
        f"<p><strong>{text(record.prompt or 'caption')}</strong></p><p>truth: {text(one.truth)}</p>"
        f'<p class="path">{text(record.id)}</p></div></div>'
        f'<ul class="said" aria-label="answers">{said}</ul>'
    )


def _settings(results: TuningResults) -> Section:
    about = {
        "data": results.data["name"],
        "task": results.task,
        "model": results.model["name"],
        "seeds": ", ".join(map(str, results.protocol["seeds"])),
        **{name: plain(value) for name, value in results.protocol.items() if name not in ("seeds", "selection")},
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }
    rows = [
        [cell.method, str(cell.seed), str(cell.best_epoch), f"{100 * cell.validation:.1f}"] for cell in results.cells
    ]
    chosen = Table("what was chosen", ["method", "seed", "epoch", "validation x 100"], rows)
    return settings_section(about, [str(results.protocol["selection"])], chosen, results.methods)
