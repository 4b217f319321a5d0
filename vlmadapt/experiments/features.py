"""What a few-shot fit is made of: features of sampled pictures, and of the texts of their classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmadapt.adapters import NoText, negative_templates
from vlmadapt.backbones import class_text_features, prompt_features
from vlmadapt.data.descriptions import digest_of
from vlmadapt.data.types import Row
from vlmadapt.errors import InputError, shown
from vlmadapt.experiments.protocols import DEFAULT
from vlmadapt.provenance.identity import Difference, difference
from vlmadapt.training import Samples

if TYPE_CHECKING:
    from PIL import Image

    from vlmadapt.adapters import Adapter
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset, Extraction, FewShotSplit, Sample


CONTENT, PROTOCOL = "picture_content", "protocol"


def identity_of(
    dataset: Dataset,
    split: FewShotSplit,
    encoder: Encoder,
    adapter: str,
    config: Mapping[str, Any],
    extraction: Extraction,
    pictures: str,
    protocol: str,
) -> dict[str, Any]:
    """What decides a fit, apart from the code: plain JSON, kept beside whatever can be resumed.

    pictures: :func:`pictures_hash` of ``split``. protocol: its name.
    """
    return {
        PROTOCOL: protocol,
        **told_by_file(dataset, encoder),
        "adapter": adapter,
        "config": config,
        "split_hash": split.split_hash,
        CONTENT: pictures,
        "class_names": list(dataset.class_names),
        "templates": list(dataset.templates),
        **({"descriptions": digest_of(dataset.descriptions)} if dataset.descriptions else {}),
        "encoder": encoder.fingerprint,
        "views": extraction.views,
        "precision": extraction.precision,
    }


def told_by_file(dataset: Dataset, encoder: Encoder) -> dict[str, Any]:
    """What decides a fit on given features besides rows, texts and their encoder; nothing for pictures."""
    if dataset.given is None:
        return {}
    negatives = dataset.given.negatives
    found = None if negatives is None else hashlib.sha256(negatives.numpy().tobytes()).hexdigest()
    return {"logit_scale": encoder.logit_scale, "negative_text": found}


def changed(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> Difference | None:
    """What differs between two identities: the pictures' content last. 0.1.0 noted neither that nor a protocol."""
    before, now = {PROTOCOL: DEFAULT, **stored}, {PROTOCOL: DEFAULT, **identity}
    rest = difference({**before, CONTENT: None}, {**now, CONTENT: None})
    return rest or difference({CONTENT: now.get(CONTENT), **before}, now)


def pictures_hash(samples: Iterable[Sample]) -> str:
    """sha256 (hex) over the content of pictures, in their order: two data sets may have equal file names.

    Raises :class:`FileError` naming a file that cannot be read.
    """
    return hashlib.sha256("".join(sample.digest() for sample in samples).encode()).hexdigest()


def refuse_views(config: Mapping[str, Any], dataset: Dataset, extraction: Extraction) -> None:
    """Raise :class:`InputError` where a method of ``config`` takes each view, and there is one of each picture."""
    if not config.get("each_view"):
        return
    if dataset.given is not None:
        raise InputError(
            f"each_view is yes, but {shown(dataset.root)} holds one row of features a picture: leave it out, or give "
            "pictures."
        )
    if extraction.views < 2:
        raise InputError("each_view is yes, but views is 1: give the number of views too, 2 or more (--views).")


