"""The report of a comparison of methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.data import Dataset
from vlmadapt.data.types import Row, Sample, relative_key
from vlmadapt.experiments.results import Cell, ProtocolResults, Truth
from vlmadapt.provenance.intervals import NAME
from vlmadapt.provenance.means import over_seeds
from vlmadapt.reporting.confusion import MOST
from vlmadapt.reporting.report.certainty import CAPTION, certainty_figure, certainty_table
from vlmadapt.reporting.report.charts import Chart, Figure, dots, heat_map, width_of
from vlmadapt.reporting.report.confusion import confusion_figure, confusion_matrix, is_whole, pairs_table
from vlmadapt.reporting.report.costs import costs_section
from vlmadapt.reporting.report.curves import curves_section
from vlmadapt.reporting.report.gallery import MOST_CARDS, Album, Card, facet_of, gallery_html
from vlmadapt.reporting.report.html import paragraphs, text
from vlmadapt.reporting.report.page import Report, Section
from vlmadapt.reporting.report.settings import plain, settings_section
from vlmadapt.reporting.table import Table, gains_table

IN_TABLE = 300  # classes
SCALE = ((0.0, "@zero"), (1.0, "@s1"))


def compare_report(results: ProtocolResults, tested: Dataset | None = None, pictures: bool = True) -> Report:
    """What ``results`` hold as one page; parts that older files do not tell are left out.

    tested: the data of the first test set, whose pictures are shown. pictures: whether small copies of them are.
    """
    shots, album = results.shots[-1], Album(pictures)
    ranked = _ranked(results, shots)
    truth = results.truth(results.test_sets[0])
    sections = [curves_section(results)]
    differences = _differences(results, shots)
    sections += [differences] if differences else []
    sections.append(costs_section(results, shots))
    answers = _answers(results, shots) if truth else {}
    if truth is not None and answers:
        sections.append(_classes(truth, answers, ranked, shots))
        sections.append(_confusion(truth, answers, ranked, shots))
    certain = _certainty(results, ranked, shots)
    sections += [certain] if certain else []
    if truth is not None and answers and tested is not None:
        section = _gallery(results, truth, tested, ranked, album)
        sections += [section] if section else []
    sections.append(_settings(results))
    best = results.of(ranked[0], shots)
    seeds = results.protocol["seeds"]
    figures = [
        ("highest accuracy", f"{100 * best.mean:.1f} %", f"{ranked[0]}, {_shots(shots)}"),
        (
            "methods",
            str(len(ranked)),
            f"{len(results.shots)} numbers of shots, {len(seeds)} seed{'s' * (len(seeds) > 1)}",
        ),
        ("test pictures", f"{results.pictures(results.test_sets[0]):,}", f"{results.dataset['classes']} classes"),
    ]
    lead = (
        f"Test accuracy of {len(ranked)} methods at {', '.join(map(str, results.shots))} training pictures a class, "
        f"{over_seeds(seeds)}; encoder {results.encoder['name']}, protocol {results.protocol_name}."
    )
    return Report(f"Methods compared on {results.dataset['name']}", lead, figures, sections, album)


def _shots(count: int) -> str:
    return f"{count} shot{'s' * (count > 1)}"


def _ranked(results: ProtocolResults, shots: int) -> list[str]:
    """Methods, the most accurate first."""
    return sorted(results.methods, key=lambda method: -results.of(method, shots).mean)


def _differences(results: ProtocolResults, shots: int) -> Section | None:
    table = gains_table(results)
    if table is None:
        return None
    gains = [gain for gain in results.gains() if gain.shots == shots]
    gains.sort(key=lambda gain: -gain.mean)
    told = all(gain.interval is not None for gain in gains)
    around = [(100 * gain.interval.low, 100 * gain.interval.high) for gain in gains if gain.interval is not None]
    hover = [
        f"{gain.method}: {100 * gain.mean:+.1f} points"
        + ("" if gain.interval is None else f" [{100 * gain.interval.low:+.1f}, {100 * gain.interval.high:+.1f}]")
        for gain in gains
    ]
    figure = dots(
        [gain.method for gain in gains],
        [100 * gain.mean for gain in gains],
        hover,
        f"points over {results.reference}",
        around if told else None,
    )
    ahead = [gain.method for gain in gains if gain.interval is not None and gain.interval.low > 0]
    alt = f"Differences of accuracy to {results.reference} at {_shots(shots)}, with intervals; " + (
        f"beyond chance ahead: {', '.join(ahead)}." if ahead else "no method is ahead beyond chance."
    )
    caption = f"On the same pictures and seeds, {_shots(shots)}; lines: paired bootstrap intervals, 95 %."
    chart = Chart("differences", alt, {"": figure}, table, caption)
    return Section("Differences", f"Over {results.reference}", "", [chart])


def _answers(results: ProtocolResults, shots: int) -> dict[str, list[Tensor]]:
    """The classes that each method answered at ``shots`` on the first test set, a tensor a seed."""
    found = {}
    for method in results.methods:
        each = [results.predicted(cell) for cell in results.cells_of(method, shots)]
        known = [answers for answers in each if answers is not None]
        if known:
            found[method] = known
    return found


def _classes(truth: Truth, answers: dict[str, list[Tensor]], ranked: Sequence[str], shots: int) -> Section:
    methods = [method for method in ranked if method in answers]
    count = torch.bincount(truth.labels, minlength=len(truth.class_names))
    some = torch.nonzero(count).squeeze(-1)
    columns = []
    for method in methods:
        right = sum(
            torch.bincount(truth.labels[each == truth.labels], minlength=len(count)).double()
            for each in answers[method]
        )
        columns.append(right[some] / len(answers[method]) / count[some])  # type: ignore[index]
    shares = torch.stack(columns, 1)  # [classes, methods]
    order = shares.mean(1).argsort(stable=True)
    shares, some = shares[order], some[order]
    names = [truth.class_names[label] for label in some.tolist()]
    values = (100 * shares).tolist()
    said = [[f"{value:.0f} %" for value in row] for row in values]
    shown = min(MOST, len(names))
    figure = heat_map(names[:shown], methods, values[:shown], SCALE, (0, 100), said[:shown], legend="accuracy, %")
    table = Table(
        f"accuracy by class at {_shots(shots)}, %",
        ["class", "pictures", *methods],
        [
            [name, f"{int(count[label])}", *(f"{value:.0f}" for value in row)]
            for name, label, row in zip(names, some.tolist(), values, strict=True)
        ][:IN_TABLE],
        notes=[] if len(names) <= IN_TABLE else [f"The {IN_TABLE} hardest of {len(names)} classes."],
    )
    of = f"All {len(names)} classes" if shown == len(names) else f"The {shown} hardest of {len(names)} classes"
    chart = Chart(
        "classes",
        f"Matrix of the accuracy of each method on each class at {_shots(shots)}, the hardest on top: {names[0]}.",
        {"": figure},
        table,
        f"{of}, the hardest on top; methods from left to right, the most accurate first; {_shots(shots)}, mean of the "
        "seeds.",
        width=width_of(len(methods)),
    )
    return Section("Classes", "Accuracy by class", "", [chart])


def _confusion(truth: Truth, answers: dict[str, list[Tensor]], ranked: Sequence[str], shots: int) -> Section:
    names = truth.class_names
    matrices = [
        (method, sum(confusion_matrix(each, truth.labels, len(names)) for each in answers[method]))
        for method in ranked
        if method in answers
    ]
    drawn = {method: confusion_figure(matrix, names) for method, matrix in matrices}  # type: ignore[arg-type]
    chart = Chart(
        "confusion",
        f"Classes and what they were taken for at {_shots(shots)}, by each method; the table names the worst pairs.",
        {method: figure for method, (figure, _) in drawn.items()},
        pairs_table(matrices, names),  # type: ignore[arg-type]
        f"{_shots(shots)}, the pictures of all seeds together. Rows are classes, columns what they were taken for."
        if all(is_whole(matrix) for _, matrix in matrices)  # type: ignore[arg-type]
        else f"The pairs of {len(names)} classes confused most, {_shots(shots)}, the pictures of all seeds together.",
        "method",
        max(width for _, width in drawn.values()),
    )
    return Section("Confusion", "What is taken for what", "", [chart])


def _certainty(results: ProtocolResults, ranked: Sequence[str], shots: int) -> Section | None:
    figures: dict[str, Figure] = {}
    rows: list[list[str]] = []
    for method in ranked:
        cells = [cell for cell in results.cells_of(method, shots) if cell.reliability is not None]
        if cells:
            figures[method], own = certainty_figure(cells)
            rows += [[method, *row] for row in own]
    if not figures:
        return None
    alt = f"Accuracy of test pictures against the certainty of each method at {_shots(shots)}."
    table = certainty_table(rows, several=True)
    chart = Chart("certainty", alt, figures, table, f"{CAPTION} {_shots(shots)}, all seeds together.", "method")
    return Section("Certainty", "How far certainties can be trusted", "", [chart])


def _gallery(
    results: ProtocolResults, truth: Truth, tested: Dataset, ranked: Sequence[str], album: Album
) -> Section | None:
    """Test pictures that methods get wrong at the most shots with the first seed, those that most get wrong first."""
    shots = results.shots[-1]
    firsts = {method: _first(results.cells_of(method, shots)) for method in ranked}
    answers = {method: results.predicted(cell) for method, cell in firsts.items()}
    said = {method: each.tolist() for method, each in answers.items() if each is not None}
    if len(tested.test) != len(truth.labels) or not said:
        return None
    labels = truth.labels.tolist()
    wrong = {place: sum(each[place] != label for each in said.values()) for place, label in enumerate(labels)}
    chosen = [place for place, number in wrong.items() if number]
    if not chosen:
        return Section("Mistakes", "Pictures answered wrongly", paragraphs(["No method made a mistake."], ""))
    cards: list[str] = []
    places: list[int] = []
    pictures = Album(pictures=False) if isinstance(tested.test[0], Row) else album
    for place in _in_turn(sorted(chosen, key=lambda place: -wrong[place]), labels):
        if len(places) == MOST_CARDS or pictures.full:
            break
        places.append(place)
        named = {method: truth.class_names[each[place]] for method, each in said.items()}
        cards.append(_card(tested.test[place], tested, truth.class_names[labels[place]], named, pictures))
    label, of_label = facet_of("class", [[truth.class_names[labels[place]]] for place in places])
    by, of_method = facet_of(
        "wrong by", [[method for method, each in said.items() if each[place] != labels[place]] for place in places]
    )
    right, of_right = facet_of(
        "right by", [[method for method, each in said.items() if each[place] == labels[place]] for place in places]
    )
    seed = firsts[ranked[0]].seed
    note = (
        f"{len(places):,} of {len(chosen):,} pictures that some method answers wrongly at {_shots(shots)}, "
        f"seed {seed}; of each class in turn those that most methods get wrong."
    )
    facets = [label, by, *([right] if right.options else [])]
    fits = zip(cards, of_label, of_method, *([of_right] if right.options else []), strict=True)
    body = gallery_html([Card(each, rest) for each, *rest in fits], facets)
    return Section("Mistakes", "Pictures answered wrongly", paragraphs([note]) + body)


def _first(cells: Sequence[Cell]) -> Cell:
    return min(cells, key=lambda cell: cell.seed)


def _in_turn(places: Sequence[int], labels: Sequence[int]) -> list[int]:
    turns: dict[int, int] = {}
    order = []
    for number, place in enumerate(places):
        turns[labels[place]] = turns.get(labels[place], -1) + 1
        order.append((turns[labels[place]], number))
    return [places[number] for _, number in sorted(order)]


def _card(sample: Sample, tested: Dataset, label: str, named: dict[str, str], album: Album) -> str:
    key = relative_key(sample.path, tested.root)
    by_answer: dict[str, list[str]] = {}
    for method, answer in named.items():
        by_answer.setdefault(answer, []).append(method)
    said = "".join(
        f'<li><span class="{"right" if answer == label else "wrong"}">{"✓" if answer == label else "✗"} {text(answer)}'
        f'</span> <span class="muted">{text(", ".join(methods))}</span></li>'
        for answer, methods in by_answer.items()
    )
    return (
        f'<div class="head">{album.show(sample.path, f"test picture {key}")}<div><p><strong>{text(label)}</strong></p>'
        f'<p class="path">{text(key)}</p></div></div><ul class="said" aria-label="answers">{said}</ul>'
    )


def _settings(results: ProtocolResults) -> Section:
    names = list(dict.fromkeys(name for cell in results.cells for name in cell.selected))
    rows = []
    for method in results.methods:
        for shots in results.shots:
            cells = results.cells_of(method, shots)
            values = {name: [plain(cell.selected[name]) for cell in cells if name in cell.selected] for name in names}
            if any(values.values()):
                rows.append([method, str(shots), *(", ".join(dict.fromkeys(values[name])) for name in names)])
    chosen = Table(
        "what was chosen",
        ["method", "shots", *names],
        rows,
        notes=["By seeds where they differ, from the first."] if len(results.protocol["seeds"]) > 1 else [],
        left=frozenset({0}),
    )
    about = {
        "data": results.dataset["name"],
        "encoder": results.encoder["name"],
        "protocol": results.protocol_name,
        "seeds": ", ".join(map(str, results.protocol["seeds"])),
        "views of a picture": results.protocol.get("views", 1),
        "precision": results.protocol.get("precision", ""),
        "accuracy intervals": NAME,
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }
    return settings_section(about, [str(results.protocol["selection"])], chosen, results.methods)
