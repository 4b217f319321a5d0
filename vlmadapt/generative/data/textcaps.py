"""TextCaps (arXiv 2003.12462): ``TextCaps_0.1_train.json`` and ``TextCaps_0.1_val.json``."""

from __future__ import annotations

import os
from pathlib import Path

from vlmadapt.generative.data.records import Record, RecordSet, carve_val_by_image, entries, find_file


def read_textcaps(root: str | Path, check_files: bool = True) -> RecordSet:
    """Read ``{"data": [{"image_id", "image_path", "caption_str"}]}``: one entry a caption, grouped by picture.

    Pictures lie at ``root/image_path`` (``train/....jpg``, as published), or in ``root/train_images``. The published
    test file has no captions: the published validation file is the test split here, and a fifth of the training
    pictures becomes validation. Raises :class:`FileError` naming file and entry.
    """
    root = Path(root)
    train, val = carve_val_by_image(_read(root, "train", "train"), root)
    return RecordSet("textcaps", "caption", root, train, val, _read(root, "val", "test"), check_files)


def _read(root: Path, published: str, split: str) -> tuple[Record, ...]:
    captions: dict[str, list[str]] = {}
    images: dict[str, Path] = {}
    for entry in entries(find_file(root, [f"TextCaps_0.1_{published}.json"], "TextCaps"), "data"):
        picture = entry.text("image_id")
        image = root / entry.text("image_path")
        if not os.path.isfile(image) and os.path.isfile(root / "train_images" / image.name):
            image = root / "train_images" / image.name  # the name of the folder in the published archive
        images[picture] = image
        captions.setdefault(picture, []).append(entry.text("caption_str"))
    return tuple(Record(name, images[name], split, captions=tuple(texts)) for name, texts in captions.items())