class FeatureTable:
    """Features of many pictures, each extracted once and looked up by path; given ones are taken as they are.

    They are extracted when they are first asked for: :meth:`of` takes the mean of ``views`` views, :meth:`each` takes
    as many as the extraction says.
    """

    def __init__(self, encoder: Encoder, samples: Iterable[Sample], extraction: Extraction, views: int = 1) -> None:
        self._encoder, self._extraction, self._views = encoder, extraction, views
        self._samples = {sample.path: sample for sample in samples}
        self._row = {path: row for row, path in enumerate(self._samples)}

    @cached_property
    def _features(self) -> Tensor:
        given = [sample.feature for sample in self._samples.values() if isinstance(sample, Row)]
        if given or not self._samples:
            return torch.stack(given) if given else torch.empty(0, self._encoder.width)
        return self._extraction.extract(self._encoder, self._pictures(), self._views)

    @cached_property
    def _every_view(self) -> Tensor:
        return self._extraction.extract(self._encoder, self._pictures(), self._extraction.views, each_view=True)

    def _pictures(self) -> list[Path | Image.Image]:
        return [sample.read_from for sample in self._samples.values()]

    def of(self, samples: Sequence[Sample]) -> Samples:
        """The features and labels of ``samples``, in their order."""
        return Samples.of(self._features[self._rows(samples)], _labels(samples), pictures=_pictures(samples))

    def each(self, samples: Sequence[Sample]) -> Samples:
        """The features of ``samples`` as they are, their labels, and further views of each."""
        every = self._every_view[self._rows(samples)]
        return Samples.of(every[:, 0], _labels(samples), every[:, 1:])

    def _rows(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([self._row[sample.path] for sample in samples], dtype=torch.int64)


def seen_by(adapter: Adapter, encoder: Encoder, samples: Sequence[Sample], extraction: Extraction) -> Samples:
    """``samples`` as a fitted ``adapter`` is to see them: with ``encoder``, or with one of its own, past the cache.

    Raises :class:`InputError` where that needs pictures, and there are none.
    """
    if not adapter.adapts_images:
        return FeatureTable(encoder, samples, extraction).of(samples)
    if any(isinstance(sample, Row) for sample in samples):
        raise InputError(
            f"this {adapter.name} classifier has adapted the image tower, and features of {encoder.name} as it was are "
            "given: give pictures, or fit with towers=text."
        )
    return FeatureTable(adapter.encoder_for(encoder), samples, replace(extraction, cache=None)).of(samples)


def _pictures(samples: Sequence[Sample]) -> list[Path | Image.Image] | None:
    return None if any(isinstance(sample, Row) for sample in samples) else [sample.read_from for sample in samples]


def _labels(samples: Sequence[Sample]) -> Tensor:
    return torch.tensor([sample.label for sample in samples], dtype=torch.int64)


@dataclass(frozen=True)
class FewShotFeatures:
    """What a fit may see; ``val`` is None without validation pictures."""

    train: Samples
    val: Samples | None

    def given(self, adapter: Adapter) -> tuple[Any, Any]:
        """What ``adapter`` is given to learn from, and to be judged by: features, or pictures where it wants them."""
        train, val = self.train, self.val
        if adapter.wants_pictures:
            return train.pictures, None if val is None else val.pictures
        return train.given, None if val is None else val.given

    @classmethod
    def of(
        cls, split: FewShotSplit, train: FeatureTable, val: FeatureTable, each_view: bool = False, on_all: bool = False
    ) -> FewShotFeatures:
        """``each_view``: with the views of training pictures, and of validation pictures where they are trained on."""
        take_train, take_val = (train.each if each_view else train.of), (val.each if each_view and on_all else val.of)
        return cls(take_train(split.train), take_val(split.val) if split.val else None)


class ClassTexts:
    """What the texts of a data set's classes say to ``encoder``: features of prompts and of negative prompts.

    Each is encoded at most once; negative prompts only when an adapter needs them. Given features bring their own, or
    none, and neither does a vision-only encoder have any.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset) -> None:
        self.encoder = encoder
        self.class_names = dataset.class_names
        self.templates = dataset.templates
        self._given = dataset.given
        self._prompts = dataset.prompts() if dataset.descriptions else None

    @cached_property
    def features(self) -> Tensor | NoText:
        """``[C, D]``."""
        if self._given is not None and self._given.text is not None:
            return self._given.of_classes(self._given.text, self.class_names).to(self.encoder.device)
        if self._given is not None or not self.encoder.has_text:
            width = self.encoder.width if self._given is None else self._given.width
            return NoText(len(self.class_names), width, device=self.encoder.device)
        if self._prompts is not None:
            return prompt_features(self.encoder, self._prompts)
        return class_text_features(self.encoder, self.class_names, self.templates)

    @cached_property
    def negative_features(self) -> Tensor | None:
        """``[C, D]``; None without text."""
        if isinstance(self.features, NoText):
            return None
        if self._given is not None and self._given.negatives is not None:
            return self._given.of_classes(self._given.negatives, self.class_names).to(self.encoder.device)
        return class_text_features(self.encoder, self.class_names, negative_templates(self.templates))
