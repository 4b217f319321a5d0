"""SNLI-VE (arXiv 1901.06706): ``snli_ve_{train,dev,test}.jsonl`` over Flickr30k pictures."""

from __future__ import annotations

import io
from pathlib import Path

from vlmadapt.errors import FileError
from vlmadapt.files import parse_json, read_text
from vlmadapt.generative.data.records import LABELS, Entry, Record, RecordSet, find_file

IMAGE_FOLDERS = ("flickr30k_images", "flickr30k-images", "images")
UNDECIDED = "-"  # SNLI's gold label where annotators did not agree; such pairs are left out, as the authors do


def read_snli_ve(root: str | Path, check_files: bool = True) -> RecordSet:
    """Read a JSON object a line: ``Flickr30K_ID`` (``Flikr30kID`` in an older release), ``sentence2``, ``gold_label``.

    The picture's own caption (``sentence1``) is not used: the premise is the picture. Pictures lie in
    ``root/flickr30k_images`` (or ``flickr30k-images``, ``images``). Raises :class:`FileError` naming file and line.
    """
    root = Path(root)
    folder = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root / IMAGE_FOLDERS[0])
    parts = {
        split: _read(find_file(root, [f"snli_ve_{published}.jsonl"], "SNLI-VE"), folder, split)
        for split, published in (("train", "train"), ("val", "dev"), ("test", "test"))
    }
    return RecordSet("snli-ve", "entailment", root, check_files=check_files, **parts)


def _read(path: Path, folder: Path, split: str) -> tuple[Record, ...]:
    records = []
    for number, line in enumerate(io.StringIO(read_text(path)), start=1):
        if not line.strip():
            continue
        entry = Entry(path, f"line {number}", parse_json(line, path, number))
        label = entry.text("gold_label")
        if label == UNDECIDED:
            continue
        if label not in LABELS:
            raise FileError(f"{path}: line {number} has gold_label {label!r}: use {', '.join(LABELS)}.")
        image = folder / f"{entry.text('Flickr30K_ID', 'Flikr30kID').removesuffix('.jpg')}.jpg"
        records.append(Record(entry.text("pairID"), image, split, entry.text("sentence2"), label=label))
    return tuple(records)
