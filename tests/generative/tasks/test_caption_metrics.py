"""CIDEr and BLEU-4 through their package: known extremes, and what must not change a score."""

from __future__ import annotations

import math

import pytest

from vlmadapt.errors import InputError
from vlmadapt.generative.tasks.caption_metrics import caption_scores, tokenize_caption

pytest.importorskip("pycocoevalcap")

REFERENCES = [
    ["a small blue circle at the top", "the picture shows a blue circle"],
    ["a large red triangle in the middle", "a red triangle"],
    ["nothing but a green square on the left side"],
]


def test_tokens_are_lower_case_words():
    assert tokenize_caption('A man\u2019s "red-hot" grill,  isn\'t it?  ') == "a man's red hot grill isn't it"
    assert tokenize_caption("a_b 3.5 Käse!") == "a b 3 5 käse"


def test_perfect_captions_score_highest_and_unrelated_ones_nothing():
    perfect = caption_scores([texts[0] for texts in REFERENCES], REFERENCES)
    assert perfect["bleu4"] == pytest.approx(1.0, abs=1e-6)
    # CIDEr is ten times a mean of cosines, which is 1 where the only reference is met.
    assert caption_scores([r[0] for r in REFERENCES], [[r[0]] for r in REFERENCES])["cider"] == pytest.approx(10.0)
    unrelated = caption_scores(["zebra crossing road quickly"] * 3, REFERENCES)
    assert unrelated["cider"] == 0.0 and unrelated["bleu4"] < 1e-3
    part = caption_scores(["a small blue circle", "a red triangle", "a green square"], REFERENCES)
    assert 0 < part["cider"] < perfect["cider"]


def test_cider_of_a_single_word_is_the_formula():
    # One-word captions: only 1-grams count, so a right one scores 10 * (1 + 0 + 0 + 0) / 4 with Gaussian length term 1.
    scores = caption_scores(["circle", "zebra"], [["circle"], ["triangle"]])
    assert scores["cider"] == pytest.approx(10 / 4 / 2)


def test_bleu4_is_the_formula():
    # 7 of 8 words, 5 of 7 pairs, 4 of 6 triples, 3 of 5 quadruples; equal lengths, so no brevity penalty.
    said, wanted = "a b c d e f x h", "a b c d e f g h"
    expected = math.exp(sum(math.log(part) for part in (7 / 8, 5 / 7, 4 / 6, 3 / 5)) / 4)
    scores = caption_scores([said, said], [[wanted], [wanted]])
    assert scores["bleu4"] == pytest.approx(expected, rel=1e-6)


def test_punctuation_and_case_do_not_count():
    plain = caption_scores(["a blue circle", "a red triangle", "a square"], REFERENCES)
    assert caption_scores(["A blue circle.", "a Red, triangle", '"a square"!'], REFERENCES) == plain


@pytest.mark.parametrize("said", [["one"], ["one", "two"]])
def test_lengths_must_agree(said):
    with pytest.raises(InputError, match="predictions has"):
        caption_scores(said, REFERENCES[: len(said) % 2])


@pytest.mark.parametrize("said", ["", " ", "...", "?!"])
def test_a_caption_without_words_scores_nothing(said):
    assert caption_scores([said] * 3, REFERENCES) == {"cider": 0.0, "bleu4": 0.0}
    one = caption_scores([REFERENCES[0][0], REFERENCES[1][0], said], REFERENCES)
    whole = caption_scores([REFERENCES[0][0], REFERENCES[1][0], "zebra"], REFERENCES)
    assert one["cider"] == pytest.approx(whole["cider"])


def test_references_without_words_do_not_count():
    said = ["a blue circle", "a red triangle", "a green square on the left"]
    assert caption_scores(said, [[*texts, "...", ""] for texts in REFERENCES]) == caption_scores(said, REFERENCES)
    with pytest.raises(InputError, match=r"references of picture 1 are \['\?', ''\]: give one with a word"):
        caption_scores(said, [REFERENCES[0], ["?", ""], REFERENCES[2]])
