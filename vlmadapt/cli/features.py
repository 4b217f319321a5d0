"""``vlmadapt features``: extract features once, for use elsewhere or to warm the cache."""

from __future__ import annotations

import json

from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import DataArgument, command
from vlmadapt.experiments.options import FeaturesOptions

FORMAT = 1  # of the file written


@command(FeaturesOptions)
def features(data: DataArgument, options: FeaturesOptions) -> None:
    """Extract image and class text features of a data set into one safetensors file.

    It holds train, val and test (a normalised row a picture), train_labels, val_labels and test_labels, text and
    negative_text (a normalised row a class); names, paths and the encoder are in its metadata.
    """
    from vlmadapt.data.types import SPLITS
    from vlmadapt.experiments import front
    from vlmadapt.experiments.features import ClassTexts, FeatureTable
    from vlmadapt.experiments.protocol import describe_dataset, describe_encoder
    from vlmadapt.files import write_tensors
    from vlmadapt.provenance.versions import versions

    dataset = front.open_dataset(data, options)
    note(dataset.describe())
    encoder = front.open_encoder(options)
    extraction = front.extraction_of(options)
    texts = ClassTexts(encoder, dataset)
    tensors = {"text": texts.features, "negative_text": texts.negative_features}
    for split in SPLITS:
        pictures = dataset.split(split)
        samples = FeatureTable(encoder, pictures, extraction, options.views if split == "train" else 1).of(pictures)
        tensors[split], tensors[f"{split}_labels"] = samples.features, samples.labels
    metadata = {
        "format": FORMAT,
        "class_names": list(dataset.class_names),
        "paths": {split: [dataset.key(sample) for sample in dataset.split(split)] for split in SPLITS},
        "dataset": describe_dataset(dataset),
        "encoder": describe_encoder(encoder),
        "views": options.views,
        "precision": options.precision,
        "versions": versions(),
    }
    texts_of = {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()}
    write_tensors(options.out, tensors, texts_of)
    count = sum(len(dataset.split(split)) for split in SPLITS)
    say(f"{options.out}: features [{encoder.width}] of {count:,} pictures and {len(dataset.class_names)} classes")
