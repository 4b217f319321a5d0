"""One few-shot fit, and what it cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.adapters import ADAPTERS, create_adapter
from vlmadapt.backbones.given import GivenEncoder
from vlmadapt.errors import InputError
from vlmadapt.experiments.features import ClassTexts, FewShotFeatures
from vlmadapt.experiments.measures import MAIN, Tested, measure
from vlmadapt.provenance.memory import PeakMemory
from vlmadapt.provenance.settings import Method

if TYPE_CHECKING:
    from vlmadapt.adapters import Adapter
    from vlmadapt.training import Samples

FROM_DATA = "template"  # the setting that the data set decides where a method does not name it


@dataclass(frozen=True)
class Measures:
    """``val_accuracy`` is a fraction, None without validation pictures: on them, or on held-out pictures where the
    method trains on validation pictures too. ``selected`` is what validation chose."""

    val_accuracy: float | None
    fit_seconds: float
    peak_memory_mib: float
    trainable_parameters: int
    selected: Mapping[str, Any] = field(default_factory=dict)


def judged(labels: Iterable[int]) -> int:
    """How many of labelled pictures are held out in turn: the only one of its class never is."""
    return sum(count for count in Counter(labels).values() if count > 1)


def create(method: Method, texts: ClassTexts, with_encoder: bool = False) -> Adapter:
    """The unfitted adapter of ``method``; raises :class:`InputError` for an unknown adapter or setting.

    ``with_encoder`` lets it remember the encoder, and refuse another one when it is loaded. An adapter that fits with
    the encoder gets it in any case.
    """
    kind = ADAPTERS.get(method.adapter)
    encoder = texts.encoder
    if kind is not None and kind.needs_encoder and isinstance(encoder, GivenEncoder):
        raise InputError(
            f"{method.label} learns through the encoder's text tower, and a file of features has none: leave it out, "
            "or give pictures."
        )
    settings = dict(method.settings)
    if kind is not None and FROM_DATA in {name for name, *_ in kind.config_class.describe()}:
        settings.setdefault(FROM_DATA, texts.templates[0])
    return create_adapter(
        method.adapter,
        texts.features,
        encoder.logit_scale,
        settings,
        class_names=texts.class_names,
        encoder=encoder if with_encoder or (kind is not None and kind.needs_encoder) else None,
        negative_text_features=texts.negative_features if kind is not None and kind.needs_negatives else None,
    )


def fit(
    adapter: Adapter,
    data: FewShotFeatures,
    seed: int,
    checkpoint_dir: Path | None = None,
    progress: bool = False,
    on_all: bool = False,
) -> Measures:
    """Fit ``adapter`` in place and measure it; the test split is out of its reach.

    ``on_all``: on validation samples too. ``checkpoint_dir`` makes the fit resumable: calling again with the same
    arguments goes on from the last checkpoint.
    """
    train, val = data.train, data.val
    features, val_features = data.given(adapter)
    with PeakMemory(train.features.device) as peak:
        start = time.perf_counter()
        (adapter.fit_on_all if on_all else adapter.fit)(
            features,
            train.labels,
            val_features,
            None if val is None else val.labels,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )
        seconds = time.perf_counter() - start
    if on_all or adapter.trains_on_validation:
        accuracy = adapter.held_out_accuracy_
    else:
        judged = val_features if adapter.wants_pictures or val is None else val.features
        accuracy = None if val is None else measure(adapter.logits(judged), val.labels).values[MAIN]
    return Measures(
        val_accuracy=accuracy,
        fit_seconds=seconds,
        peak_memory_mib=peak.mib,
        trainable_parameters=adapter.trainable_parameters(),
        selected=adapter.hyperparameters(),
    )


def measure_adapter(adapter: Adapter, samples: Samples) -> Tested:
    """Every measure of a fitted ``adapter`` on ``samples``."""
    return measure(adapter.logits(samples.features), samples.labels, adapter.temperature_)
