"""The command tree, and how errors and interruptions end."""

from __future__ import annotations

import shlex
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlmadapt.cli import compare, data, demo, doctor, features, fit, graph, listing, predict, tune
from vlmadapt.cli.console import fail, warn
from vlmadapt.version import __version__

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
# How an interrupted command goes on; the others leave nothing behind.
RESUMED_BY_FLAG = ("fit",)
RESUMED_BY_REPEATING = ("compare", "demo", "features", "tune")


class Commands(TyperGroup):
    """Turns this package's errors into one red sentence, and Ctrl-C into a hint."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["vlmadapt.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        warnings.showwarning = lambda message, *_args, **_kwargs: warn(str(message))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail(_resume_hint(ctx.invoked_subcommand, ctx.meta["vlmadapt.arguments"]))
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            if ctx.params.get("debug") or not _is_ours(error):
                raise
            fail(str(error))
            raise typer.Exit(EXIT_ERROR) from None


def _is_ours(error: Exception) -> bool:
    """The errors live in a module that imports torch: where nothing has imported it, none of them was raised."""
    errors = sys.modules.get("vlmadapt.errors")
    return errors is not None and isinstance(error, errors.VlmadaptError)


def _resume_hint(command: str | None, arguments: list[str]) -> str:
    again = list(arguments)
    if command in RESUMED_BY_FLAG and "--resume" not in again:
        again = [argument for argument in again if argument != "--overwrite"] + ["--resume"]
    elif command not in RESUMED_BY_REPEATING + RESUMED_BY_FLAG:
        return "Interrupted."
    return f"Interrupted. To go on where it stopped: vlmadapt {shlex.join(again)}"


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
app.command("eval")(fit.evaluate)
app.command()(predict.predict)
app.command()(graph.graph)
app.command()(compare.compare)
app.command()(tune.tune)
app.command()(features.features)
app.add_typer(data.commands, name="data")
app.command()(listing.adapters)
app.command()(doctor.doctor)


def main() -> None:
    app(prog_name="vlmadapt")
    sys.exit(0)
