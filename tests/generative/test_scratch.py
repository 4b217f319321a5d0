"""The small model from scratch: what it is shown, that it learns, and that its files are what tuning loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("easy_vqa")
pytest.importorskip("transformers")

from vlmadapt.files import read_json
from vlmadapt.generative import lessons, scratch
from vlmadapt.generative.data import easy_vqa
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.data.shapes import Facts, measure
from vlmadapt.generative.lessons import Lessons, ScratchConfig, short_captions
from vlmadapt.generative.models.small import SmallBlipConfig, WordTokenizer, build_small, split_words
from vlmadapt.generative.scratch import MARKER, small_model

TINY = ScratchConfig(
    model=SmallBlipConfig(width=32, heads=2, vision_layers=1, text_layers=1),
    tower_epochs=2,
    epochs=2,
    batch_size=4,
    lr=3e-3,
    pictures=16,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMADAPT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def course():
    words = WordTokenizer(lessons.vocabulary())
    return Lessons(
        build_small("vqa", len(words), TINY.model), build_small("caption", len(words), TINY.model), words, TINY
    )


def test_the_vocabulary_covers_every_text_of_the_three_tasks():
    words = lessons.vocabulary()
    texts = ["yes no maybe"]
    for record in easy_vqa.questions("test", easy_vqa.SEEN + easy_vqa.HELD_OUT):
        texts += [record.prompt, record.answers[0][0], easy_vqa.statement_of(record.prompt) or ""]
    for left in (0, 28, 50):
        for side in (8, 20, 30):
            texts += easy_vqa.captions_of(Facts("teal", "triangle", (left, left, left + side, left + side)))
    assert {word for text in texts for word in split_words(text)} <= words
    assert len(words) < 60


def test_yes_no_questions_ask_for_what_is_there_every_other_time():
    facts = Facts("red", "circle", (40, 2, 50, 12))
    asked = {"is shape": "is there a triangle?", "is colour": "is a teal shape present?"}
    there = {"is shape": "circle", "is colour": "red shape"}
    torch.manual_seed(0)
    for kind, question in asked.items():
        record = Record("a", Path("a.png"), "pretrain", question, answers=(("no", 1),), kind=kind)
        made = [lessons.evened(record, facts) for _ in range(200)]
        answers = [each.answers[0][0] for each in made]
        assert 70 < answers.count("yes") < 130
        for each, answer in zip(made, answers, strict=True):
            assert (there[kind] in each.prompt) == (answer == "yes")
            assert easy_vqa.question_kind(each.prompt) == kind
    which = Record("a", Path("a.png"), "pretrain", "what is the color of the shape?", answers=(("red", 1),))
    assert lessons.evened(which, facts) is which


def test_short_captions_never_tell_everything():
    facts = Facts("red", "circle", (40, 2, 50, 12))
    for text in short_captions(facts):
        assert ("red" in text) != ("top right" in text)
    assert not set(short_captions(facts)) & set(easy_vqa.captions_of(facts))


def test_moved_pictures_show_what_their_facts_say(course):
    torch.manual_seed(0)
    places = set()
    for about in course.train * 3:
        picture, facts, records = course._augmented(about)
        assert len(records) == TINY.asked
        if facts is None:
            assert all(record.answers == (("maybe", 1),) for record in records)
            continue
        found = measure(np.ascontiguousarray(picture), "moved")
        assert (found.colour, found.shape, found.box) == (facts.colour, facts.shape, facts.box)
        places.add(facts.place)
    assert len(places) > 4


def test_it_is_trained_once_kept_and_loaded(cache):
    said: list[str] = []
    first = small_model("vqa", TINY, report=said.append)
    again = small_model("caption", TINY, report=said.append)
    assert len(said) == 1 and "once" in said[0]
    assert type(first.model).__name__ == "BlipForQuestionAnswering"
    assert type(again.model).__name__ == "BlipForConditionalGeneration"
    tower, same = (model.get_submodule("vision_model").state_dict() for model in (first.model, again.model))
    assert all(torch.equal(tensor, tower[name]) for name, tensor in same.items())
    folder = cache / f"small-blip-{TINY.key}"
    assert sorted(path.name for path in cache.iterdir()) == [folder.name]  # no half-written rest
    facts = read_json(folder / MARKER)
    assert facts["epochs"] == 2 and facts["best_epoch"] > 0 and facts["seconds"] > 0
    assert replace(TINY, seed=1).key != TINY.key


def test_what_is_saved_sees_pictures_as_training_did(cache):
    from vlmadapt.pictures import read

    path = easy_vqa.pictures("val")[0]
    image = read(path)
    torch.testing.assert_close(small_model("vqa", TINY).transform(image), lessons.to_pixels(np.asarray(image)))


def test_interrupted_among_the_words_it_goes_on_to_the_same_model(tmp_path, monkeypatch):
    whole = scratch.train_small(tmp_path / "whole", TINY)
    score, calls = Lessons.score, []

    def interrupted(course):
        calls.append(course)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(course)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Lessons, "score", interrupted)
        scratch.train_small(tmp_path / "parts", TINY)
    parts = scratch.train_small(tmp_path / "parts", TINY)
    assert read_json(parts / MARKER)["seconds"] is None  # it does not claim the time of one part
    for file in ("vqa/model.safetensors", "caption/model.safetensors"):
        expected, found = load_file(whole / file), load_file(parts / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
