"""One few-shot fit: features of the sampled pictures, an adapter fitted on them, and what the fit cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vlmadapt.adapters import ADAPTERS, create_adapter, negative_templates
from vlmadapt.backbones import class_text_features
from vlmadapt.provenance.memory import PeakMemory
from vlmadapt.provenance.settings import Method

if TYPE_CHECKING:
    from vlmadapt.adapters import Adapter
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset, FeatureCache, FewShotSplit, Sample


@dataclass(frozen=True)
class Extraction:
    """How pictures become features; ``views`` augmented views are averaged for training pictures only."""

    views: int = 1
    batch_size: int = 64
    precision: Literal["fp32", "bf16"] = "fp32"
    cache: FeatureCache | None = None
    progress: bool = True

    def extract(self, encoder: Encoder, paths: Sequence[Path], views: int = 1) -> Tensor:
        from vlmadapt.data import extract_features

        return extract_features(
            encoder,
            paths,
            views=views,
            batch_size=self.batch_size,
            precision=self.precision,
            cache=self.cache,
            progress=self.progress,
        )


class FeatureTable:
    """Features of many pictures, each extracted once and looked up by path."""

    def __init__(self, encoder: Encoder, samples: Iterable[Sample], extraction: Extraction, views: int = 1) -> None:
        paths = list(dict.fromkeys(sample.path for sample in samples))
        self._row = {path: row for row, path in enumerate(paths)}
        self._features = extraction.extract(encoder, paths, views) if paths else torch.empty(0, encoder.width)

    def of(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Features ``[n, D]`` and labels ``[n]`` int64 of ``samples``."""
        rows = torch.tensor([self._row[sample.path] for sample in samples], dtype=torch.int64)
        return self._features[rows], torch.tensor([sample.label for sample in samples], dtype=torch.int64)


@dataclass(frozen=True)
class FewShotFeatures:
    """What a fit may see: training features ``[n, D]`` with labels ``[n]`` and the same for validation."""

    train: Tensor
    train_labels: Tensor
    val: Tensor
    val_labels: Tensor

    @classmethod
    def of(cls, split: FewShotSplit, train: FeatureTable, val: FeatureTable) -> FewShotFeatures:
        return cls(*train.of(split.train), *val.of(split.val))


@dataclass(frozen=True)
class Measures:
    """``val_accuracy`` is a fraction, None without validation pictures; ``selected`` is what validation chose."""

    val_accuracy: float | None
    fit_seconds: float
    peak_memory_mib: float
    trainable_parameters: int
    selected: Mapping[str, Any] = field(default_factory=dict)


class ClassTexts:
    """What the texts of a data set's classes say to ``encoder``: features of prompts and of negative prompts.

    Each is encoded at most once; negative prompts only when an adapter needs them.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset) -> None:
        self.encoder = encoder
        self.class_names = dataset.class_names
        self.templates = dataset.templates

    @cached_property
    def features(self) -> Tensor:
        """``[C, D]``."""
        return class_text_features(self.encoder, self.class_names, self.templates)

    @cached_property
    def negative_features(self) -> Tensor:
        """``[C, D]``."""
        return class_text_features(self.encoder, self.class_names, negative_templates(self.templates))


def create(method: Method, texts: ClassTexts, with_encoder: bool = False) -> Adapter:
    """The unfitted adapter of ``method``; raises :class:`InputError` for an unknown adapter or setting.

    ``with_encoder`` lets it remember the encoder, and refuse another one when it is loaded. An adapter that fits with
    the encoder gets it in any case.
    """
    kind = ADAPTERS.get(method.adapter)
    encoder = texts.encoder
    return create_adapter(
        method.adapter,
        texts.features,
        encoder.logit_scale,
        dict(method.settings),
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
) -> Measures:
    """Fit ``adapter`` in place and measure it; the test split is out of its reach.

    ``checkpoint_dir`` makes the fit resumable: calling again with the same arguments goes on from the last checkpoint.
    """
    has_val = len(data.val_labels) > 0
    with PeakMemory(data.train.device) as peak:
        start = time.perf_counter()
        adapter.fit(
            data.train,
            data.train_labels,
            data.val if has_val else None,
            data.val_labels if has_val else None,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )
        seconds = time.perf_counter() - start
    return Measures(
        val_accuracy=accuracy(adapter, data.val, data.val_labels) if has_val else None,
        fit_seconds=seconds,
        peak_memory_mib=peak.mib,
        trainable_parameters=adapter.trainable_parameters(),
        selected=adapter.hyperparameters(),
    )


def accuracy(adapter: Adapter, features: Tensor, labels: Tensor) -> float:
    """Share of ``features [B, D]`` whose predicted class is ``labels [B]``."""
    return float((adapter.predict(features).cpu() == labels.cpu()).double().mean())
