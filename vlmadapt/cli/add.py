"""``vlmadapt add-class`` and ``vlmadapt add-pictures``: a saved classifier learns more without a fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmadapt.cli.console import say
from vlmadapt.cli.options import RunArgument, command
from vlmadapt.experiments.options import AddClassOptions, AddOptions

if TYPE_CHECKING:
    from vlmadapt.classifier import Classifier

Pictures = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the class's pictures.", show_default=False)]
Folders = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with one folder a class.", show_default=False)]


@command(AddClassOptions)
def add_class(run: RunArgument, pictures: Pictures, options: AddClassOptions) -> None:
    """Give a saved classifier one class more, as a fit with its pictures too would.

    For methods that are sums over their samples; nothing is searched, and the calibration stays.
    """
    from vlmadapt.experiments.growth import add_class as add

    _print(add.with_options(run, pictures, chosen := _chosen(run, options)), chosen)


@command(AddOptions)
def add_pictures(run: RunArgument, pictures: Folders, options: AddOptions) -> None:
    """Give a saved classifier more pictures of its classes, as a fit with them too would.

    For methods that are sums over their samples; nothing is searched, and the calibration stays.
    """
    from vlmadapt.experiments.growth import add_pictures as add

    _print(add.with_options(run, pictures, chosen := _chosen(run, options)), chosen)


def _chosen(run: Path, options: AddOptions) -> AddOptions:
    return options if options.out is not None else replace(options, out=run.with_name(f"{run.name}-more"))


def _print(grown: Classifier, options: AddOptions) -> None:
    run = grown.run
    say(f"{len(run.class_names)} classes, {len(run.support)} training pictures")
    say(f"saved in {options.out}", "green")
