"""``vlmadapt features``: extract features once, for use elsewhere or to warm the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import (
    Backbone,
    BatchSize,
    Cache,
    DataArgument,
    Device,
    Download,
    NoCache,
    Precision,
    Root,
    SplitSeed,
    Templates,
    Views,
    describe,
    extraction_of,
    open_dataset,
    open_encoder,
)

FORMAT = 1  # of the file written


def features(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("features.safetensors"),
    backbone: Backbone = "embedded",
    root: Root = None,
    split_seed: SplitSeed = 0,
    template: Templates = None,
    views: Views = 1,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
    device: Device = "auto",
    download: Download = False,
    cache: Cache = None,
    no_cache: NoCache = False,
) -> None:
    """Extract image and class text features of a data set into one safetensors file.

    It holds train, val and test (a normalised row a picture), train_labels, val_labels and test_labels, text and
    negative_text (a normalised row a class); names, paths and the encoder are in its metadata.
    """
    import torch

    from vlmadapt.data.types import SPLITS
    from vlmadapt.files import write_tensors
    from vlmadapt.reporting.fitting import ClassTexts
    from vlmadapt.reporting.protocol import describe_dataset, describe_encoder
    from vlmadapt.reporting.versions import versions

    dataset = open_dataset(data, root, split_seed, template)
    note(describe(dataset))
    encoder = open_encoder(backbone, device, download)
    extraction = extraction_of(views, batch_size, precision, cache, no_cache)
    texts = ClassTexts(encoder, dataset)
    tensors = {"text": texts.features, "negative_text": texts.negative_features}
    for split in SPLITS:
        samples = dataset.split(split)
        paths = [sample.path for sample in samples]
        tensors[split] = extraction.extract(encoder, paths, views if split == "train" else 1)
        tensors[f"{split}_labels"] = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    metadata = {
        "format": FORMAT,
        "class_names": list(dataset.class_names),
        "paths": {split: [dataset.key(sample) for sample in dataset.split(split)] for split in SPLITS},
        "dataset": describe_dataset(dataset),
        "encoder": describe_encoder(encoder),
        "views": views,
        "precision": precision,
        "versions": versions(),
    }
    write_tensors(out, tensors, {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()})
    count = sum(len(dataset.split(split)) for split in SPLITS)
    say(f"{out}: features [{encoder.width}] of {count:,} pictures and {len(dataset.class_names)} classes")
