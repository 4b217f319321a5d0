"""One door to the data of the generative tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlmadapt.errors import InputError
from vlmadapt.generative.data.easy_vqa import read_easy_vqa
from vlmadapt.generative.data.karpathy import read_karpathy
from vlmadapt.generative.data.own import is_own, read_own
from vlmadapt.generative.data.records import TASKS, RecordSet, TaskName
from vlmadapt.generative.data.snli_ve import read_snli_ve
from vlmadapt.generative.data.textcaps import read_textcaps
from vlmadapt.generative.data.vizwiz import read_vizwiz
from vlmadapt.generative.data.vqa import read_vqa

EASY_VQA = "easy-vqa"


@dataclass(frozen=True)
class Published:
    """A published set below a folder of the user's: its task, its files, its reader."""

    task: TaskName
    files: str
    read: Callable[..., RecordSet]


PUBLISHED: dict[str, Published] = {
    "karpathy": Published("caption", "dataset_coco.json", read_karpathy),
    "textcaps": Published("caption", "TextCaps_0.1_{train,val}.json", read_textcaps),
    "vqa2": Published("vqa", "v2_*_{train,val}2014_{questions,annotations}.json", read_vqa),
    "vizwiz": Published("vqa", "{train,val}.json", read_vizwiz),
    "snli-ve": Published("entailment", "snli_ve_{train,dev,test}.jsonl", read_snli_ve),
}


def load_records(name: str | Path, task: str, root: str | Path | None = None, check_files: bool = True) -> RecordSet:
    """The records of ``name`` for ``task`` (caption, vqa or entailment).

    A ``.jsonl`` file holds records of one's own (:mod:`vlmadapt.generative.data.own`).
    ``easy-vqa`` serves all three tasks from its package; the others are read below ``root``, from the annotation files
    their authors publish. Raises :class:`InputError` for a name, task or root that does not fit, :class:`FileError` for
    a file that is missing or malformed, :class:`MissingDependency` when the package easy-vqa is absent.
    """
    if task not in TASKS:
        raise InputError(f"task is {task!r}: use {', '.join(TASKS)}.")
    if is_own(name):
        return read_own(name, task, root, check_files)  # checked above
    name = str(name)
    if name == EASY_VQA:
        return read_easy_vqa(task, check_files)  # checked above
    if name not in PUBLISHED:
        raise InputError(f"data is {name!r}: use {', '.join([EASY_VQA, *PUBLISHED])}, or a .jsonl file of your own.")
    published = PUBLISHED[name]
    if task != published.task:
        raise InputError(f"{name} is a set for {published.task}, not for {task}: choose another set or task.")
    if root is None:
        raise InputError(f"{name} needs root: give the folder that holds {published.files} and its pictures.")
    return published.read(root, check_files=check_files)
