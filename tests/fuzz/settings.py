"""Settings as people type them: fields of configurations, methods of a comparison, options of commands."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from tests.fuzz.mutate import ODD_VALUES, damaged
from tests.fuzz.outcome import Attempt
from tests.test_config import KINDS as CONFIGURATIONS
from tests.test_config import make
from vlmadapt.adapters import ADAPTERS
from vlmadapt.cli.options import command, flag_of
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.experiments import options as few_shot
from vlmadapt.generative.options import TuneOptions
from vlmadapt.options import OptionSet, offered
from vlmadapt.provenance.settings import Method, parse_method, plain

WORDS = [
    "0", "1", "2", "8", "0.5", "1e-3", "1e+1", "1E3", "-1", "-0", "1e400", "1e-400", "nan", "inf", "-Infinity", "1_0",
    "٣", "1,2,4", "1,,2", ",", "[1,8,2]", "[1, 8, 2.5]", "[1,8", '["a",1,2]', "[]", "{}", '{"a":1}', "yes", "no",
    "on", "off", "True", "false", "none", "null", "n", "", " ", "=", ":", "::", "fixed", "learnt", "caption", "vqa",
    "auto", "cpu", "fp32", "bf16", "a photo of a {}", "{}", "{0}", "%s", "../x", "-", "--", "x" * 300, "9" * 5000,
    "[" * 3000, "猫", "\ud800", "\udce9", "a\nb", "\x1b[31m", "\u202e", "'", '"', '"1"', "0x10", "1.0", "1.5", " 1 ",
]  # fmt: skip
# Some versions of typer bring a click of their own.
CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def word(random: Random) -> str:
    """What may stand on a command line, where no NUL can."""
    text = random.choice(WORDS)
    if random.random() < 0.2:
        changed = damaged(random, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        text = changed.replace("\0", "")[:400]
    return text


# Configurations.


def configuration(random: Random, _: Path) -> Attempt:
    """A configuration from a mapping, as Python and saved files give it."""
    kind = random.choice(CONFIGURATIONS)
    settings = _settings(random, kind)
    return Attempt(lambda: make(kind, settings), (kind.__name__,), check_configuration)


def _settings(random: Random, kind: Any) -> dict[str, Any]:
    known = kind.__dataclass_fields__
    names = [random.choice([*known]) for _ in range(random.choice([1, 1, 2, 4]))] if known else []
    if random.random() < 0.02 and issubclass(kind, AdapterConfig):
        names.append(word(random))
    found = {}
    for name in names:
        default = getattr(kind, name, None) if name in known else None
        found[name] = random.choice([default, *_near(random, default), random.choice(ODD_VALUES), word(random)])
    return found


def _near(random: Random, default: Any) -> list[Any]:
    """Values of the type of a default, and of those that look like it."""
    number = random.choice([0, 1, 2, 3, 7, 64, 0.5, 1.5, -1, 1e-9, 1e9])
    if isinstance(default, tuple):
        steps = random.choice([0, 1, 5, 1000, 1001, 2.0, True])
        return [[number, random.choice([number, 8, 32.0]), steps], (number, 8, steps), list(default)[:2], default]
    if isinstance(default, bool):
        return [True, False, 1, "yes", "off", number]
    return [number, str(number), [number]]


def check_configuration(found: Any) -> None:
    """Every field has the type it is annotated with, and a file would give the same configuration back."""
    kind = type(found)
    for name, hint in hints_of(kind).items():
        value = getattr(found, name)
        assert fits(value, hint), f"{kind.__name__}.{name} is {value!r}, not {hint}"
    settings = {name: getattr(found, name) for name in found.__dataclass_fields__}
    again = json.loads(json.dumps(settings, allow_nan=False))
    if issubclass(kind, AdapterConfig):
        assert kind.make(again) == found, f"{found} is another when it is read back"


def hints_of(kind: Any) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind).items() if name in kind.__dataclass_fields__}


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint``: no bool is a number, and every number is finite."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        rest = inner[0] if inner[-1] is Ellipsis else None
        each = [rest] * len(value) if rest is not None and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(fits, value, each))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (type(None) if hint is None else hint)


# A method of a comparison: an adapter and settings in one text.


def method(random: Random, _: Path) -> Attempt:
    """``xmadapter:fusion=fixed:epochs=20`` and what looks like it."""
    name = random.choice([*ADAPTERS])
    pairs = []
    for key, value in _settings(random, ADAPTERS[name].config_class).items():
        written = value if isinstance(value, str) else json.dumps(value)
        pairs.append(f"{key if random.random() < 0.9 else key.replace('_', '-')}={written}")
    text = ":".join([name, *pairs])
    if random.random() < 0.2:
        text = damaged(random, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")

    def read() -> tuple[Method, Any]:
        found = parse_method(text)
        if found.adapter not in ADAPTERS:
            raise InputError(f"method {found.adapter!r} is none.")
        return found, ADAPTERS[found.adapter].config_class.make(found.settings)

    def check(read: tuple[Method, Any]) -> None:
        found, config = read
        assert found.label == text
        json.dumps(plain(found.settings)).encode()
        check_configuration(config)

    return Attempt(read, (), check)


# Options of the commands.

SETS: list[type[OptionSet]] = [
    TuneOptions,
    *(each for each in vars(few_shot).values() if isinstance(each, type) and issubclass(each, few_shot.Options)),
]


def _command_of(kind: type[OptionSet]) -> tuple[Any, list[OptionSet]]:
    """A command with the options of ``kind`` that does nothing but keep them."""
    kept: list[OptionSet] = []

    def keep(options: Any) -> None:
        kept.append(options)

    app = typer.Typer()
    app.command()(command(kind)(keep))
    return typer.main.get_command(app), kept


COMMANDS = [_command_of(kind) for kind in SETS]


def options(random: Random, _: Path) -> Attempt:
    """A command line with some of a command's options."""
    place = random.randrange(len(SETS))
    kind, (made, kept) = SETS[place], COMMANDS[place]
    known = [each for each in offered(kind) if not each.metadata.get("python")]
    chosen = [random.choice(known) for _ in range(random.choice([1, 1, 2, 3]))] if known else []
    arguments: list[str] = []
    given: dict[str, list[str]] = {}
    for each in chosen:
        flag = flag_of(each)
        if isinstance(each.default, bool):
            arguments.append(flag)
            continue
        text = word(random)
        if each.metadata.get("metavar") == "KEY=VALUE" and random.random() < 0.8:
            text = f"{random.choice(['lr', 'beta', 'search-beta', 'prompt', ''])}={text}"
        arguments += [f"{flag}={text}"] if random.random() < 0.5 else [flag, text]
        given.setdefault(each.name, []).append(text)
    if kind is TuneOptions and "task" not in given and random.random() < 0.9:
        arguments += ["--task", "vqa"]

    def read() -> OptionSet:
        kept.clear()
        try:
            made.main(arguments, prog_name="vlmadapt", standalone_mode=False)
        except CLICK_ERROR as error:  # click writes its own sentences, some without a full stop
            raise InputError(f"{error.format_message().rstrip('.')}.") from error  # type: ignore[attr-defined]
        return kept[-1]

    return Attempt(read, (), lambda found: check_options(found, given))


def check_options(found: OptionSet, given: dict[str, list[str]]) -> None:
    """What was typed is what Python gets."""
    for each in offered(type(found)):
        value = getattr(found, each.name)
        least = each.metadata.get("least")
        assert least is None or value is None or value >= least, f"{each.name} is {value!r}, below {least}"
        if each.name not in given:
            continue
        text = given[each.name][-1]
        if each.metadata.get("metavar") == "KEY=VALUE":
            assert len(value) == len(given[each.name])
        elif each.metadata.get("commas") == "numbers":
            assert value == [int(part) for part in text.split(",")]
        elif type(value) in (int, float):
            assert value == float(text) or (math.isnan(value) and math.isnan(float(text))), (
                f"{text!r} is read as {value}"
            )
        elif isinstance(value, Path):
            assert value == Path(text)
        elif isinstance(value, str):
            assert value == text


KINDS: dict[str, Callable[[Random, Path], Attempt]] = {
    "configuration": configuration,
    "method": method,
    "options": options,
}
