"""Readers of published annotation files, on excerpts written in their formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.data.load import PUBLISHED, load_records
from vlmadapt.generative.data.records import Record, RecordSet, carve_val_by_image, counted


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def karpathy(root: Path) -> Path:
    images = []
    for number, split in enumerate(["train", "restval", "val", "test"]):
        name = f"COCO_val2014_{number:012d}.jpg"
        picture(root / "val2014" / name)
        sentences = [
            {"tokens": ["a", "dog"], "raw": f" A dog,\n number {number}. ", "imgid": number, "sentid": 2 * number},
            {"tokens": ["dog"], "raw": "Ein Hündchen.", "imgid": number, "sentid": 2 * number + 1},
        ]
        entry = {"filepath": "val2014", "sentids": [2 * number, 2 * number + 1], "filename": name, "imgid": number}
        images.append({**entry, "split": split, "sentences": sentences, "cocoid": 100 + number})
    write(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return root / "dataset_coco.json"


def vqa2(root: Path) -> Path:
    for year, pictures in (("train2014", (9, 25, 30, 34, 36)), ("val2014", (42,))):
        questions, annotations = [], []
        for image in pictures:
            picture(root / year / f"COCO_{year}_{image:012d}.jpg")
            for which in range(2):
                number = image * 1000 + which
                questions.append({"image_id": image, "question": "What is it?", "question_id": number})
                answers = [
                    {"answer": text, "answer_confidence": "yes", "answer_id": i + 1}
                    for i, text in enumerate(["net"] * 7 + ["mesh"] * 3)
                ]
                annotations.append({
                    "question_type": "what is", "multiple_choice_answer": "net", "answers": answers,
                    "image_id": image, "answer_type": "other", "question_id": number,
                })  # fmt: skip
        common = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": year}
        write(root / f"v2_OpenEnded_mscoco_{year}_questions.json", {**common, "questions": questions})
        write(root / f"v2_mscoco_{year}_annotations.json", {**common, "annotations": annotations})
    return root / "v2_OpenEnded_mscoco_train2014_questions.json"


def vizwiz(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 1)):
        entries = []
        for number in range(count):
            name = f"VizWiz_{split}_{number:08d}.jpg"
            picture(root / split / name)
            answers = [{"answer_confidence": "yes", "answer": text} for text in ["basil leaves"] * 6 + ["basil"] * 4]
            entries.append({
                "image": name, "question": "What's the name of this product?", "answers": answers,
                "answer_type": "other", "answerable": 1,
            })  # fmt: skip
        write(root / "Annotations" / f"{split}.json", entries)
    return root / "Annotations" / "train.json"


def snli_ve(root: Path) -> Path:
    labels = ["entailment", "neutral", "contradiction", "-"]
    for split, key in (("train", "Flickr30K_ID"), ("dev", "Flikr30kID"), ("test", "Flickr30K_ID")):
        number = {"train": 4705552913, "dev": 36979, "test": 65567}[split]
        picture(root / "flickr30k_images" / f"{number}.jpg")
        lines = [
            {
                "annotator_labels": [label], "captionID": f"{number}.jpg#2", "gold_label": label,
                "pairID": f"{number}.jpg#2r1{label[0]}", "sentence1": "Two hug.", "sentence2": "Women are hugging.",
                key: f"{number}.jpg" if split == "dev" else str(number),
            }
            for label in labels
        ]  # fmt: skip
        (root / f"snli_ve_{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return root / "snli_ve_train.jsonl"


def textcaps(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 1)):
        entries = []
        for number in range(count):
            picture(root / "train" / f"{split}{number}.jpg")
            for which in range(5):
                entries.append({
                    "caption_str": f"A sign that says {which}.", "caption_id": 5 * number + which, "image_classes": [],
                    "image_id": f"{split}{number}", "image_path": f"train/{split}{number}.jpg", "set_name": split,
                })  # fmt: skip
        write(root / f"TextCaps_0.1_{split}.json", {"dataset_name": "textcaps", "data": entries})
    return root / "TextCaps_0.1_train.json"


MAKERS = {"karpathy": karpathy, "vqa2": vqa2, "vizwiz": vizwiz, "snli-ve": snli_ve, "textcaps": textcaps}


def load(name: str, root: Path, **more) -> RecordSet:
    return load_records(name, PUBLISHED[name].task, root, **more)


def test_every_published_set_has_an_excerpt():
    assert MAKERS.keys() == PUBLISHED.keys()


def test_karpathy_joins_restval_to_train_and_keeps_every_sentence(tmp_path):
    karpathy(tmp_path)
    data = load("karpathy", tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [2, 1, 1]
    assert data.train[1].captions == ("A dog, number 1.", "Ein Hündchen.")
    assert data.test[0].id == "103" and data.test[0].image == tmp_path / "val2014" / "COCO_val2014_000000000003.jpg"


def test_vqa_counts_answers_and_carves_validation_by_picture(tmp_path):
    vqa2(tmp_path)
    data = load("vqa2", tmp_path)
    assert data.train[0].answers == (("net", 7), ("mesh", 3)) and data.train[0].kind == "other"
    assert {record.image for record in data.train}.isdisjoint(record.image for record in data.val)
    assert len(data.train) == 8 and len(data.val) == 2 and len(data.test) == 2
    assert data.test[0].image.name == "COCO_val2014_000000000042.jpg" and data.test[0].id == "42000"


def test_vizwiz_takes_the_published_validation_as_test(tmp_path):
    vizwiz(tmp_path)
    data = load("vizwiz", tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [4, 1, 1]
    assert data.test[0].answers == (("basil leaves", 6), ("basil", 4))


def test_snli_ve_leaves_undecided_pairs_out_and_reads_both_spellings(tmp_path):
    snli_ve(tmp_path)
    data = load("snli-ve", tmp_path)
    assert [record.label for record in data.train] == ["entailment", "neutral", "contradiction"]
    assert data.val[0].image.name == "36979.jpg" and data.val[0].prompt == "Women are hugging."


def test_textcaps_groups_captions_by_picture(tmp_path):
    textcaps(tmp_path)
    data = load("textcaps", tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [4, 1, 1]
    assert len(data.train[0].captions) == 5


@pytest.mark.parametrize("name", MAKERS)
def test_the_split_hash_knows_content_but_not_the_folder(name, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    listing = MAKERS[name](first)
    MAKERS[name](second)
    assert load(name, first).split_hash == load(name, second).split_hash
    text = listing.read_text()
    changed = {
        "karpathy": "number 0",
        "textcaps": "says 0",
        "vqa2": "What is it",
        "vizwiz": "name of this",
        "snli-ve": "hugging",
    }
    listing.write_text(text.replace(changed[name], "something"))
    assert load(name, first).split_hash != load(name, second).split_hash


@pytest.mark.parametrize("name", MAKERS)
def test_missing_pictures_are_counted_and_the_first_is_named(name, tmp_path):
    MAKERS[name](tmp_path)
    lost = load(name, tmp_path).test[0].image
    lost.unlink()
    with pytest.raises(FileError, match=rf"1 picture\(s\).*{lost.name}"):
        load(name, tmp_path)
    assert load(name, tmp_path, check_files=False).test[0].image == lost


@pytest.mark.parametrize("name", MAKERS)
def test_a_missing_or_broken_file_is_named(name, tmp_path):
    listing = MAKERS[name](tmp_path)
    listing.write_text('{"data": 3,\n broken')
    with pytest.raises(FileError, match=rf"{listing.name}.*line \d"):
        load(name, tmp_path)
    listing.unlink()
    with pytest.raises(FileError, match=listing.name.replace("train", ".*")):
        load(name, tmp_path)


@pytest.mark.parametrize("name, field", [
    ("karpathy", "raw"), ("vqa2", "question"), ("vizwiz", "answers"), ("snli-ve", "sentence2"),
    ("textcaps", "caption_str"),
])  # fmt: skip
def test_a_malformed_entry_is_named_with_its_place(name, field, tmp_path):
    listing = MAKERS[name](tmp_path)
    listing.write_text(listing.read_text().replace(f'"{field}":', '"nothing":'))
    with pytest.raises(FileError, match=rf"{listing.name}: (entry 0|line 1).*'{field}'"):
        load(name, tmp_path)


def test_a_question_without_answers_is_named(tmp_path):
    listing = vqa2(tmp_path)
    annotations = tmp_path / "v2_mscoco_train2014_annotations.json"
    content = json.loads(annotations.read_text())
    content["annotations"].pop(3)
    write(annotations, content)
    with pytest.raises(FileError, match=rf"{listing.name}: entry 3 has question_id 25001"):
        load("vqa2", tmp_path)


def test_an_unknown_label_names_its_line(tmp_path):
    listing = snli_ve(tmp_path)
    listing.write_text(listing.read_text().replace('"gold_label": "contradiction"', '"gold_label": "maybe"'))
    with pytest.raises(FileError, match="line 3 has gold_label 'maybe'"):
        load("snli-ve", tmp_path)


@pytest.mark.parametrize("name, task, root, said", [
    ("easy-vqa", "ranking", None, "task is 'ranking'"), ("imagenet", "vqa", None, "data is 'imagenet'"),
    ("vqa2", "caption", "x", "vqa2 is a set for vqa"), ("vqa2", "vqa", None, "vqa2 needs root"),
])  # fmt: skip
def test_what_does_not_fit_is_said(name, task, root, said):
    with pytest.raises(InputError, match=said):
        load_records(name, task, root)


def test_no_picture_is_in_two_splits(tmp_path):
    made = [Record(str(i), tmp_path / "a.png", split, "why?", answers=(("b", 1),)) for i, split in enumerate("xyz")]
    with pytest.raises(InputError, match="in train and in val"):
        RecordSet("x", "vqa", tmp_path, (made[0],), (made[1],), (made[2],), check_files=False)


@pytest.mark.parametrize("task, said", [
    ("caption", "no captions"), ("vqa", "no answers"), ("entailment", "the label ''"),
])  # fmt: skip
def test_records_must_hold_what_their_task_needs(task, said, tmp_path):
    train, val, test = ((Record(split, tmp_path / split, split, "why?"),) for split in ("train", "val", "test"))
    with pytest.raises(InputError, match=said):
        RecordSet("x", task, tmp_path, train, val, test, check_files=False)


def test_limits_draw_training_by_seed_and_keep_the_other_splits(tmp_path):
    def part(split, count):
        return tuple(
            Record(f"{split}{i}", tmp_path / f"{split}{i}", split, "q", answers=(("a", 1),)) for i in range(count)
        )

    data = RecordSet("x", "vqa", tmp_path, part("train", 20), part("val", 9), part("test", 9), check_files=False)
    first, second = data.limited(5, 4, 3, seed=1), data.limited(5, 4, 3, seed=2)
    assert len(first.train) == 5 and first.train != second.train and first.train == data.limited(5, 4, 3, seed=1).train
    assert first.val == second.val and first.test == second.test and first.split_hash != second.split_hash
    with pytest.raises(InputError, match="limit on val"):
        data.limited(None, 0, None)


def test_carving_does_not_depend_on_order(tmp_path):
    records = [Record(str(i), tmp_path / f"{i // 2}.png", "train", "q", answers=(("a", 1),)) for i in range(20)]
    train, val = carve_val_by_image(records, tmp_path)
    again = carve_val_by_image(records[::-1], tmp_path)
    assert set(val) == set(again[1]) and len(val) == 4 and len(train) == 16
    assert all(record.split == "val" for record in val)


def test_answers_are_counted_most_frequent_first():
    assert counted(["b", "a", "c", "c"]) == (("c", 2), ("a", 1), ("b", 1))
