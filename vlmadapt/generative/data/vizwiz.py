"""VizWiz-VQA (arXiv 1802.08218): ``train.json`` and ``val.json``."""

from __future__ import annotations

from pathlib import Path

from vlmadapt.generative.data.records import Record, RecordSet, carve_val_by_image, counted, entries, find_file


def read_vizwiz(root: str | Path, check_files: bool = True) -> RecordSet:
    """Read ``[{"image", "question", "answers": [{"answer"}], "answer_type"}]``; pictures lie in ``root/{train,val}``.

    The published test file has no answers: ``val.json`` is the test split here, and a fifth of the training pictures
    becomes validation. Raises :class:`FileError` naming file and entry.
    """
    root = Path(root)
    train, val = carve_val_by_image(_read(root, "train", "train"), root)
    return RecordSet("vizwiz", "vqa", root, train, val, _read(root, "val", "test"), check_files)


def _read(root: Path, published: str, split: str) -> tuple[Record, ...]:
    return tuple(
        Record(
            entry.text("image"),
            root / published / entry.text("image"),
            split,
            entry.text("question"),
            answers=counted(answer.text("answer") for answer in entry.entries("answers")),
            kind=entry.text("answer_type"),
        )
        for entry in entries(find_file(root, [f"{published}.json"], "VizWiz-VQA"))
    )
