"""``vlmadapt predict``: classify new pictures, and show which support pictures decided."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmadapt.cli.console import JsonList, fail, note, output, say
from vlmadapt.cli.options import RunArgument, command, pick_device
from vlmadapt.experiments.options import PredictOptions

if TYPE_CHECKING:
    from vlmadapt.classifier import Prediction
    from vlmadapt.experiments.predict import Failure


@command(PredictOptions)
def predict(
    run: RunArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE|FOLDER...", help="Pictures to classify.", show_default=False)
    ],
    options: PredictOptions,
) -> None:
    """Classify pictures with a saved classifier.

    A picture that cannot be read is named on standard error and costs no other. Exit code 0 when every picture has a
    result, 1 when some have, 2 when none has.
    """
    from vlmadapt.classifier import Classifier, Prediction, read_run
    from vlmadapt.data import Extraction
    from vlmadapt.errors import InputError
    from vlmadapt.experiments.folders import refuse_inside
    from vlmadapt.experiments.predict import Failure, predict_each
    from vlmadapt.provenance.drawn import refuse_other_picture
    from vlmadapt.provenance.place import hold_file
    from vlmadapt.reporting.explanation import draw_prediction

    if (run / "results.json").is_file() and (run / "tuned.json").is_file():
        raise InputError(f"{run} holds a tuned model and no classifier: use vlmadapt answer.")
    paths = list_pictures(pictures)
    drawing = options.explain_picture
    if drawing is not None and len(paths) != 1:
        raise InputError(f"--explain-picture draws one picture, but {len(paths)} were given: give one.")
    known = read_run(run)
    refuse_inside(known.data.source and known.data.source.spec, {"--explain-picture": drawing}, files=True)
    if drawing is not None and drawing.suffix.lower() != ".png":
        raise InputError(f"--explain-picture is {str(drawing)!r}: name a .png file.")
    with nullcontext() if drawing is None else hold_file(drawing, "--explain-picture"):
        if drawing is not None:
            refuse_other_picture(drawing, "--explain-picture")
        classifier = Classifier.load(run, device=pick_device(options.device), engine=options.engine)
        extraction = Extraction(batch_size=options.batch_size, precision=known.precision)
        wanted = options.votes if options.explain or drawing is not None else 0
        failed = 0
        with JsonList() if options.as_json else nullcontext() as listed:
            for result in predict_each(classifier, paths, extraction, options.top, wanted, options.abstain):
                if isinstance(result, Failure):
                    failed += 1
                    fail(result.reason)
                elif drawing is not None:
                    draw_prediction(result, drawing, classifier.thumbnails)
                if listed is not None:
                    listed.add(_as_json(result))
                elif isinstance(result, Prediction):
                    _print(result, options.explain)
    if drawing is not None and not failed and not options.as_json:
        say(f"drawn: {drawing}", "green")
    if failed:
        raise typer.Exit(1 if failed < len(paths) else 2)


def list_pictures(given: list[Path]) -> list[Path]:
    """The files of PICTURE|FOLDER...; raises :class:`FileError` for a folder without pictures."""
    from vlmadapt.data.walk import LeftOut, list_images
    from vlmadapt.errors import FileError

    paths: list[Path] = []
    left_out = LeftOut()
    for path in given:
        found = list_images(path, left_out) if path.is_dir() else [path]
        if not found:
            raise FileError(f"{path} holds no pictures: give a folder with pictures in it.")
        paths += found
    for line in (*left_out.all_notes(), *left_out.all_doubts()):
        note(line)
    return paths


def _print(prediction: Prediction, explain: bool) -> None:
    from vlmadapt.errors import shown
    from vlmadapt.provenance.means import chance
    from vlmadapt.reporting.table import Table, show

    classes = ", ".join(f"{name} {chance(value)}" for name, value in prediction.classes)
    say(f"{shown(prediction.path)}: {'none of the classes, most like ' * prediction.abstained}{classes}")
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


def _as_json(prediction: Prediction | Failure) -> dict[str, Any]:
    from vlmadapt.experiments.predict import Failure

    if isinstance(prediction, Failure):
        return {"picture": str(prediction.path), "error": prediction.reason, "classes": []}
    return {
        "picture": str(prediction.path),
        "classes": [{"name": name, "probability": chance} for name, chance in prediction.classes],
        "abstained": prediction.abstained,
        "class_votes": [{"name": name, "share": share} for name, share in prediction.class_votes],
        "votes": [
            {**asdict(vote), "support": {"name": vote.support.name, "label": vote.support.label}}
            for vote in prediction.votes
        ],
    }
