"""The command tree, and how errors and interruptions end."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlmadapt.cli import (
    add,
    answer,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    export,
    features,
    fit,
    graph,
    listing,
    predict,
    serve,
    tune,
)
from vlmadapt.cli.console import drop_output, fail, lost_output, prepare_streams, warn
from vlmadapt.cli.interruption import ending_softly, exit_code, resume_hint
from vlmadapt.version import __version__

EXIT_ERROR = 2
EXIT_PIPE = 141  # as shells count: 128 and the number of SIGPIPE


class Commands(TyperGroup):
    """Turns this package's errors into one red sentence, and interruptions into a hint."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["vlmadapt.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        warnings.showwarning = lambda message, *_args, **_kwargs: warn(str(message))
        prepare_streams()
        try:
            with ending_softly():
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # a terminal that has hung up takes no hint
                fail(resume_hint(ctx.invoked_subcommand, ctx.meta["vlmadapt.arguments"], stop))
            raise typer.Exit(exit_code(stop)) from None
        except BrokenPipeError:
            drop_output()  # whoever read it has gone, as `head` does
            raise typer.Exit(EXIT_PIPE) from None
        except Exception as error:
            lost = lost_output(error)
            if ctx.params.get("debug") or not (lost or _is_ours(error)):
                raise
            with suppress(OSError):  # standard error may go to the same full disk
                fail(lost or str(error))
            if lost:
                drop_output()
            raise typer.Exit(EXIT_ERROR) from None


def _is_ours(error: Exception) -> bool:
    """The errors live in a module that imports torch: where nothing has imported it, none of them was raised."""
    errors = sys.modules.get("vlmadapt.errors")
    return errors is not None and isinstance(error, errors.VlmadaptError)


app = typer.Typer(
    cls=Commands,
    name="vlmadapt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vlmadapt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Adapt vision-language models from a handful of images."""


app.command()(demo.demo)
app.command()(fit.fit)
app.command("eval")(evaluate.evaluate)
app.command()(predict.predict)
app.command()(graph.graph)
app.command()(serve.serve)
app.command("add-class")(add.add_class)
app.command("add-pictures")(add.add_pictures)
app.command()(export.export)
app.command()(compare.compare)
app.command()(tune.tune)
app.command()(answer.answer)
app.command()(features.features)
app.add_typer(data.commands, name="data")
app.command()(listing.adapters)
app.command()(doctor.doctor)


def main() -> None:
    try:
        app(prog_name="vlmadapt")
    finally:  # what --version and --help print leaves the commands unflushed
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            drop_output()
    sys.exit(0)
