"""What every method's configuration can do: be made from a dict, checked, and described from its field metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from vlmadapt.errors import InputError

Config = TypeVar("Config", bound="AdapterConfig")


@dataclass(frozen=True)
class AdapterConfig:
    """Base of all configurations; the ``help`` in each field's metadata is its documentation."""

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
        """Every field by name."""
        return asdict(self)

    @classmethod
    def describe(cls) -> list[tuple[str, Any, str]]:
        """``(name, default, help)`` of each field."""
        return [
            (entry.name, None if entry.default is MISSING else entry.default, entry.metadata.get("help", ""))
            for entry in fields(cls)
        ]


def check_grid(config: AdapterConfig, name: str) -> None:
    """Raise :class:`InputError` unless the field is ``(low, high, steps)``, ``0 < low <= high``, at least one step."""
    value = getattr(config, name)
    good = isinstance(value, tuple) and len(value) == 3 and 0 < value[0] <= value[1] and value[2] >= 1
    if not good:
        raise InputError(f"{type(config).__name__}.{name} is {value!r}: give (low, high, steps) with 0 < low <= high.")


def check_choice(config: AdapterConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raise :class:`InputError` unless the field is one of ``choices``."""
    if getattr(config, name) not in choices:
        raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}: use {', '.join(choices)}.")
