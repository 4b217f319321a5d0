"""``vlmadapt graph``: look at the class graph of a fitted HeGraphAdapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.options import RunArgument, command
from vlmadapt.experiments.options import GraphOptions

if TYPE_CHECKING:
    from vlmadapt.adapters.hegraph.view import PulledPair


@command(GraphOptions)
def graph(run: RunArgument, options: GraphOptions) -> None:
    """Draw the strongest relations among classes, and list the pairs that negative nodes pull apart most.

    Works on classifiers fitted with --adapter hegraph.
    """
    from vlmadapt.adapters.hegraph.view import load_graph, pick_classes, pulled_apart, strongest_edges, uses_negatives
    from vlmadapt.classifier import read_run
    from vlmadapt.experiments.folders import refuse_inside
    from vlmadapt.provenance.drawn import refuse_other_picture
    from vlmadapt.provenance.place import hold_file
    from vlmadapt.reporting.graph_picture import check_picture_path, draw_graph

    top = options.top
    path = options.out or run / "graph.png"
    check_picture_path(path)
    known = read_run(run)
    refuse_inside(known.data.source and known.data.source.spec, {"--out": options.out}, files=True)
    with hold_file(path):
        refuse_other_picture(path, "--out")
        adapter = load_graph(run)
        names = adapter.class_names
        pairs = pulled_apart(adapter, top)
        chosen = pick_classes(names, options.classes, pairs)
        title = f"{known.data.name}, {known.shots} shot{'s' * (known.shots > 1)}: relations between classes"
        draw_graph(names, chosen, strongest_edges(adapter, chosen, top), pairs, title, path)
    if not adapter.has_text:
        say("The classifier was fitted without class text: its graph is that of the visual nodes.")
    elif not uses_negatives(adapter):
        say(
            "Validation switched the message of negative nodes off (negative_to_positive 0): the classifier does not "
            "use it, it pulls no classes apart, and its relations are not drawn."
        )
    elif not pairs:
        say("The message of negative nodes pulls no two classes apart.")
    else:
        show_pairs(pairs, names)
    note(f"{len(names)} classes, {len(chosen)} drawn: {', '.join(names[label] for label in chosen)}")
    say(f"drawn: {path}", "green")


def show_pairs(pairs: Sequence[PulledPair], names: Sequence[str]) -> None:
    from vlmadapt.reporting.table import Table, show

    rows = [
        [
            f"{names[pair.first]} / {names[pair.second]}",
            *(f"{value:+.3f}" for value in (pair.without, pair.with_negatives, pair.change)),
        ]
        for pair in pairs
    ]
    header = ["classes", "without", "with", "change"]
    show(Table("Pairs that negative nodes pull apart most: centred cosine of text nodes", header, rows), output())
