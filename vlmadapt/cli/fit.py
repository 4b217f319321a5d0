"""``vlmadapt fit`` and ``vlmadapt eval``: one classifier, fitted and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.options import (
    AllowShort,
    Backbone,
    BatchSize,
    Cache,
    DataArgument,
    Device,
    Download,
    NoCache,
    Precision,
    Root,
    SplitSeed,
    Templates,
    Views,
    describe,
    extraction_of,
    open_dataset,
    open_encoder,
    pick_device,
)

if TYPE_CHECKING:
    from vlmadapt.classifier import Classifier

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a saved classifier.", show_default=False)]


def fit(
    data: DataArgument,
    adapter: Annotated[str, typer.Option(help="The method: see vlmadapt adapters.")] = "xmadapter",
    shots: Annotated[int, typer.Option(help="Training pictures a class.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the few-shot sample and of training.")] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the classifier.", show_default="runs/DATA-ADAPTER-SHOTS"),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the adapter: see vlmadapt adapters NAME."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted fit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the classifier in the folder.")] = False,
    backbone: Backbone = "embedded",
    root: Root = None,
    split_seed: SplitSeed = 0,
    template: Templates = None,
    allow_short: AllowShort = False,
    views: Views = 1,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
    device: Device = "auto",
    download: Download = False,
    cache: Cache = None,
    no_cache: NoCache = False,
) -> None:
    """Fit a classifier on a few pictures a class and save it.

    Hyper-parameters and epochs are chosen on validation pictures; the test split is not read.
    """
    from vlmadapt.classifier import DataSource
    from vlmadapt.experiments.single import claim_folder, fit_classifier
    from vlmadapt.provenance.settings import Method, parse_settings

    method = Method(adapter, adapter, parse_settings(set_ or []))
    dataset = open_dataset(data, root, split_seed, template)
    folder = claim_folder(out or Path("runs") / f"{dataset.name}-{adapter}-{shots}", resume, overwrite)
    note(describe(dataset))
    encoder = open_encoder(backbone, device, download)
    classifier = fit_classifier(
        encoder,
        dataset,
        DataSource.of(data, split_seed, root),
        method,
        shots,
        seed,
        folder,
        extraction_of(views, batch_size, precision, cache, no_cache),
        resume=resume,
        allow_short=allow_short,
    )
    report_fit(classifier, folder)


def report_fit(classifier: Classifier, folder: Path) -> None:
    run = classifier.run
    accuracy = run["val_accuracy"]
    found = "no validation pictures" if accuracy is None else f"validation accuracy {100 * accuracy:.1f} %"
    plural = "s" * (len(run["validation"]) > 1)
    say(f"{run['method']}, {run['shots']} shots, seed {run['seed']}: {found}", "bold")
    say(f"  {len(run['support'])} training pictures, {len(run['validation'])} validation picture{plural}")
    chosen = ", ".join(f"{name} {_number(value)}" for name, value in run["selected"].items())
    say(f"  chosen on validation or trained: {chosen or 'nothing'}")
    say(f"  {run['trainable_parameters']:,} trained parameters, {run['fit_seconds']:.1f} s")
    say(f"saved in {folder}", "green")
    say(f"  vlmadapt eval {folder}")
    say(f"  vlmadapt predict {folder} PICTURE --explain")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def evaluate(
    run: RunArgument,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[DATA]", help="Other data with the same classes.", show_default="what it was fitted on"
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the results.", show_default="RUN/eval-DATA"),
    ] = None,
    root: Root = None,
    split_seed: SplitSeed = 0,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    cache: Cache = None,
    no_cache: NoCache = False,
) -> None:
    """Accuracy of a saved classifier on the test split, as a table, results.json, results.csv and by_class.csv."""
    from vlmadapt.classifier import Classifier, DataSource, read_run
    from vlmadapt.experiments import single
    from vlmadapt.reporting.table import protocol_table, show

    known = read_run(run)
    source = DataSource(**known["data"]["source"]) if data is None else DataSource.of(data, split_seed, root)
    dataset = open_dataset(source.spec, None if source.root is None else Path(source.root), source.seed)
    note(describe(dataset))
    classifier = Classifier.load(run, device=pick_device(device))
    results, by_class = single.evaluate(
        classifier, dataset, extraction_of(1, batch_size, known["precision"], cache, no_cache)
    )
    folder = out or run / f"eval-{dataset.name}"
    show(protocol_table(results), output())
    paths = [*results.save(folder), single.save_by_class(folder / "by_class.csv", by_class)]
    worst = sorted((line for line in by_class if line[2] is not None), key=lambda line: line[2] or 0.0)[:3]
    say("hardest classes: " + ", ".join(f"{name} {100 * (share or 0):.0f} %" for name, _, share in worst))
    say("written: " + ", ".join(map(str, paths)))
