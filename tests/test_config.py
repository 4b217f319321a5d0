"""Settings: one reader of a switch and one of a searched range, for every field of every configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

import vlmadapt.adapters
import vlmadapt.generative.methods.registry
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.provenance.settings import parse_settings
from vlmadapt.training import TrainConfig


def configurations(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("vlmadapt."):
            yield kind
            yield from configurations(kind)


KINDS: list[Any] = list(dict.fromkeys([TrainConfig, *configurations(TrainConfig), *configurations(AdapterConfig)]))
SWITCHES = [(kind, entry.name) for kind in KINDS for entry in fields(kind) if entry.type == "bool"]
RANGES = [(kind, entry.name) for kind in KINDS for entry in fields(kind) if entry.name.startswith("search_")]
RANGES = [(kind, name) for kind, name in RANGES if (kind, name) not in SWITCHES]
WRONG_RANGES: list[Any] = [
    [1, 8, 2.5],
    [1, 8, 2.0],
    ["a", 1, 2],
    [1, "8", 2],
    [1, 8, "2"],
    [1, 8, True],
    [True, 8, 2],
    [1, math.inf, 3],
    [math.nan, 8, 3],
    [1, math.nan, 3],
    [-math.inf, 8, 3],
    [1e-300, 1e300, 5],
    [1, 10**400, 5],
    [0, 8, 2],
    [-1, 8, 2],
    [8, 1, 2],
    [1, 8, 0],
    [1, 8, -3],
    [1, 8, 10**9],
    [1, 8],
    [1, 8, 2, 2],
    [[1], 8, 2],
    [None, 8, 2],
    [],
    None,
    3,
    True,
    "1,8,2",
    {"low": 1},
]


def named(rows: list[tuple[type, str]]) -> list[Any]:
    return [pytest.param(kind, name, id=f"{kind.__name__}.{name}") for kind, name in rows]


def test_every_kind_of_setting_was_found() -> None:
    assert len(SWITCHES) >= 20 and len(RANGES) >= 8
    assert {"amp", "leave_one_out", "hard_mining", "per_class", "learn_p", "tower"} <= {name for _, name in SWITCHES}
    assert {"search_beta", "search_alpha", "search_w", "search_c", "search_lam"} == {name for _, name in RANGES}


def make(kind: type, settings: dict[str, Any]) -> Any:
    return kind.make(settings) if issubclass(kind, AdapterConfig) else kind(**settings)


@pytest.mark.parametrize(("kind", "name"), named(SWITCHES))
def test_a_switch_is_read_or_refused(kind: type, name: str) -> None:
    for word, meant in {
        **dict.fromkeys(["yes", "on", "true", "1", "YES", "True", " on "], True),
        **dict.fromkeys(["no", "off", "false", "0", "No", "OFF", "fAlse"], False),
    }.items():
        for settings in (parse_settings([f"{name}={word}"]), {name: word}):
            assert getattr(make(kind, settings), name) is meant, word
            assert getattr(kind(**settings), name) is meant, word
    for wrong in ["n", "y", "", "none", "2", "-1", "0.0", "[]", "[true]", "nan", '""', '"no way"', "{}", "10"]:
        with pytest.raises(InputError, match=rf"^{kind.__name__}\.{name} is .*: use yes or no\.$"):
            make(kind, parse_settings([f"{name}={wrong}"]))
    with pytest.raises(InputError, match=rf"{name} is 1\.0"):
        kind(**{name: 1.0})


@pytest.mark.parametrize(("kind", "name"), named(RANGES))
def test_a_range_is_read_or_refused(kind: Any, name: str) -> None:
    for right in ([1, 8, 2], [0.5, 0.5, 1], [1e-9, 1e9, 1000]):
        assert getattr(make(kind, parse_settings([f"{name}={json.dumps(right)}"])), name) == tuple(right)
    for wrong in WRONG_RANGES:
        with pytest.raises(InputError, match=rf"^{kind.__name__}\.{name} is .*: give \(low, high, steps\) with .*\.$"):
            make(kind, {name: wrong})


@pytest.mark.parametrize("written", ["[1,Infinity,3]", "[NaN,8,3]", "[1,8", "1,8,2", '["a",1,2]'])
def test_a_range_as_the_command_line_gives_it(written: str) -> None:
    config = vlmadapt.adapters.ADAPTERS["tip-adapter"].config_class
    with pytest.raises(InputError, match=r"search_beta is .*: give \(low, high, steps\)"):
        config.make(parse_settings([f"search_beta={written}"]))


def test_a_number_beyond_floats_is_refused() -> None:
    with pytest.raises(InputError, match=r"lr is 1000.*give a finite number"):
        TrainConfig(lr=10**400)
