"""What a few-shot fit is made of: features of sampled pictures, and of the texts of their classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmadapt.adapters import NoText, negative_templates
from vlmadapt.backbones import class_text_features
from vlmadapt.data.types import Row
from vlmadapt.experiments.protocols import DEFAULT
from vlmadapt.provenance.identity import Difference, difference
from vlmadapt.training import Samples

if TYPE_CHECKING:
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


class FeatureTable:
    """Features of many pictures, each extracted once and looked up by path; given ones are taken as they are."""

    def __init__(self, encoder: Encoder, samples: Iterable[Sample], extraction: Extraction, views: int = 1) -> None:
        found = {sample.path: sample for sample in samples}
        self._row = {path: row for row, path in enumerate(found)}
        given = [sample.feature for sample in found.values() if isinstance(sample, Row)]
        if given:
            self._features = torch.stack(given)
        else:
            self._features = extraction.extract(encoder, list(found), views) if found else torch.empty(0, encoder.width)

    def of(self, samples: Sequence[Sample]) -> Samples:
        """The features and labels of ``samples``, in their order."""
        rows = torch.tensor([self._row[sample.path] for sample in samples], dtype=torch.int64)
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
        return Samples.of(self._features[rows], labels)


@dataclass(frozen=True)
class FewShotFeatures:
    """What a fit may see; ``val`` is None without validation pictures."""

    train: Samples
    val: Samples | None

    @classmethod
    def of(cls, split: FewShotSplit, train: FeatureTable, val: FeatureTable) -> FewShotFeatures:
        return cls(train.of(split.train), val.of(split.val) if split.val else None)


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

    @cached_property
    def features(self) -> Tensor | NoText:
        """``[C, D]``."""
        if self._given is not None and self._given.text is not None:
            return self._given.of_classes(self._given.text, self.class_names).to(self.encoder.device)
        if self._given is not None or not self.encoder.has_text:
            width = self.encoder.width if self._given is None else self._given.width
            return NoText(len(self.class_names), width, device=self.encoder.device)
        return class_text_features(self.encoder, self.class_names, self.templates)

    @cached_property
    def negative_features(self) -> Tensor | None:
        """``[C, D]``; None without text."""
        if isinstance(self.features, NoText):
            return None
        if self._given is not None and self._given.negatives is not None:
            return self._given.of_classes(self._given.negatives, self.class_names).to(self.encoder.device)
        return class_text_features(self.encoder, self.class_names, negative_templates(self.templates))
