"""Generative image-text models: loading, data, methods that attach to them, tasks and experiments.

>>> from vlmadapt import generative
>>> loaded = generative.load_generative("blip:/path/to/folder")
>>> attached = generative.attach(loaded.model, "p-adapter")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmadapt.generative.data.load import load_records
    from vlmadapt.generative.front import tune
    from vlmadapt.generative.methods.registry import METHODS, attach
    from vlmadapt.generative.models.load import load_generative
    from vlmadapt.generative.tuned import Tuned

# Where each name lies; imported when first asked for (PEP 562), since torch takes a second.
_PLACES = {
    "METHODS": "methods.registry",
    "Tuned": "tuned",
    "attach": "methods.registry",
    "load_generative": "models.load",
    "load_records": "data.load",
    "tune": "front",
}

__all__ = ["METHODS", "Tuned", "attach", "load_generative", "load_records", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
