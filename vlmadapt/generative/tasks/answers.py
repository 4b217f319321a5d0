"""The accuracy of VQA (arXiv 1505.00468, section 4; its published evaluation rules)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_COUNTED)}}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ENOUGH = 3  # people who must agree with an answer for it to count in full

# Words whose missing apostrophes the rules put back.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_or_all(word: str) -> set[str]:
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return {word.replace("'", ""), *(word[:place] + word[place + 1 :] for place in places)}


CONTRACTIONS = {bare: word for word in _CONTRACTED.split() for bare in _without_one_or_all(word)}


def normalize_answer(text: str) -> str:
    """The form in which answers are compared: punctuation, number words, articles and apostrophes settled.

    A punctuation mark is dropped where a space is beside it or the answer has a comma between digits, and becomes a
    space elsewhere; a full stop goes unless a digit follows.
    """
    text = " ".join(text.split())
    thousands = re.search(r"\d,\d", text) is not None
    settled = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        settled = settled.replace(mark, "" if beside_space or thousands else " ")
    settled = re.sub(r"\.(?!\d)", "", settled)
    words = [NUMBERS.get(word, word) for word in settled.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_accuracy(predicted: str, answers: Sequence[tuple[str, int]]) -> float:
    """Accuracy of one prediction, in [0, 1], against ``answers``: what people said and how many of them.

    min(n / 3, 1) with n the others who said the same, averaged over leaving each person out (ten choose nine). Answers
    and prediction are normalised unless all people agree, as published. Ours: where up to three people all agree, an
    equal answer counts in full (for easy-VQA with its one answer a question); a text of which normalisation leaves
    nothing ("the", "?", "") equals only its like, so that to say nothing is never right where people said something.
    """
    total = sum(count for _, count in answers)
    if len(answers) == 1 and total < ENOUGH + 1:
        return float(_settled(predicted) == _settled(answers[0][0]))
    settle = _settled if len(answers) > 1 else _tidy
    wanted = settle(predicted)
    same = sum(count for answer, count in answers if settle(answer) == wanted)
    left_one_out = same * min((same - 1) / ENOUGH, 1.0) + (total - same) * min(same / ENOUGH, 1.0)
    return left_one_out / total


def _settled(text: str) -> str:
    """Normalised; the bare words where that leaves nothing, and the signs where there are no words."""
    return normalize_answer(text) or _tidy(re.sub(r"[^\w\s]|_", "", text).lower()) or _tidy(text)


def _tidy(text: str) -> str:
    return " ".join(text.split())
