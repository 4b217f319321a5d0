"""The methods by name. A new one is a file beside this and its lines in ``__init__.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.images import ImageEncoder
from vlmadapt.adapters.no_text import NoText
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds

ADAPTERS: dict[str, type[Adapter]] = {}  # filled by vlmadapt/adapters/__init__.py
Adapter.kinds = ADAPTERS  # what loading and error messages look names up in, without an import upwards


@of_kinds
def create_adapter(
    name: str,
    text_features: Tensor | NoText,
    logit_scale: float,
    config: AdapterConfig | Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    encoder: ImageEncoder | None = None,
    negative_text_features: Tensor | None = None,
) -> Adapter:
    """An unfitted adapter; ``name`` is a key of ``ADAPTERS``, the rest goes to its constructor:
    ``text_features [C, D]`` or :class:`NoText`, ``logit_scale``, ``config``, ``class_names`` and ``encoder`` as in
    :class:`Adapter`.

    ``negative_text_features`` goes to the adapters that need it (``needs_negatives``); the others do without.
    Raises :class:`InputError` for an unknown name and for what the constructor refuses.
    """
    if name not in ADAPTERS:
        raise InputError(f"there is no adapter {name!r}: use one of {', '.join(ADAPTERS)}.")
    adapter = ADAPTERS[name]
    more: dict[str, Any] = {"negative_text_features": negative_text_features} if adapter.needs_negatives else {}
    return adapter(text_features, logit_scale, config, class_names=class_names, encoder=encoder, **more)


@of_kinds
def load_adapter(folder: str | Path, encoder: ImageEncoder | None = None) -> Adapter:
    """The adapter saved in ``folder``, of whatever kind, with its ``encoder``; see :meth:`Adapter.load`."""
    return Adapter.load(folder, encoder)


def explaining_adapters() -> list[str]:
    """Names of the adapters that can say which cached samples decided."""
    return [name for name, adapter in ADAPTERS.items() if adapter.explains]


def adapters_without_text() -> list[str]:
    """Names of the adapters that can do without class text."""
    return [name for name, adapter in ADAPTERS.items() if not adapter.needs_text]
