"""VQA accuracy and answer normalisation, against the published definition written out person by person."""

from __future__ import annotations

import random

import pytest

from vlmadapt.generative.tasks.answers import answer_accuracy, normalize_answer


@pytest.mark.parametrize("text, wanted", [
    ("Yes", "yes"), ("  two\n", "2"), ("None", "0"), ("the red  Car", "red car"), ("a", ""),
    ("dont know", "don't know"), ("Its", "its"), ("hes", "he's"), ("couldntve", "couldn't've"),
    ("couldn'tve", "couldn't've"), ("well-done", "well done"), ("well -done", "well done"), ("stop!", "stop"),
    ("1,000", "1000"), ("3.5", "3.5"), ("mr. smith", "mr smith"), ("what?", "what"), ("yes, sir", "yes sir"),
    ("black/white", "black white"), ("top_left", "top left"), ("won't", "won't"),
])  # fmt: skip
def test_normalisation(text, wanted):
    assert normalize_answer(text) == wanted


def by_the_book(predicted: str, people: list[str]) -> float:
    """The definition: for each person, how many of the others said the same, a third each, at most one."""
    if len(set(people)) > 1:
        people = [normalize_answer(answer) for answer in people]
        predicted = normalize_answer(predicted)
    scores = []
    for i in range(len(people)):
        others = people[:i] + people[i + 1 :]
        scores.append(min(1.0, others.count(predicted) / 3))
    return sum(scores) / len(scores)


def test_accuracy_is_the_published_average_over_ten_choose_nine():
    draw = random.Random(0)
    words = ["net", "a net", "mesh", "Mesh.", "fence", "2", "two"]
    for _ in range(300):
        people = [draw.choice(words[: draw.randint(1, len(words))]) for _ in range(10)]
        counted = tuple((word, people.count(word)) for word in dict.fromkeys(people))
        predicted = draw.choice(words)
        assert answer_accuracy(predicted, counted) == pytest.approx(by_the_book(predicted, people)), (predicted, people)


@pytest.mark.parametrize("count, wanted", [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_agreement_of_a_few_counts_in_part(count, wanted):
    assert answer_accuracy("net", (("net", count), ("mesh", 10 - count))) == pytest.approx(wanted)


def test_one_answer_must_be_met():
    assert answer_accuracy("Two", (("2", 1),)) == 1.0
    assert answer_accuracy("three", (("2", 1),)) == 0.0


@pytest.mark.parametrize("said", ["", "  ", "?", "...", "!", "_", "the", "The.", "a"])
@pytest.mark.parametrize("people", [
    [("?!", 1)], [("an", 1)], [("red", 1)], [("?!", 6), ("an", 4)], [(",", 10)], [("an", 9), ("red", 1)], [("(?)", 3)],
])  # fmt: skip
def test_saying_nothing_is_never_right_where_people_said_something(said, people):
    assert answer_accuracy(said, people) == 0.0


@pytest.mark.parametrize("said, people", [
    ("a", [("a", 1)]), ("A.", [("a", 1)]), ("a", [("A", 9), ("b", 1)]), ("?", [("?", 1)]), ("the", [("The!", 3)]),
])  # fmt: skip
def test_an_answer_that_is_an_article_or_a_sign_can_be_met(said, people):
    assert answer_accuracy(said, people) == 1.0
