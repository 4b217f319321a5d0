"""``vlmadapt demo``: everything once, on pictures that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmadapt.cli.compare import ADAPTERS, report_comparison
from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import (
    Backbone,
    Cache,
    Device,
    NoCache,
    describe,
    extraction_of,
    names,
    open_dataset,
    open_encoder,
)

DATA = "clipart"
SHOTS = (1, 2, 4, 8, 16)
SAVED = "xmadapter"


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    backbone: Backbone = "embedded",
    device: Device = "auto",
    cache: Cache = None,
    no_cache: NoCache = False,
) -> None:
    """Adapt the embedded backbone to clip-art in 32 classes at 1 to 16 shots, with five methods.

    Ends with a table, a curve and a saved classifier. Interrupted, the same command goes on where it stopped.
    """
    from vlmadapt.classifier import Classifier, DataSource, describe_run
    from vlmadapt.data import sample_shots
    from vlmadapt.experiments.protocol import run_protocol
    from vlmadapt.experiments.store import FitKey, FolderFits
    from vlmadapt.provenance.settings import Method
    from vlmadapt.reporting.explanation import draw_prediction

    dataset = open_dataset(DATA, None, 0)
    note(describe(dataset))
    encoder = open_encoder(backbone, device)
    extraction = extraction_of(1, 64, "fp32", cache, no_cache)
    fits = FolderFits(out / "fits")
    results = run_protocol(
        encoder, dataset, names(ADAPTERS), SHOTS, range(seeds), extraction=extraction, fits=fits, report=note
    )
    report_comparison(results, out)

    key = FitKey(SAVED, SHOTS[-1], 0)
    split = sample_shots(dataset, key.shots, key.seed)
    run = describe_run(
        dataset,
        DataSource(DATA),
        encoder,
        split,
        Method(SAVED, SAVED),
        results.methods[SAVED],
        extraction,
        fits.measures(key),
    )
    classifier = Classifier(fits.get(key, encoder), encoder, run)
    folder = classifier.save(out / "classifier")
    sample = dataset.test[0]
    prediction = classifier.predict([sample.path], votes=5, extraction=extraction)[0]
    evidence = draw_prediction(prediction, out / "evidence.png")
    fits.remove()
    say(f"evidence: {evidence} (a test picture beside the support pictures that decided)")
    say(f"classifier: {folder} ({SAVED}, {key.shots} shots)", "green")
    say("Use it on a picture of your own:")
    say(f"  vlmadapt predict {folder} PICTURE --explain --explain-picture why.png", "bold")
