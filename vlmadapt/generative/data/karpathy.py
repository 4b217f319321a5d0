"""The Karpathy split of COCO captions (arXiv 1412.2306): ``dataset_coco.json``, also ``dataset_flickr30k.json``."""

from __future__ import annotations

from pathlib import Path

from vlmadapt.errors import FileError
from vlmadapt.generative.data.records import Record, RecordSet, entries, find_file

FILES = ("dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json")
# "restval" is the part of COCO's val2014 that the split adds to training.
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_karpathy(root: str | Path, check_files: bool = True) -> RecordSet:
    """Read ``{"images": [{"filepath", "filename", "split", "sentences": [{"raw"}]}]}`` below ``root``.

    Pictures lie at ``root/filepath/filename`` (Flickr files have no ``filepath``). One record a picture, with all its
    sentences. Raises :class:`FileError` naming the file and the entry that is malformed, or missing pictures.
    """
    root = Path(root)
    path = find_file(root, FILES, "the Karpathy split")
    parts: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for entry in entries(path, "images"):
        split = SPLITS.get(entry.text("split"))
        if split is None:
            raise FileError(f"{path}: {entry.place} has the split {entry.text('split')!r}: use {', '.join(SPLITS)}.")
        image = root / (entry.text("filepath") if entry.content.get("filepath") else "") / entry.text("filename")
        captions = tuple(sentence.text("raw") for sentence in entry.entries("sentences"))
        parts[split].append(Record(entry.text("cocoid", "imgid", "filename"), image, split, captions=captions))
    return RecordSet(
        name=path.stem.removeprefix("dataset_"),
        task="caption",
        root=root,
        check_files=check_files,
        **{split: tuple(records) for split, records in parts.items()},
    )
