"""The report of a classifier on labelled pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmadapt.experiments.evaluation import Evaluation, Mistake
from vlmadapt.experiments.protocols import PROTOCOLS
from vlmadapt.pictures.thumbnails import Thumbnails
from vlmadapt.provenance.intervals import NAME, wilson
from vlmadapt.provenance.means import chance
from vlmadapt.reporting.confusion import MOST
from vlmadapt.reporting.evaluation import domain_table, measures_table
from vlmadapt.reporting.report.certainty import CAPTION, certainty_figure, certainty_table
from vlmadapt.reporting.report.charts import Chart, bars
from vlmadapt.reporting.report.confusion import confusion_figure, is_whole, pairs_table
from vlmadapt.reporting.report.gallery import MOST_CARDS, Album, Card, facet_of, gallery_html
from vlmadapt.reporting.report.html import paragraphs, table_html, text
from vlmadapt.reporting.report.page import Report, Section
from vlmadapt.reporting.report.relations import relations_section
from vlmadapt.reporting.report.settings import plain, settings_section
from vlmadapt.reporting.table import Table

VOTES = 4  # support pictures beside a mistake
IN_TABLE = 300  # classes; by_class.csv has all


def evaluation_report(found: Evaluation, run: str | Path | None = None, pictures: bool = True) -> Report:
    """What ``found`` holds as one page.

    run: the folder of the classifier, for the thumbnails kept there and the graph of a HeGraphAdapter.
    pictures: whether small copies of test and support pictures are shown.
    """
    results, cell = found.results, found.results.cells[0]
    album = Album(pictures)
    thumbnails = None if run is None else Thumbnails(Path(run))
    sections = [_measures(found), _classes(found), _confusion(found)]
    if cell.reliability is not None:
        sections.append(_certainty(found))
    sections.append(_mistakes(found, album, thumbnails))
    relations = None if run is None else relations_section(run)
    sections += [] if relations is None else [relations]
    sections.append(_settings(found))
    name, method = results.dataset["name"], cell.method
    number = len(found.labels)
    tested = sum(one.accuracy is not None for one in found.by_class)
    errors = cell.values.get("calibration_error")
    figures = [
        ("accuracy", f"{100 * found.accuracy:.1f} %", f"{found.interval} {NAME}"),
        ("mistakes", f"{len(found.mistakes):,}", f"of {number:,} test pictures"),
        ("classes", f"{tested:,}", f"of {len(found.class_names):,} the classifier knows"),
    ]
    if errors is not None:
        figures.append(("calibration error", f"{100 * errors:.1f} %", "certainty against accuracy"))
    lead = (
        f"{method}, fitted on {cell.shots} picture{'s' * (cell.shots != 1)} a class, encoder "
        f"{results.encoder['name']}; {number:,} test picture{'s' * (number != 1)}."
    )
    return Report(f"{method} on {name}", lead, figures, sections, album)


def _measures(found: Evaluation) -> Section:
    body = table_html(measures_table(found))
    if found.by_domain:
        body += f"<h3>By domain</h3>{table_html(domain_table(found))}"
    return Section("Measures", "Measures", body)


def _classes(found: Evaluation) -> Section:
    scored = [(one, one.accuracy) for one in found.by_class if one.accuracy is not None]
    scored.sort(key=lambda each: each[1])
    wrong = [each for each in scored if each[1] < 1]
    note = [f"{len(scored) - len(wrong):,} of {len(scored):,} classes without a mistake."]
    shown = scored[:MOST]
    around = [wilson(accuracy, one.pictures) for one, accuracy in shown]
    figure = bars(
        [one.name for one, _ in shown],
        [100 * accuracy for _, accuracy in shown],
        [
            f"{one.name}: {100 * accuracy:.0f} % {each} of {one.pictures} pictures"
            for (one, accuracy), each in zip(shown, around, strict=True)
        ],
        "accuracy, %",
        [(100 * each.low, 100 * each.high) for each in around],
        most=100,
    )
    rows = [
        [
            one.name,
            f"{one.pictures:,}",
            f"{100 * accuracy:.0f} % {wilson(accuracy, one.pictures)}",
            "-" if one.precision is None else f"{100 * one.precision:.0f} %",
            "-" if one.f1 is None else f"{100 * one.f1:.0f} %",
        ]
        for one, accuracy in scored[:IN_TABLE]
    ]
    table = Table(
        "accuracy by class",
        ["class", "pictures", "accuracy", "precision", "F1"],
        rows,
        notes=[] if len(scored) <= IN_TABLE else [f"The lowest {IN_TABLE}; by_class.csv has all."],
    )
    few = f"The {len(shown)} of {len(scored)} classes with the lowest accuracy, the lowest first"
    chart = Chart(
        "classes",
        f"Bars of the accuracy of each class, the lowest first, from {_ends([each for _, each in shown])}.",
        {"": figure},
        table,
        f"{'The lowest first' if len(shown) == len(scored) else few}; lines: {NAME}, of the class's pictures.",
    )
    return Section("Classes", "Accuracy by class", paragraphs(note), [chart])


def _ends(values: Sequence[float]) -> str:
    return f"{100 * min(values):.0f} to {100 * max(values):.0f} %"


def _confusion(found: Evaluation) -> Section:
    matrix, names = found.confusion, found.class_names
    figure, width = confusion_figure(matrix, names)
    matrix_shown = is_whole(matrix)
    whole = (
        "The pairs of classes confused most" if not matrix_shown else "Matrix of classes and what they were taken for"
    )
    table = pairs_table([("", matrix)], names, ["Every cell of the matrix: confusion.csv."])
    alt = f"{whole}; {len(found.mistakes)} of {len(found.labels)} pictures are off the diagonal."
    caption = "Rows are classes, columns what their pictures were taken for. confusion.csv has every cell."
    caption = (
        caption if matrix_shown else f"The pairs of {len(names)} classes confused most; confusion.csv has every cell."
    )
    chart = Chart("confusion", alt, {"": figure}, table, caption, width=width)
    if not found.mistakes:
        return Section("Confusion", "What is taken for what", paragraphs(["No picture was taken for another class."]))
    return Section("Confusion", "What is taken for what", "", [chart])


def _certainty(found: Evaluation) -> Section:
    figure, rows = certainty_figure(found.results.cells)
    alt = "Accuracy of test pictures against the classifier's certainty, and the share of pictures at each certainty."
    chart = Chart("certainty", alt, {"": figure}, certainty_table(rows, several=False), CAPTION)
    return Section("Certainty", "How far certainties can be trusted", "", [chart])


def _mistakes(found: Evaluation, album: Album, thumbnails: Thumbnails | None) -> Section:
    title = "Mistakes"
    if not found.mistakes:
        body = paragraphs([f"No mistake: all {len(found.labels):,} pictures are classified rightly."], "")
        return Section(title, title, body)
    shown: list[Mistake] = []
    bodies = []
    for one in _in_turn(found.mistakes):
        if len(shown) == MOST_CARDS or album.full:
            break
        shown.append(one)
        bodies.append(_card(one, album, thumbnails))
    order = sorted(range(len(shown)), key=lambda place: -shown[place].probability)
    shown, bodies = [shown[place] for place in order], [bodies[place] for place in order]
    label, of_label = facet_of("class", [[one.label] for one in shown])
    taken, of_taken = facet_of("taken for", [[one.prediction] for one in shown])
    cards = [Card(body, fits) for body, *fits in zip(bodies, of_label, of_taken, strict=True)]
    number, all_of = len(shown), len(found.mistakes)
    note = "Those it was most certain of come first."
    if number < all_of:
        note = f"{number:,} of {all_of:,}, the most certain ones of each class in turn; mistakes.csv has all."
    if any(one.votes for one in shown):
        note += " Below each, the support pictures that weighed most: a solid frame for the class answered, a dashed "
        note += "one for others, and their share of the vote."
    return Section(title, title, paragraphs([note]) + gallery_html(cards, [label, taken]))


def _in_turn(mistakes: Sequence[Mistake]) -> Iterator[Mistake]:
    """The most certain mistake of each class, then the second of each: no class takes all the places."""
    turns: dict[str, int] = {}
    places = []
    for number, one in enumerate(mistakes):
        turns[one.label] = turns.get(one.label, -1) + 1
        places.append((turns[one.label], number))
    return (mistakes[number] for _, number in sorted(places))


def _card(one: Mistake, album: Album, thumbnails: Thumbnails | None) -> str:
    none = " (none of the classes)" if one.abstained else ""
    head = (
        f'<div class="head">{album.show(one.path, f"test picture {one.picture}")}<div>'
        f'<p><strong>{text(one.label)}</strong></p><p class="wrong">taken for {text(one.prediction)}{none}</p>'
        f"<p>{_share(one.probability)}; its own class {_share(one.label_probability)}</p>"
        f'<p class="path">{text(one.picture)}</p></div></div>'
    )
    votes = []
    for vote in one.votes[:VOTES]:
        agrees = vote.class_name == one.prediction
        said = f"support picture of {vote.class_name}, {100 * vote.share:.1f} % of the vote"

        def kept(name: str = vote.support.name) -> bytes | None:
            return None if thumbnails is None else thumbnails.of(name)

        picture = album.show(vote.support.path, said, kept)
        votes.append(
            f'<li class="{"agrees" if agrees else "differs"}">{picture}{text(vote.class_name)} '
            f"{100 * vote.share:.1f}&nbsp;%</li>"
        )
    return head + (f'<ul class="votes" aria-label="votes">{"".join(votes)}</ul>' if votes else "")


def _share(value: float) -> str:
    return text(chance(value)).replace(" ", "&nbsp;")


def _settings(found: Evaluation) -> Section:
    results, cell = found.results, found.results.cells[0]
    protocol = PROTOCOLS[results.protocol_name]()
    about = {
        "data": results.dataset["name"],
        "encoder": results.encoder["name"],
        "method": cell.method,
        "shots, seed": f"{cell.shots}, {cell.seed}",
        "protocol of the fit": f"{protocol.name}: {protocol.note}",
        "trained parameters": f"{cell.trainable_parameters:,}",
        "seconds of the fit": f"{cell.fit_seconds:.1f}",
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }
    rows = [[name, plain(value)] for name, value in cell.selected.items()]
    chosen = Table("what was chosen", ["name", "value"], rows, left=frozenset({0, 1}))
    return settings_section(about, [str(results.protocol["selection"])], chosen, results.methods)
