"""easy-VQA as three tasks, on the package itself; skipped where it is not installed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("easy_vqa")

from vlmadapt.generative.data import easy_vqa, shapes
from vlmadapt.generative.data.load import load_records
from vlmadapt.generative.data.shapes import COLOURS, SHAPES, Facts


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def says(facts: Facts, statement: str) -> bool:
    """Whether a statement is true of a picture, by reading the statement word by word."""
    words = statement.split()
    true = facts.colour in words if "shape" in words else facts.shape in words
    return true != bool({"not", "no"} & set(words))


def test_measured_facts_agree_with_the_published_answers():
    asked = easy_vqa.questions("val", easy_vqa.SEEN + easy_vqa.HELD_OUT)
    facts = {image: easy_vqa.facts_of(image) for image in easy_vqa.pictures("val")}
    assert len(asked) > 3000
    for record in asked:
        found, answer = facts[record.image], record.answers[0][0]
        if answer in ("yes", "no"):
            statement = easy_vqa.statement_of(record.prompt)
            assert statement is not None and says(found, statement) == (answer == "yes"), record
        else:
            assert answer in (found.colour, found.shape), record


def test_held_out_types_and_pictures_stay_out_of_pretraining():
    seen = easy_vqa.questions("pretrain", easy_vqa.SEEN)
    data = load_records("easy-vqa", "vqa")
    used = [set(easy_vqa.pictures(part)) for part in ("pretrain", "train", "val", "test")]
    assert sum(map(len, used)) == len(set.union(*used)) == 5000
    assert {record.kind for record in data.train + data.val + data.test} == set(easy_vqa.HELD_OUT)
    assert {record.prompt for record in seen}.isdisjoint(record.prompt for record in data.train + data.test)


@pytest.mark.parametrize("question, kind", [
    ("what is the blue shape?", "shape of colour"), ("what shape is present?", "which shape"),
    ("what color is the shape?", "which colour"), ("what is the color of the circle?", "colour of shape"),
    ("is a teal shape present?", "is colour"), ("does the image contain a circle?", "is shape"),
    ("is there not a red shape in the image?", "no colour"), ("is no triangle present?", "no shape"),
])  # fmt: skip
def test_types_of_question(question, kind):
    assert easy_vqa.question_kind(question) == kind


def test_entailment_is_balanced_true_and_covers_what_is_neutral():
    data = load_records("easy-vqa", "entailment")
    for part in (data.train, data.val):
        for kind in {record.kind for record in part}:
            counts = Counter(record.label for record in part if record.kind == kind)
            assert len(counts) == 3 and len(set(counts.values())) == 1
    for record in data.val:
        if record.label == "neutral":
            assert easy_vqa.user_cache_dir() in record.image.parents
        else:
            assert says(easy_vqa.facts_of(record.image), record.prompt) == (record.label == "entailment")


def test_a_covered_picture_shows_nothing_of_its_shape():
    for image in easy_vqa.pictures("val")[:40]:
        picture = shapes.read_picture(image)
        facts = shapes.measure(picture, image)
        left, top, right, bottom = facts.box
        hidden = shapes.cover(picture, facts, image.name)
        other = picture.copy()
        other[top - 1 if top else 0 : bottom + 1, left - 1 if left else 0 : right + 1] = (1, 2, 3)
        assert np.array_equal(hidden, shapes.cover(other, facts, image.name)) and (hidden != picture).any()


def test_what_a_killed_writer_of_covered_pictures_left_goes_with_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path))
    image = easy_vqa.pictures("val")[0]
    covered = easy_vqa.covered_pictures([image])[image]
    covered.with_name(f".{covered.name}.12345678.vlmadapt.tmp").mkdir()
    assert easy_vqa.covered_pictures([image]) == {image: covered}
    assert list(covered.parent.iterdir()) == [covered]


def test_captions_say_what_is_there():
    facts = Facts("red", "circle", (40, 2, 50, 12))
    assert easy_vqa.captions_of(facts)[0] == "a small red circle at the top right"
    assert easy_vqa.captions_of(facts.mirrored())[2] == "at the top left there is a small red circle"
    data = load_records("easy-vqa", "caption")
    assert [len(part) for part in (data.train, data.val, data.test)] == [1000, 400, 1000]
    words = {word for record in data.val for caption in record.captions for word in caption.split()}
    assert words >= set(SHAPES) | set(COLOURS) | set(shapes.SIZES)
