"""Data sets as people write them, then damaged: tables, CoOp splits, folders, annotations of generative tasks."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from tests.fuzz.mutate import changed, damaged
from tests.fuzz.outcome import Attempt, in_one_line
from vlmadapt.data import load_dataset
from vlmadapt.data.types import SPLITS
from vlmadapt.generative.data.load import PUBLISHED, load_records

WORDS = [
    "cat", "dog", "road_sign", "road sign", "Cat", "train", "test", "val", "eval", "validation", "images", "thumbs",
    "__MACOSX", "nan", "NaN", "none", "1", "01", "2", "-", "CON", "ü", "u\u0308", "猫", "a,b", 'a"b', "a;b", "a\tb",
    "a\nb", " cat", "cat ", ".hidden", "...", "\u202e", "", " ", "x" * 120, "a'b", "{}", "%s", "\x1b[31m", "\ud800",
]  # fmt: skip
ENDINGS = [".png", ".jpg", ".JPG", ".webp", ".gif", ".eps", ".txt", ".json", ".npz", "", ".png.bak"]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]


def word(random: Random) -> str:
    return random.choice(WORDS[:3]) if random.random() < 0.93 else random.choice(WORDS)


def picture(random: Random) -> str:
    parts = [word(random) for _ in range(random.choice([1, 1, 2, 3]))]
    if random.randrange(20) == 0:
        parts[0] = random.choice(["..", "/", "~", ".", "C:\\x", "file://x", "\0"])
    return "/".join(parts) + str(random.randrange(50)) + random.choice(ENDINGS[:4])


def encoded(random: Random, text: str) -> bytes:
    encoding = random.choice(ENCODINGS)
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def maybe(random: Random, data: bytes) -> bytes:
    return damaged(random, data) if random.random() < 0.6 else data


def rows(random: Random) -> list[dict[str, Any]]:
    split = random.choice([None, SPLITS, ("train", "test"), ("Train", "valid", "TEST", ""), ("eval", "train", "x")])
    found = []
    for _ in range(random.randrange(12)):
        row: dict[str, Any] = {"path": picture(random), "label": word(random)}
        if split:
            row["split"] = random.choice(split)
        found.append(row)
    return found


def table(random: Random, folder: Path) -> Attempt:
    listed = rows(random)
    if random.random() < 0.4:
        path = folder / "list.jsonl"
        lines = [json.dumps(changed(random, row) if random.random() < 0.1 else row) for row in listed]
        text = "\n".join(lines)
    else:
        path, stream = folder / random.choice(["list.csv", "list.tsv"]), io.StringIO()
        columns = ["path", "label", "split"][: 3 if listed and "split" in listed[0] else 2]
        random.shuffle(columns)
        writer = csv.writer(stream, delimiter=random.choice(",;\t|"), lineterminator=random.choice(["\n", "\r\n"]))
        writer.writerow([column.upper() if random.random() < 0.1 else column for column in columns])
        writer.writerows([[row.get(column) for column in columns] for row in listed])
        text = stream.getvalue()
    path.write_bytes(maybe(random, encoded(random, text)))
    return data_set(random, path)


def coop(random: Random, folder: Path) -> Attempt:
    names = ["cat", "dog", "sea cow", word(random)]
    content: Any = {}
    for split in SPLITS:
        labels = [random.randrange(4) for _ in range(random.randrange(6))]
        content[split] = [[picture(random), label, names[label]] for label in labels]
    if random.random() < 0.5:
        content = changed(random, content)
    path = folder / random.choice(["split.json", "split_zhou_Caltech101.json"])
    path.write_bytes(maybe(random, encoded(random, json.dumps(content, ensure_ascii=random.random() < 0.5))))
    return data_set(random, path)


def data_set(random: Random, path: Path) -> Attempt:
    check_files = random.random() < 0.1
    seed = random.randrange(3)
    return Attempt(
        lambda: load_dataset(path, seed, check_files=check_files), (path.name, path.stem, "caltech101"), check_data_set
    )


def check_data_set(found: Any) -> None:
    """What a :class:`Dataset` says of itself holds, and everything that is made of it can be."""
    assert len(set(found.class_names)) == len(found.class_names) > 1
    assert (found.train or found.test) and all(name.strip() for name in found.class_names)
    every = [sample for split in SPLITS for sample in found.split(split)]
    assert {type(sample.label) for sample in every} == {int}
    assert {sample.label for sample in every} <= set(range(len(found.class_names)))
    keys = [found.key(sample) for sample in every]
    json.dumps(keys, ensure_ascii=False).encode()
    assert len(found.split_hash) == 64 and found.describe()
    for note in (*found.notes, *found.doubts):
        assert in_one_line(note), note


def tree(random: Random, folder: Path) -> Attempt:
    root = folder / "set"
    root.mkdir()
    _fill(random, root, depth=random.choice([1, 1, 2, 2, 3]))
    return Attempt(lambda: load_dataset(root), ("set", folder.name), check_data_set)


def _fill(random: Random, folder: Path, depth: int) -> None:
    for _ in range(random.choice([0, 1, 2, 2, 3, 4])):
        name = word(random).replace("\0", "").encode("utf-8", random.choice(["surrogatepass", "replace"]))
        inner = os.path.join(os.fsencode(folder), name or b"_")
        if random.randrange(25) == 0:
            _link(random, inner)
            continue
        try:
            os.makedirs(inner, exist_ok=True)
        except OSError:  # a file of that name
            continue
        if depth > 1 and random.random() < 0.8:
            _fill(random, Path(os.fsdecode(inner)), depth - 1)
        for number in range(random.choice([0, 1, 3, 3, 4])):
            ending = random.choice(ENDINGS[:4]) if random.random() < 0.8 else random.choice(ENDINGS)
            Path(os.fsdecode(inner), f"{number}{ending}").touch()
        if random.randrange(15) == 0:
            ours = random.choice(["run.json", "adapter.json", "results.json", "identity.json"])
            Path(os.fsdecode(inner), ours).write_bytes(maybe(random, b'{"format_version": 1, "cells": []}'))


def _link(random: Random, place: bytes) -> None:
    if not os.path.lexists(place):
        os.symlink(random.choice([b".", b"..", b"nowhere", b"/dev/null", os.path.basename(place)]), place)


def annotation(random: Random) -> dict[str, Any]:
    """What is in the entries of any of the published files, so that any reader finds its own."""
    number = random.randrange(9)
    name = picture(random)
    return {
        "question_id": number,
        "image_id": random.choice([number, str(number)]),
        "image": name,
        "image_path": name,
        "question": word(random),
        "caption_str": word(random),
        "answers": [{"answer": word(random)} for _ in range(random.randrange(4))],
        "answer_type": random.choice(["other", "yes/no", "number"]),
        "filepath": word(random),
        "filename": name,
        "split": random.choice(["train", "val", "test", "restval"]),
        "sentences": [{"raw": word(random)} for _ in range(random.randrange(1, 4))],
        "imgid": number,
        "Flickr30K_ID": str(number),
        "pairID": f"{number}#{random.randrange(99)}",
        "sentence2": word(random),
        "gold_label": random.choice(["entailment", "neutral", "contradiction", "-"]),
    }


LISTS = {"dataset_coco": "images", "TextCaps": "data", "questions": "questions", "annotations": "annotations"}
FILES = {
    "karpathy": ["dataset_coco.json"],
    "textcaps": ["TextCaps_0.1_train.json", "TextCaps_0.1_val.json"],
    "vqa2": [
        f"v2_{kind}_{part}2014_{what}.json"
        for part in ("train", "val")
        for kind, what in (("OpenEnded_mscoco", "questions"), ("mscoco", "annotations"))
    ],
    "vizwiz": ["train.json", "val.json"],
    "snli-ve": [f"snli_ve_{part}.jsonl" for part in ("train", "dev", "test")],
}


def records(random: Random, folder: Path) -> Attempt:
    name = random.choice(sorted(PUBLISHED))
    spoilt = random.choice(FILES[name])
    shared = [annotation(random) for _ in range(random.randrange(1, 8))]  # questions and answers have the same ids
    for file in FILES[name]:
        entries = shared if name == "vqa2" else [annotation(random) for _ in range(random.randrange(1, 8))]
        key = next((key for part, key in LISTS.items() if part in file), None)
        content: Any = entries if key is None else {key: entries}
        if file == spoilt and random.random() < 0.5:
            content = changed(random, content)
        if file.endswith(".jsonl"):
            text = "\n".join(map(json.dumps, content if isinstance(content, list) else [content]))
        else:
            text = json.dumps(content, ensure_ascii=random.random() < 0.5)
        data = text.encode("utf-8", "surrogatepass")
        (folder / file).write_bytes(maybe(random, data) if file == spoilt else data)
    task = PUBLISHED[name].task
    names = (folder.name, name, *FILES[name], "record ", "coco")
    return Attempt(lambda: load_records(name, task, folder, check_files=random.random() < 0.05), names, check_records)


def check_records(found: Any) -> None:
    assert len(found.split_hash) == 64
    for split in SPLITS:
        for record in found.split(split):
            json.dumps([record.id, record.prompt, record.captions, record.answers], ensure_ascii=False).encode()
            assert "\0" not in os.fspath(record.image), record.image
            assert record.captions or record.prompt, record


MARKS = [["train", "val", "test"], ["train", "eval"], [0, 1, 2], [0, 5], [None, 1.5]]
ODD = [float("nan"), float("inf"), 0.0, 1e38, 1e-46, -1.0, 3.0]


def features(random: Random, folder: Path) -> Attempt:
    """Arrays under the names that are looked for, most of which fit together."""
    count, width = random.choice([0, 1, 6, 12]), random.choice([1, 4, 4, 4])
    arrays = {random.choice(["text", "text_features"]): matrix(random, 3, width)}
    if random.random() < 0.5:
        arrays |= {"features": matrix(random, count, width), "labels": labels(random, count)}
        if random.random() < 0.5:
            words: list[Any] = random.choice(
                [["train", "val", "test"], ["train", "eval"], [0, 1, 2], [0, 5], [None, 1.5]]
            )
            listed = [random.choice(words) for _ in range(count)]
            arrays["splits"] = np.array(listed, dtype=object if None in words else None)
    else:
        for split in SPLITS[: random.randrange(4)]:
            arrays |= {f"{split}_features": matrix(random, count, width), f"{split}_labels": labels(random, count)}
    if random.random() < 0.3:
        arrays["class_names"] = np.array([word(random).replace("\0", "") for _ in range(random.choice([3, 3, 2]))])
    if random.random() < 0.3:
        arrays["logit_scale"] = np.array(random.choice(ODD))
    for name in [name for name in arrays if random.random() < (0.2 if name.startswith("text") else 0.03)]:
        del arrays[name]
    path, stream = folder / random.choice(["list.npz", "list.safetensors"]), io.BytesIO()
    if path.suffix == ".npz":
        (np.savez if random.random() < 0.5 else np.savez_compressed)(stream, **arrays)
        data = stream.getvalue()
    else:
        names = arrays.pop("class_names", None)
        metadata = {} if names is None else {"class_names": json.dumps(names.tolist())}
        data = safetensors.numpy.save({n: each for n, each in arrays.items() if each.dtype.kind not in "UO"}, metadata)
    path.write_bytes(maybe(random, data) if random.random() < 0.5 else data)
    return Attempt(lambda: load_dataset(path, random.randrange(3)), (path.name, path.stem), check_features)


def matrix(random: Random, rows: int, width: int) -> Any:
    found = np.array([[random.gauss(0, 1) for _ in range(width)] for _ in range(rows)]).reshape(rows, width)
    if rows and random.randrange(20) == 0:
        found[random.randrange(rows)] = random.choice(ODD)
    kind = random.choice(["f2", "f4", "f8", ">f4", "i4"]) if random.random() < 0.1 else "f4"
    with np.errstate(over="ignore", invalid="ignore"):
        return found.astype(kind)


def labels(random: Random, rows: int) -> Any:
    found = [random.randrange(3 if random.random() < 0.99 else 4) for _ in range(rows)]
    return np.array(found, dtype=random.choice(["i8", "u1", "i2", "u2", "u8"]))


def check_features(found: Any) -> None:
    assert found.given is not None and found.given.class_names == found.class_names
    for rows in (found.given.text, found.given.negatives):
        assert (rows is None) == (found.given.text is None)
        assert rows is None or rows.shape == (len(found.class_names), found.given.width)
    for split in SPLITS:
        for sample in found.split(split):
            assert torch.isfinite(sample.feature).all() and sample.feature.any() and type(sample.label) is int
            assert len(sample.digest()) == 64 and len(found.key(sample)) > 0
    for note in (*found.notes, *found.doubts):
        assert in_one_line(note), note


KINDS: dict[str, Callable[[Random, Path], Attempt]] = {
    "table": table,
    "coop": coop,
    "folder": tree,
    "annotations": records,
    "features": features,
}
