"""Options of commands: each is one field of a dataclass, for Python and for the command line.

A field's name is the Python argument, its default the default of both, its metadata what the command line needs:
``help``; ``least``, the smallest value; ``flag``, the option's name where it is not the field's; ``commas``, where
several values are given as one text; ``whole``, where it is a whole number or ``all``; ``type``, where the default does
not tell it; ``shown``, a default in words; ``command``, a default of the command line alone; ``python``, whether it is
no option at all. A field without a default must be given.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result", covariant=True)


def says(text: str, **more: Any) -> dict[str, Any]:
    """The metadata of a field: its help and the rest."""
    return {"help": text, **more}


@dataclass(frozen=True, kw_only=True)
class OptionSet:
    """Base of a command's options; one that has no use for some it inherits names them in ``without``."""

    without: ClassVar[tuple[str, ...]] = ()


def offered(options: type[OptionSet]) -> Iterator[Field[Any]]:
    """The fields of a command: its own first, then those it shares."""
    own = inspect.get_annotations(options)
    yield from (each for each in fields(options) if each.name in own)
    yield from (each for each in fields(options) if each.name not in own and each.name not in options.without)


class WithOptions(Protocol[Given, Result]):
    """A function whose keyword arguments are the fields of its options."""

    with_options: Callable[..., Any]

    def __call__(self, *args: Given.args, **options: Given.kwargs) -> Result: ...


def with_options(kind: Callable[Given, OptionSet]) -> Callable[[Callable[..., Result]], WithOptions[Given, Result]]:
    """Lets a function whose last parameter is ``options`` be called with its fields as keyword arguments.

    They become part of its signature, and their help of its docstring; its ``with_options`` is the function as it was.
    An argument that is not offered is a TypeError, as for any function.
    """
    known = list(offered(kind))  # type: ignore[arg-type]

    def decorate(function: Callable[..., Result]) -> WithOptions[Given, Result]:
        own = [each for name, each in inspect.signature(function).parameters.items() if name != "options"]
        more = [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.default is MISSING else each.default,
                annotation=each.type,
            )
            for each in known
        ]
        signature = inspect.signature(function).replace(parameters=[*own, *more])
        names = {each.name for each in known}

        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Result:
            bound = signature.bind(*args, **given).arguments
            chosen = {name: bound.pop(name) for name in names & bound.keys()}
            try:
                return function(**bound, options=kind(**chosen))  # type: ignore[call-arg]
            except Exception as error:
                _name_other_kind(kind, chosen, function, bound, error)
                raise

        called.__signature__ = signature  # type: ignore[attr-defined]
        called.with_options = function  # type: ignore[attr-defined]
        lines = "\n".join(f"    {each.name}: {each.metadata['help']}" for each in known)
        called.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{lines}\n"
        return called  # type: ignore[return-value]

    return decorate


def _name_other_kind(
    kind: Any, chosen: dict[str, Any], function: Callable[..., Any], bound: dict[str, Any], error: Exception
) -> None:
    """What ``error`` comes of, where an option or argument is of another kind than is annotated."""
    from vlmadapt.errors import VlmadaptError  # not above: it imports torch, and the command line starts without
    from vlmadapt.kinds import RAW, refuse_other_kinds

    if isinstance(error, VlmadaptError) or not isinstance(error, RAW):
        return
    for owner in kind.__mro__[:-1]:
        refuse_other_kinds(chosen, inspect.get_annotations(owner), vars(sys.modules[owner.__module__]), error)
    own = inspect.unwrap(function)
    refuse_other_kinds(bound, own.__annotations__, own.__globals__, error)
