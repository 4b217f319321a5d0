"""``vlmadapt export``: a saved classifier as a program for other runtimes."""

from __future__ import annotations

from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import RunArgument, command
from vlmadapt.sharing.options import ExportOptions


@command(ExportOptions)
def export(run: RunArgument, options: ExportOptions) -> None:
    """Write a saved classifier as a program that other runtimes can run, and try it on a probe.

    The folder gets the program, export.json with the class names and what makes pixels of pictures, and the probe.
    """
    from vlmadapt.sharing.export import export as write

    written = write.with_options(run, options)
    for runtime, difference in written.differences.items():
        note(f"{runtime}: probabilities of the probe within {difference:.1e} of the classifier's")
    say(f"exported: {written.program}", "green")
