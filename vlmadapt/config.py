"""What every method's configuration can do: be made from a dict, checked, and described from its field metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from vlmadapt.errors import InputError

Config = TypeVar("Config", bound="AdapterConfig")

YES, NO = ("yes", "on", "true", "1"), ("no", "off", "false", "0")
GRID_RANGE = (1e-9, 1e9)  # beyond, scores overflow or vanish in float32
MOST_STEPS = 1000
MOST_WIDTH = 1 << 16  # of a layer: a saved file must not ask for hundreds of gigabytes


@dataclass(frozen=True)
class AdapterConfig:
    """Base of all configurations; the ``help`` in each field's metadata is its documentation.

    A field annotated ``bool`` is read by :func:`read_switches`. Raises :class:`InputError` for one that is none.
    """

    def __post_init__(self) -> None:
        read_switches(self)

    @classmethod
    def make(cls: type[Config], value: Config | Mapping[str, Any] | None) -> Config:
        """``value``: ``None`` for the defaults, or a mapping that may name any field.

        Raises :class:`InputError` on unknown fields.
        """
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"config is a {type(value).__name__}: give a dict or a {cls.__name__}.")
        known = [entry.name for entry in fields(cls)]
        for name in value:
            if name not in known:
                raise InputError(f"config has no field {name!r}: {cls.__name__} knows {', '.join(known) or 'none'}.")
        # JSON has no tuples.
        return cls(**{name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()})

    def as_dict(self) -> dict[str, Any]:
        """Every field by name.

        One that files of 0.1.0 do not know (``later`` in its metadata) only where it is not the default: a run that
        began without it is the same run.
        """
        later = {entry.name: entry.default for entry in fields(self) if entry.metadata.get("later")}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    @classmethod
    def describe(cls) -> list[tuple[str, Any, str]]:
        """``(name, default, help)`` of each field."""
        return [
            (entry.name, None if entry.default is MISSING else entry.default, entry.metadata.get("help", ""))
            for entry in fields(cls)
        ]


def read_switches(config: Any) -> None:
    """Make every field of the dataclass ``config`` that is annotated ``bool`` one, in place: the one reader of them.

    Understood are booleans, 1 and 0, and in any case the words yes, on, true, no, off, false. Raises
    :class:`InputError` naming the field for anything else.
    """
    for entry in fields(config):
        if entry.type not in ("bool", bool):
            continue
        value = getattr(config, entry.name)
        word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
        if word not in YES + NO:
            raise InputError(f"{type(config).__name__}.{entry.name} is {value!r}: use yes or no.")
        object.__setattr__(config, entry.name, word in YES)


def check_grid(config: AdapterConfig, name: str) -> None:
    """Raise :class:`InputError` unless the field is ``(low, high, steps)``: the one reader of a searched range.

    ``low`` and ``high`` are finite numbers of ``GRID_RANGE``, ``low <= high``; ``steps`` is whole, 1 to ``MOST_STEPS``.
    """
    value = getattr(config, name)
    if isinstance(value, tuple) and len(value) == 3 and not any(isinstance(part, bool) for part in value):
        low, high, steps = value
        numbers = all(isinstance(part, (int, float)) for part in (low, high))
        inside = numbers and GRID_RANGE[0] <= low <= high <= GRID_RANGE[1]  # never true of NaN
        if inside and isinstance(steps, int) and 1 <= steps <= MOST_STEPS:
            return
    raise InputError(
        f"{type(config).__name__}.{name} is {value!r}: give (low, high, steps) with {GRID_RANGE[0]:g} <= low <= high "
        f"<= {GRID_RANGE[1]:g} and a whole number of steps from 1 to {MOST_STEPS}."
    )


def check_choice(config: AdapterConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raise :class:`InputError` unless the field is one of ``choices``."""
    if getattr(config, name) not in choices:
        raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}: use {', '.join(choices)}.")


def check_not_both(config: AdapterConfig, *names: str) -> None:
    """Raise :class:`InputError` where more than one of these switches is on."""
    if sum(getattr(config, name) for name in names) > 1:
        raise InputError(f"{type(config).__name__}.{' and '.join(names)} exclude each other: set one of them to no.")
