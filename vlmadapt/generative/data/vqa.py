"""VQA v2 (arXiv 1612.00837): question and annotation files of train2014 and val2014."""

from __future__ import annotations

from pathlib import Path

from vlmadapt.errors import FileError
from vlmadapt.generative.data.records import Record, RecordSet, carve_val_by_image, counted, entries, find_file


def read_vqa(root: str | Path, check_files: bool = True) -> RecordSet:
    """Read ``v2_OpenEnded_mscoco_{train,val}2014_questions.json`` and ``v2_mscoco_{train,val}2014_annotations.json``.

    Pictures lie at ``root/train2014/COCO_train2014_000000000009.jpg`` and so on. The answers of the published test
    splits are not public: val2014 is the test split here, and a fifth of the training pictures becomes validation.
    Raises :class:`FileError` naming the file and the entry that is malformed or has no counterpart.
    """
    root = Path(root)
    train, val = carve_val_by_image(_read(root, "train2014", "train"), root)
    return RecordSet("vqa2", "vqa", root, train, val, _read(root, "val2014", "test"), check_files)


def _read(root: Path, published: str, split: str) -> tuple[Record, ...]:
    questions = find_file(root, [f"v2_OpenEnded_mscoco_{published}_questions.json"], "VQA v2 questions")
    annotations = find_file(root, [f"v2_mscoco_{published}_annotations.json"], "VQA v2 answers")
    answers: dict[int, tuple[tuple[str, int], ...]] = {}
    kinds: dict[int, str] = {}
    for entry in entries(annotations, "annotations"):
        number = entry.number("question_id")
        answers[number] = counted(answer.text("answer") for answer in entry.entries("answers"))
        kinds[number] = entry.text("answer_type")
    records = []
    for entry in entries(questions, "questions"):
        number = entry.number("question_id")
        if number not in answers:
            raise FileError(f"{questions}: {entry.place} has question_id {number}, not answered in {annotations}.")
        image = root / published / f"COCO_{published}_{entry.number('image_id'):012d}.jpg"
        records.append(
            Record(str(number), image, split, entry.text("question"), answers=answers[number], kind=kinds[number])
        )
    return tuple(records)
