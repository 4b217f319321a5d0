"""``vlmadapt predict``: classify new pictures, and show which support pictures decided."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmadapt.cli.console import output, say
from vlmadapt.cli.fit import RunArgument
from vlmadapt.cli.options import command, pick_device
from vlmadapt.experiments.options import PredictOptions

if TYPE_CHECKING:
    from vlmadapt.classifier import Prediction


@command(PredictOptions)
def predict(
    run: RunArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE|FOLDER...", help="Pictures to classify.", show_default=False)
    ],
    options: PredictOptions,
) -> None:
    """Classify pictures with a saved classifier."""
    from vlmadapt.classifier import Classifier, read_run
    from vlmadapt.data import Extraction
    from vlmadapt.errors import InputError

    paths = _pictures(pictures)
    drawing = options.explain_picture
    if drawing is not None and len(paths) != 1:
        raise InputError(f"--explain-picture draws one picture, but {len(paths)} were given: give one.")
    precision = read_run(run).precision
    classifier = Classifier.load(run, device=pick_device(options.device))
    extraction = Extraction(batch_size=options.batch_size, precision=precision)
    wanted = options.votes if options.explain or drawing is not None else 0
    predictions = classifier.predict(paths, top=options.top, votes=wanted, extraction=extraction)
    if options.as_json:
        print(json.dumps([_as_json(prediction) for prediction in predictions], indent=2, ensure_ascii=False))
    else:
        for prediction in predictions:
            _print(prediction, options.explain)
    if drawing is not None:
        from vlmadapt.reporting.explanation import draw_prediction

        draw_prediction(predictions[0], drawing)
        if not options.as_json:
            say(f"drawn: {drawing}", "green")


def _pictures(given: list[Path]) -> list[Path]:
    from vlmadapt.data.walk import list_images
    from vlmadapt.errors import FileError

    paths: list[Path] = []
    for path in given:
        found = list_images(path) if path.is_dir() else [path]
        if not found:
            raise FileError(f"{path} holds no pictures: give a folder with pictures in it.")
        paths += found
    return paths


def _print(prediction: Prediction, explain: bool) -> None:
    from vlmadapt.reporting.table import Table, show

    classes = ", ".join(f"{name} {100 * chance:.1f} %" for name, chance in prediction.classes)
    say(f"{prediction.path}: {classes}")
    if not explain:
        return
    totals = ", ".join(f"{name} {100 * share:.1f} %" for name, share in prediction.class_votes)
    say(f"  shares of the cache's vote, by class: {totals}; by support picture:\n")
    rows = [
        [vote.support.name, vote.class_name, f"{100 * vote.share:.2f} %", f"{vote.affinity:.4g}", vote.stream]
        for vote in prediction.votes
    ]
    header = ["support picture", "class", "share of vote", "affinity", "mostly from"]
    show(Table("", header, rows, left=frozenset({0, 1, 4})), output())
    say("")


def _as_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "picture": str(prediction.path),
        "classes": [{"name": name, "probability": chance} for name, chance in prediction.classes],
        "class_votes": [{"name": name, "share": share} for name, share in prediction.class_votes],
        "votes": [
            {**asdict(vote), "support": {"name": vote.support.name, "label": vote.support.label}}
            for vote in prediction.votes
        ],
    }
