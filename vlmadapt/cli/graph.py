"""``vlmadapt graph``: look at the class graph of a fitted HeGraphAdapter."""

from __future__ import annotations

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.fit import RunArgument
from vlmadapt.cli.options import command
from vlmadapt.experiments.options import GraphOptions


@command(GraphOptions)
def graph(run: RunArgument, options: GraphOptions) -> None:
    """Draw the strongest relations among classes, and list the pairs that negative nodes pull apart most.

    Works on classifiers fitted with --adapter hegraph.
    """
    from vlmadapt.adapters.hegraph.view import load_graph, pick_classes, pulled_apart, strongest_edges
    from vlmadapt.classifier import read_run
    from vlmadapt.experiments.folders import refuse_inside
    from vlmadapt.provenance.place import hold_file
    from vlmadapt.reporting.graph_picture import check_picture_path, draw_graph
    from vlmadapt.reporting.table import Table, show

    top = options.top
    path = options.out or run / "graph.png"
    check_picture_path(path)
    known = read_run(run)
    refuse_inside(known.data.source and known.data.source.spec, {"--out": options.out}, files=True)
    with hold_file(path):
        adapter = load_graph(run)
        names = adapter.class_names
        pairs = pulled_apart(adapter, top)
        chosen = pick_classes(names, options.classes, pairs)
        title = f"{known.data.name}, {known.shots} shot{'s' * (known.shots > 1)}: relations between classes"
        draw_graph(names, chosen, strongest_edges(adapter, chosen, top), pairs, title, path)
    rows = [
        [
            f"{names[pair.first]} / {names[pair.second]}",
            *(f"{value:+.3f}" for value in (pair.without, pair.with_negatives, pair.change)),
        ]
        for pair in pairs
    ]
    header = ["classes", "without", "with", "change"]
    show(Table("Pairs that negative nodes pull apart most: centred cosine of text nodes", header, rows), output())
    note(f"{len(names)} classes, {len(chosen)} drawn: {', '.join(names[label] for label in chosen)}")
    say(f"drawn: {path}", "green")
