"""vlmadapt: adapt vision-language models from a handful of images.

    import vlmadapt

    classifier = vlmadapt.fit("pictures/", adapter="xmadapter", shots=8, out="runs/mine")
    print(vlmadapt.evaluate(classifier).accuracy)

Importing this loads none of what it names: each name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vlmadapt.version import __version__

if TYPE_CHECKING:
    from vlmadapt import ops
    from vlmadapt.adapters import create_adapter
    from vlmadapt.adapters.estimator import FewShotClassifier
    from vlmadapt.backbones import from_model, load_encoder
    from vlmadapt.classifier import Classifier
    from vlmadapt.data import load_dataset
    from vlmadapt.experiments.front import compare, evaluate, fit
    from vlmadapt.experiments.growth import add_class, add_pictures
    from vlmadapt.generative.methods.registry import attach
    from vlmadapt.generative.models import load_generative
    from vlmadapt.reporting.front import report
    from vlmadapt.sharing.export import export
    from vlmadapt.sharing.pretrained import from_pretrained, save_pretrained

__all__ = [
    "Classifier",
    "FewShotClassifier",
    "__version__",
    "add_class",
    "add_pictures",
    "attach",
    "compare",
    "create_adapter",
    "evaluate",
    "export",
    "fit",
    "from_model",
    "from_pretrained",
    "load_dataset",
    "load_encoder",
    "load_generative",
    "ops",
    "report",
    "save_pretrained",
]

# Where each name lives; a module of that name is the name itself.
_HOMES = {
    "Classifier": "vlmadapt.classifier",
    "FewShotClassifier": "vlmadapt.adapters.estimator",
    "add_class": "vlmadapt.experiments.growth",
    "add_pictures": "vlmadapt.experiments.growth",
    "attach": "vlmadapt.generative.methods.registry",
    "compare": "vlmadapt.experiments.front",
    "create_adapter": "vlmadapt.adapters",
    "evaluate": "vlmadapt.experiments.front",
    "export": "vlmadapt.sharing.export",
    "fit": "vlmadapt.experiments.front",
    "from_model": "vlmadapt.backbones",
    "from_pretrained": "vlmadapt.sharing.pretrained",
    "load_dataset": "vlmadapt.data",
    "load_encoder": "vlmadapt.backbones",
    "load_generative": "vlmadapt.generative.models",
    "report": "vlmadapt.reporting.front",
    "save_pretrained": "vlmadapt.sharing.pretrained",
}


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("vlmadapt.ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmadapt' has no attribute {name!r}: it offers {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
