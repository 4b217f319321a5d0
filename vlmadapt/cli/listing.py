"""``vlmadapt adapters``: the methods and their settings."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from vlmadapt.cli.console import output


def adapters(
    name: Annotated[
        Optional[str], typer.Argument(help="Show the settings of this one.", show_default=False)  # noqa: UP045
    ] = None,
) -> None:
    """List the adapters, or the settings of one, for fit --set and compare --adapters."""
    from vlmadapt.adapters import ADAPTERS
    from vlmadapt.errors import InputError
    from vlmadapt.reporting.table import Table, show

    if name is None:
        rows = [[key, _summary(adapter)] for key, adapter in ADAPTERS.items()]
        show(Table("Adapters", ["adapter", "what it is"], rows, left=frozenset({0, 1})), output())
        return
    if name not in ADAPTERS:
        raise InputError(f"there is no adapter {name!r}: use one of {', '.join(ADAPTERS)}.")
    rows = [[key, _shown(value), text] for key, value, text in ADAPTERS[name].config_class.describe()]
    show(Table(f"Settings of {name}", ["setting", "default", "meaning"], rows, left=frozenset({0, 1, 2})), output())


def _summary(adapter: type) -> str:
    """The first line of its module's documentation."""
    return (sys.modules[adapter.__module__].__doc__ or "").splitlines()[0]


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
