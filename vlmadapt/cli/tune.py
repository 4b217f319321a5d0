"""``vlmadapt tune``: adapt a generative model to captioning, question answering or visual entailment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from vlmadapt.cli.console import note, output, say
from vlmadapt.cli.options import Device, Download, names, pick_device

if TYPE_CHECKING:
    from vlmadapt.generative.data.records import RecordSet
    from vlmadapt.generative.models.base import GenerativeModel
    from vlmadapt.generative.results import TuningResults

SMALL = "small-blip"
SHOWN = 8


def tune(
    task: Annotated[str, typer.Option(help="caption, vqa or entailment.")],
    method: Annotated[
        str,
        typer.Option(
            help="Methods, by commas: frozen, full, bitfit, bottleneck, lora, p-adapter, p-adapter-p2, "
            "p-adapter-released; settings follow colons: p-adapter:p=1.5:lr=0.001."
        ),
    ] = "p-adapter",
    data: Annotated[
        str, typer.Option(help="easy-vqa, or with --root: karpathy, textcaps, vqa2, vizwiz, snli-ve.")
    ] = "easy-vqa",
    root: Annotated[Optional[Path], typer.Option(help="Folder of a published set's files and pictures.")] = None,  # noqa: UP045
    model: Annotated[
        str,
        typer.Option(
            help="small-blip (trained from scratch on first use, some minutes), or a name of vlmadapt.load_generative, "
            "such as blip:FOLDER."
        ),
    ] = SMALL,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training records.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Records a step.")] = 64,
    lr: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Peak learning rate of every method.", show_default="each method's own"),
    ] = None,
    train_limit: Annotated[Optional[int], typer.Option(help="Most training records, drawn by seed.")] = None,  # noqa: UP045
    val_limit: Annotated[Optional[int], typer.Option(help="Most validation records.")] = None,  # noqa: UP045
    test_limit: Annotated[Optional[int], typer.Option(help="Most test records.")] = None,  # noqa: UP045
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the task: prompt, beams, answering, ..."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the results.", show_default="runs/tune-DATA-TASK"),
    ] = None,
    device: Device = "auto",
    download: Download = False,
) -> None:
    """Adapt a generative model by one or more methods: a table, a picture, results.json and results.csv.

    All methods train on the same records in the same loop; the epoch is chosen on validation records; the test split is
    read once, at the end. Interrupted, the same command goes on where it stopped. The adapters stay in OUT/fits.
    """
    from vlmadapt.generative.data.load import load_records
    from vlmadapt.generative.plan import TuningPlan, check_plan
    from vlmadapt.generative.tasks import TaskOptions
    from vlmadapt.generative.tuning import run_tuning
    from vlmadapt.provenance.settings import parse_settings
    from vlmadapt.training import TrainConfig

    records = load_records(data, task, root)
    plan = TuningPlan(
        methods=names(method),
        seeds=range(seeds),
        train=TrainConfig(epochs=epochs, batch_size=batch_size),
        lr=lr,
        options=TaskOptions.make(parse_settings(set_ or [])),
        limits=(train_limit, val_limit, test_limit),
    )
    check_plan(plan, records)
    check_model(model)
    note(describe(records))
    loaded = open_model(model, task, device, download)
    folder = out or Path("runs") / f"tune-{data}-{task}"
    results = run_tuning(loaded, records, plan, folder, report=note, progress=True)
    report_tuning(results, records.limited(*plan.limits), folder)


def check_model(name: str) -> None:
    """Whether ``name`` looks like a model, before anything is loaded or trained."""
    from vlmadapt.errors import InputError
    from vlmadapt.generative.models.load import family_named, name_forms

    if name != SMALL:
        try:
            family_named(name)
        except InputError:
            raise InputError(f"--model is {name!r}: use {SMALL}, {name_forms()}.") from None


def open_model(name: str, task: str, device: str, download: bool) -> GenerativeModel:
    from vlmadapt.generative.models import load_generative
    from vlmadapt.generative.scratch import small_model

    device = pick_device(device)
    if name != SMALL:
        return load_generative(name, device, download)
    loaded = small_model("caption" if task == "caption" else "vqa", progress=True, report=note)
    loaded.model.to(device)
    return loaded


def describe(records: RecordSet) -> str:
    return (
        f"{records.name} for {records.task}: {len(records.train)} training, {len(records.val)} validation and "
        f"{len(records.test)} test records"
    )


def report_tuning(results: TuningResults, records: RecordSet, folder: Path) -> None:
    """Write the result files and the picture, and print the table."""
    from vlmadapt.files import write_text
    from vlmadapt.generative.tuning import predictions_of
    from vlmadapt.reporting.said_picture import choose_records, describe_records, draw_said
    from vlmadapt.reporting.table import show, to_markdown
    from vlmadapt.reporting.tuning_table import tuning_table

    table = tuning_table(results)
    json_path, csv_path = results.save(folder)
    write_text(folder / "table.md", to_markdown(table) + "\n")
    seed = results.protocol["seeds"][0]
    predictions = {label: predictions_of(folder, label, seed) for label in results.methods}
    chosen = choose_records(records.test, predictions, SHOWN)
    subtitle = "Test records" + (", those on which the methods disagree first" if len(predictions) > 1 else "")
    title = f"{records.name}, {records.task}: what each method says (seed {seed})"
    picture = draw_said(describe_records(chosen, predictions), title, subtitle, folder / "said.png")
    show(table, output())
    say(f"picture: {picture}")
    say(f"results: {json_path}, {csv_path}")
    say(f"adapters: {folder / 'fits'}")
