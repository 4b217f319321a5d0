"""``vlmadapt compare``: the few-shot protocol on one data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    names,
    numbers,
    open_dataset,
    open_encoder,
)

if TYPE_CHECKING:
    from vlmadapt.experiments.results import ProtocolResults

ADAPTERS = "zero-shot,linear-probe,tip-adapter,tip-adapter-f,xmadapter"


def compare(
    data: DataArgument,
    adapters: Annotated[
        str, typer.Option(help="Methods, by commas; settings follow colons: xmadapter:fusion=fixed:epochs=20.")
    ] = ADAPTERS,
    shots: Annotated[str, typer.Option(help="Training pictures a class, by commas.")] = "1,2,4,8,16",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/compare"),
    keep_fits: Annotated[bool, typer.Option("--keep-fits", help="Keep the fitted adapters in OUT/fits.")] = False,
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
    """Compare adapters over shots and seeds: a table, a curve, results.json and results.csv.

    All methods see the same sampled pictures; choices are made on validation pictures; the test split is read once,
    at the end. Interrupted, the same command goes on where it stopped.
    """
    from vlmadapt.experiments.protocol import run_protocol
    from vlmadapt.experiments.store import FolderFits

    counts = numbers("--shots", shots)
    dataset = open_dataset(data, root, split_seed, template)
    note(describe(dataset))
    encoder = open_encoder(backbone, device, download)
    fits = FolderFits(out / "fits")
    results = run_protocol(
        encoder,
        dataset,
        names(adapters),
        counts,
        range(seeds),
        extraction=extraction_of(views, batch_size, precision, cache, no_cache),
        fits=fits,
        report=note,
        allow_short=allow_short,
    )
    report_comparison(results, out)
    if not keep_fits:
        fits.remove()


def report_comparison(results: ProtocolResults, folder: Path) -> None:
    """Write the result files and the curve, and print the table."""
    from vlmadapt.files import write_text
    from vlmadapt.reporting.curves import draw_curves
    from vlmadapt.reporting.table import protocol_table, show, to_markdown

    table = protocol_table(results)
    json_path, csv_path = results.save(folder)
    write_text(folder / "table.md", to_markdown(table) + "\n")
    curve = draw_curves(results, folder / "curve.png")
    show(table, output())
    say(f"curve: {curve}")
    say(f"results: {json_path}, {csv_path}")
