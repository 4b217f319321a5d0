"""``vlmadapt features``: extract features once, for use elsewhere or to warm the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import DataArgument, command
from vlmadapt.experiments.options import FeaturesOptions

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset, Extraction
    from vlmadapt.provenance.about import About

SPLITS = ("train", "val", "test")


@command(FeaturesOptions)
def features(data: DataArgument, options: FeaturesOptions) -> None:
    """Extract image and class text features of a data set into one safetensors file.

    It holds train, val and test (a normalised row a picture), train_labels, val_labels and test_labels, text and
    negative_text (a normalised row a class, where the backbone has a text tower); names, paths and the encoder are in
    its metadata. fit, compare and eval take it as data.
    """
    from vlmadapt.data.descriptions import digest_of
    from vlmadapt.errors import InputError
    from vlmadapt.experiments import sources
    from vlmadapt.experiments.folders import describe, refuse_inside
    from vlmadapt.provenance.place import hold_file

    dataset = sources.open_dataset(data, options)
    if dataset.given is not None:
        raise InputError(f"{data} holds features already: give pictures.")
    path = options.out or Path(f"features-{dataset.name}.safetensors")
    refuse_inside(data, {"--out": path}, files=True)
    refuse_inside(data, {"--cache": options.cache})
    settings = {
        "views": options.views,
        "precision": options.precision,
        "templates": dataset.templates,
        "descriptions": digest_of(dataset.descriptions),
    }
    with hold_file(path):
        if not options.overwrite:
            _refuse_other(path, describe("features", dataset, settings))
        note(dataset.describe())
        encoder = sources.open_encoder(options)
        about = describe("features", dataset, settings, encoder)
        if not options.overwrite:
            _refuse_other(path, about)
        _write(path, dataset, encoder, sources.extraction_of(options), about)
    count = sum(len(dataset.split(split)) for split in SPLITS)
    say(f"{path}: features [{encoder.width}] of {count:,} pictures and {len(dataset.class_names)} classes")


def _write(path: Path, dataset: Dataset, encoder: Encoder, extraction: Extraction, about: About) -> None:
    import torch

    from vlmadapt.data.feature_file import FORMAT
    from vlmadapt.experiments.features import ClassTexts, FeatureTable
    from vlmadapt.experiments.protocol import describe_dataset, describe_encoder
    from vlmadapt.files import write_tensors
    from vlmadapt.provenance.versions import versions

    texts = ClassTexts(encoder, dataset)
    found = {"text": texts.features, "negative_text": texts.negative_features}
    tensors = {name: rows for name, rows in found.items() if isinstance(rows, torch.Tensor)}
    for split in SPLITS:
        pictures = dataset.split(split)
        samples = FeatureTable(encoder, pictures, extraction, extraction.views if split == "train" else 1).of(pictures)
        tensors[split], tensors[f"{split}_labels"] = samples.features, samples.labels
        digests = b"".join(bytes.fromhex(sample.digest()) for sample in pictures)
        tensors[f"{split}_sha256"] = torch.tensor(bytearray(digests), dtype=torch.uint8).view(len(pictures), 32)
    metadata = {
        "format": FORMAT,
        "class_names": list(dataset.class_names),
        "seeded": dataset.seeded,
        "paths": {split: [dataset.key(sample) for sample in dataset.split(split)] for split in SPLITS},
        "dataset": describe_dataset(dataset),
        "encoder": describe_encoder(encoder),
        "views": extraction.views,
        "precision": extraction.precision,
        "pictures": about.pictures,
        "versions": versions(),
    }
    write_tensors(path, tensors, {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()})


def _refuse_other(path: Path, about: About) -> None:
    """Raise :class:`InputError` when ``path`` holds other features than those of ``about``, or anything else."""
    from vlmadapt.errors import FileError, InputError
    from vlmadapt.files import parse_json, read_metadata
    from vlmadapt.provenance.about import About

    if not path.exists():
        return
    way_out = "name another file with --out, or pass --overwrite to replace it"
    try:
        found = {name: parse_json(value, path) for name, value in read_metadata(path).items()}
        data, encoder = found["dataset"], found["encoder"]["fingerprint"]
        texts = {"templates": data["templates"], "descriptions": data.get("descriptions")}
        settings = {**texts, **{name: found[name] for name in ("views", "precision")}}
        known = About("features", data["name"], data["split_hash"], found.get("pictures"), encoder, settings)
    except (FileError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a file of vlmadapt features: {way_out}.") from error
    about.refuse_other(known, path, way_out)
