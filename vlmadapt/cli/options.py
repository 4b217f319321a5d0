"""From the options of the package (:mod:`vlmadapt.options`) to those of the commands."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vlmadapt.options import OptionSet, offered

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a saved classifier.", show_default=False)]
ALL = "all"  # in place of a number
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
NoPictures = Annotated[bool, typer.Option("--no-pictures", help="Show no small copies of pictures in report.html.")]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A built-in set such as clipart (see vlmadapt data list), a folder of class folders, a .csv or .jsonl "
        "file, a split_zhou_*.json file, a .safetensors or .npz file of features, or a benchmark's name with --root.",
        show_default=False,
    ),
]


def flag_of(of: Field[Any]) -> str:
    """The option's name on the command line."""
    return of.metadata.get("flag") or "--" + of.name.replace("_", "-")


def option(of: Field[Any]) -> Any:
    """The ``typer.Option`` of a field."""
    more = of.metadata
    return typer.Option(
        flag_of(of),
        help=more["help"],
        min=more.get("least"),
        metavar=more.get("metavar"),
        show_default=more.get("shown", True),
    )


def command(options: type[OptionSet]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a function with a parameter ``options``: it gets an option for each field, and after these one
    for each keyword argument of its own."""
    known = [each for each in offered(options) if not each.metadata.get("python")]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            each.replace(annotation=hints[name])
            for name, each in inspect.signature(function).parameters.items()
            if name != "options"
        ]
        more = [_parameter(each) for each in known]
        last = [each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY]
        own = [each for each in own if each not in last]

        @functools.wraps(function)
        def called(**given: Any) -> None:
            chosen = options(**{each.name: _value(each, given.pop(each.name)) for each in known})
            function(**given, options=chosen)

        called.__signature__ = inspect.Signature([*own, *more, *last])  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in (*own, *more, *last)}
        return called

    return decorate


def _parameter(of: Field[Any]) -> inspect.Parameter:
    default = of.metadata.get("command", of.default)
    if "commas" in of.metadata and default is not None:
        default = ",".join(map(str, default))
    if default is MISSING:
        kind, default = of.metadata["type"], inspect.Parameter.empty
    elif "whole" in of.metadata:
        kind, default = str, str(default)
    else:
        kind = type(default) if default is not None else of.metadata["type"] | None
    if isinstance(default, Path):
        kind = Path  # Path() makes one of the platform's own class, which older versions of typer do not know.
    return inspect.Parameter(
        of.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option(of)]
    )


def _value(of: Field[Any], given: Any) -> Any:
    """What the command line gave, as Python takes it.

    Raises :class:`InputError` for a whole number beyond 64 bits: nothing counts so far, and messages could not show it.
    """
    if of.metadata.get("whole") and given != ALL:
        given = whole(flag_of(of), given)
    if isinstance(given, int) and abs(given) > sys.maxsize:
        from vlmadapt.errors import InputError

        raise InputError(f"{flag_of(of)} is beyond {sys.maxsize}: give a smaller number.")
    if of.metadata.get("commas") and given is None:
        return None
    if of.metadata.get("commas") == "numbers":
        return numbers("--" + of.name, given)
    if of.metadata.get("commas") == "names":
        return names(given)
    if of.metadata.get("metavar") == "KEY=VALUE":
        from vlmadapt.provenance.settings import parse_settings

        return parse_settings(given or [])
    return given


def pick_device(device: str) -> str:
    from vlmadapt import backbones

    return backbones.pick_device(device)


def whole(name: str, text: str) -> int:
    """``"16"`` to a number. Raises :class:`InputError` naming the option."""
    from vlmadapt.errors import InputError

    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name} is {text!r}: give a whole number, or {ALL}.") from error


def numbers(name: str, text: str) -> list[int]:
    """``"1,2,4"`` to numbers. Raises :class:`InputError` naming the option."""
    from vlmadapt.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name} is {text!r}: give whole numbers separated by commas, such as 1,2,4.") from error


def names(text: str) -> list[str]:
    """Split at commas, except inside brackets: ``"a,b:search_beta=[1,8,4]"`` are two names."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text)]
