"""Arguments of another kind than their annotation says end in one sentence; a call that succeeds is not looked at."""

from __future__ import annotations

import builtins
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import torch
from torch import Tensor

from vlmadapt.errors import InputError, VlmadaptError

# What code raises that has got another kind of thing.
RAW = (AttributeError, TypeError, ValueError, IndexError, KeyError, RuntimeError)
Given = ParamSpec("Given")
Result = TypeVar("Result")
WORDS: dict[Any, str] = {
    Tensor: "a tensor",
    Path: "a path",
    Sequence: "a list",
    Mapping: "a dict",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a word",
    type(None): "None",
}


def of_kinds(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorates a function, or an ``__init__``: what it raises because an argument is of another kind than is annotated
    is an :class:`InputError` that names the argument, what it is and what to give instead."""

    @functools.wraps(function)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except VlmadaptError:
            raise
        except RAW as error:
            _name_other_kind(function, args, kwargs, error)
            if isinstance(error, RuntimeError) and str(error).startswith("vmap: It looks like"):
                owner = function.__qualname__.partition(".")[0]
                raise InputError(
                    f"vmap maps an argument of {owner} whose numbers are looked at, such as labels: map features and "
                    "scales alone, or call it once for each."
                ) from error
            raise

    # Its own: torch.compile counts how often a code object is compiled, and would count all operators as one.
    called.__code__ = called.__code__.replace(co_name=function.__name__)  # type: ignore[attr-defined]
    return called


def _name_other_kind(function: Callable[..., Any], args: Any, kwargs: Any, error: Exception) -> None:
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return  # another number of arguments, or another name: Python's own message says so
    own = inspect.unwrap(function)
    refuse_other_kinds(given, own.__annotations__, own.__globals__, error)


def refuse_other_kinds(
    given: Mapping[str, Any], annotations: Mapping[str, Any], names: Mapping[str, Any], error: Exception
) -> None:
    """Raise :class:`InputError` from ``error`` for the first of ``given`` that is not of the kind that ``annotations``
    say, which are texts in which ``names`` are known."""
    for name, value in given.items():
        hint = annotations.get(name, Any)
        if isinstance(hint, str):
            hint = eval(hint, {}, _Names(names))
        wrong = _wrong(name, value, hint)
        if wrong is not None:
            raise InputError(wrong) from error


class _Names(dict[str, Any]):
    """What names stand for; what only the type checker knows may be anything."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _wrong(name: str, value: Any, hint: Any) -> str | None:
    """What is wrong with ``value``, in a sentence."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    lists = [kind for kind in kinds if get_origin(kind) is Sequence]
    if lists and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        found = (_wrong(f"{name}[{i}]", item, get_args(lists[0])[0]) for i, item in enumerate(value))
        return next((sentence for sentence in found if sentence is not None), None)
    if isinstance(value, Tensor) and Tensor in kinds:
        return f"{name} is {value.layout}: pass {name}.to_dense()." if value.layout != torch.strided else None
    if any(_is(value, kind) for kind in kinds):
        return None
    return f"{name} is a {type(value).__name__}: give {_wanted(name, value, kinds)}."


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = get_origin(kind) or kind
    if kind is Sequence:
        return False  # was looked at before
    try:
        return isinstance(value, kind)
    except TypeError:
        return True  # Any, a type variable, a protocol


def _wanted(name: str, value: Any, kinds: Sequence[Any]) -> str:
    if Tensor in kinds and type(value).__name__ == "ndarray":  # NumPy need not be there
        return f"a tensor, as torch.from_numpy({name}) is"
    if Tensor in kinds and isinstance(value, (list, tuple)):
        return f"a tensor, as torch.tensor({name}) is"
    words = [_word(kind) for kind in kinds if kind is not type(None)]
    return " or ".join(dict.fromkeys(words))


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    kind = get_origin(kind) or kind
    return WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")
