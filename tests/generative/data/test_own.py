"""Records of one's own: what is read, how it is split, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmadapt.errors import FileError, InputError, VlmadaptError
from vlmadapt.generative import load_records
from vlmadapt.generative.data.own import MOST_LINE, check_own, read_own, task_of
from vlmadapt.generative.data.records import RecordSet, TaskName


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 5, 5)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def written(folder: Path, lines: list[Any], **how: Any) -> Path:
    path = folder / "mine.jsonl"
    text = "\n".join(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in lines)
    path.write_text(text, **{"encoding": "utf-8", **how})
    return path


def captions() -> list[Any]:
    return [{"image": f"photos/{n}.png", "caption": f"picture number {n}"} for n in range(12)]


def questions() -> list[Any]:
    return [
        {"image": f"photos/{n % 12}.png", "question": f"what is {n}?", "answers": ["red", "red", "dark"]}
        for n in range(24)
    ]


def statements() -> list[Any]:
    labels = ["entailment", "Neutral", "no"]
    return [{"picture": f"photos/{n}.png", "hypothesis": f"it is {n}", "label": labels[n % 3]} for n in range(12)]


def every(records: RecordSet) -> list[Any]:
    return [*records.train, *records.val, *records.test]


def test_the_three_kinds_are_read(folder: Path) -> None:
    path = written(folder, captions())
    found = load_records(path, "caption")
    assert (len(found.train), len(found.val), len(found.test)) == (8, 2, 2) and found.name == "mine"
    assert {each.captions for each in every(found)} == {(f"picture number {n}",) for n in range(12)}
    assert task_of(path) == "caption"
    found = read_own(written(folder, questions()), "vqa")
    assert {each.answers for each in every(found)} == {(("red", 2), ("dark", 1))} and len(every(found)) == 24
    found = read_own(written(folder, statements()), "entailment")
    assert {each.label for each in every(found)} == {"entailment", "neutral", "contradiction"}
    one = [{**each, "answers": 7} for each in questions()]
    assert {each.answers for each in every(read_own(written(folder, one), "vqa"))} == {(("7", 1),)}


def test_no_picture_is_in_two_splits_under_whatever_name(folder: Path) -> None:
    shutil.copy(folder / "photos" / "3.png", folder / "copy.png")
    more = [{"image": "copy.png", "question": "again?", "answers": ["red"]},
            {"image": "photos/../photos/3.png", "question": "once more?", "answers": ["red"]}]  # fmt: skip
    found = read_own(written(folder, [*questions(), *more]), "vqa")
    splits = {each.split for each in every(found) if each.image.name in ("3.png", "copy.png")}
    assert len(splits) == 1
    # What is added later moves few, and neither order nor the folder's place changes anything.
    again = read_own(written(folder, [*more, *reversed(questions())]), "vqa")
    before, after = ({(each.image, each.prompt): each.split for each in every(each_set)} for each_set in (found, again))
    assert before == after


def test_lines_about_one_picture_are_one_record_of_captions(folder: Path) -> None:
    more = [{"image": "photos/0.png", "captions": ["a second one", "picture number 0"]}]
    found = read_own(written(folder, [*captions(), *more]), "caption")
    assert len(every(found)) == 12
    assert ("picture number 0", "a second one") in {each.captions for each in every(found)}


def test_splits_that_are_given_count(folder: Path) -> None:
    lines = [{**each, "split": "train" if n < 8 else "testing"} for n, each in enumerate(captions())]
    found = read_own(written(folder, lines), "caption")
    assert {each.image.name for each in found.test} == {f"{n}.png" for n in range(8, 12)} and len(found.val) == 2
    lines = [{**each, "split": ["train", "dev", "test"][n % 3]} for n, each in enumerate(captions())]
    assert len(read_own(written(folder, lines), "caption").val) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_marks_and_line_ends_do_not_matter(folder: Path, encoding: str, newline: str) -> None:
    lines = [*captions()[:11], {"Image ": "photos/11.png", "CAPTION": "  é \t ü\u2028x "}, "", "   "]
    path = written(folder, lines, encoding=encoding, newline=newline)
    assert ("é ü x",) in {each.captions for each in every(read_own(path, "caption"))}
    assert check_own(path).ok


GOOD = {"image": "photos/0.png", "caption": "one"}
WRONG: dict[str, tuple[Any, str]] = {
    "not JSON": ('{"image": "photos/0.png", "caption": ', "not valid JSON: Expecting value at line 2"),
    "a list": ("[1, 2]", 'line 2 is not a JSON object: write {"image"'),
    "a key twice": ('{"image": "a.png", "image": "b.png", "caption": "x"}', "gives 'image' twice at line 2"),
    "a key twice, nearly": (
        '{"image": "a.png", "Image": "b.png", "caption": "x"}',
        "gives 'image' twice in other",
    ),
    "NaN": ('{"image": "photos/0.png", "caption": NaN}', "line 2 has the caption nan: write a text"),
    "infinite": ('{"image": "photos/0.png", "caption": 1e999}', "line 2 has the caption inf: write a text"),
    "null": ({**GOOD, "caption": None}, "line 2 has the caption None: write a text"),
    "true": ({**GOOD, "caption": True}, "line 2 has the caption True: write a text"),
    "nothing": ({**GOOD, "caption": " \u200b "}, "line 2 has the caption ' .*': write a text with a visible"),
    "no caption": ({"image": "photos/0.png", "captoin": "x"}, "line 2 has no caption \\(its keys: image, captoin\\)"),
    "no picture": ({"caption": "x"}, "line 2 has no image \\(its keys: caption\\)"),
    "picture a number": ({**GOOD, "image": [1]}, "line 2 has the image \\[1\\]: write a text"),
    "an address": ({**GOOD, "image": "https://example.org/a.png"}, "which is no file: download it first"),
    "half a character": ('{"image": "photos/0.png", "caption": "\\ud800"}', "line 2 has the caption .* not UTF-8"),
    "NUL": ('{"image": "photos/\\u0000.png", "caption": "x"}', "line 2 has the image .* not UTF-8"),
    "another task": ({"image": "photos/0.png", "question": "?", "answers": ["x"]}, "line 2 is for vqa, by its keys"),
    "a split": ({**GOOD, "split": "later"}, "line 2 has the split 'later': write train, val or test"),
    "a split of number": ({**GOOD, "split": 3}, "line 2 has the split 3: write train"),
    "an id": ({**GOOD, "id": [1]}, "line 2 has the id \\[1\\]: write a text or a whole number"),
    "huge": (
        '{"image": "photos/0.png", "caption": "' + "x" * MOST_LINE + '"}',
        "line 2 has 1,048,.* characters",
    ),
    "deep": ("[" * 100_000, "not valid JSON: .*"),
    "missing": ({**GOOD, "image": "photos/none.png"}, "line 2 names .*none.png, where there is no picture: restore"),
    "a folder": ({**GOOD, "image": "photos"}, "line 2 names .*photos, where there is no picture"),
    "a long name": ({**GOOD, "image": "x" * 5000}, "where there is no picture"),
    "one split": ({**GOOD, "split": "train"}, "line 1 has no split while others do"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_with_file_and_line(folder: Path, case: str) -> None:
    line, sentence = WRONG[case]
    path = written(folder, [captions()[1], line, *captions()[2:]])
    with pytest.raises(VlmadaptError, match=sentence) as caught:
        read_own(path, "caption")
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and "mine.jsonl" in message and len(message) < 6000
    report = check_own(path)
    assert not report.ok and report.lines()[-1].endswith("found")


def answered(answers: Any) -> Any:
    return {"image": "photos/0.png", "question": "what?", "answers": answers}


@pytest.mark.parametrize(
    ("task", "line", "sentence"),
    [
        ("vqa", answered([]), "has the answers \\[\\]: write a text"),
        ("vqa", answered([" "]), "has the answers ' ': write a text with a visible"),
        ("vqa", answered([1.5]), "has the answers 1.5: write a text"),
        ("vqa", answered({"red": 2}), "has the answers {'red': 2}: write a text"),
        ("vqa", {"image": "photos/0.png", "question": "what?"}, "has no answers \\(its keys: image, question\\)"),
        ("entailment", {"image": "photos/0.png", "hypothesis": "x", "label": "true"}, "has the label 'true': use ent"),
        ("entailment", {"image": "photos/0.png", "hypothesis": "x"}, "has no label"),
        ("caption", {"image": "photos/0.png", "caption": "x"}, "shows 1 different pictures: give at least 5"),
    ],
)  # fmt: skip
def test_so_it_is_of_the_other_tasks(folder: Path, task: TaskName, line: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_own(written(folder, [line]), task)


def test_splits_that_contradict_are_refused(folder: Path) -> None:
    shutil.copy(folder / "photos" / "0.png", folder / "copy.png")
    lines = [{**each, "split": "train"} for each in captions()]
    with pytest.raises(InputError, match="has no line with split test"):
        read_own(written(folder, lines), "caption")
    lines.append({"image": "copy.png", "caption": "x", "split": "test"})
    with pytest.raises(InputError, match="one picture in train on line 1 and in test on line 13: keep it in one"):
        read_own(written(folder, lines), "caption")


def test_files_that_are_none(folder: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        load_records(folder / "nowhere.jsonl", "caption")
    with pytest.raises(InputError, match="has no records"):
        read_own(written(folder, [""]), "caption")
    with pytest.raises(InputError, match=r"a \.jsonl file of your own"):
        load_records("my.csv", "caption")
    (folder / "bytes.jsonl").write_bytes(b'{"image": "\xff\xfe\x01"}')
    with pytest.raises(FileError, match="not UTF-8 text"):
        read_own(folder / "bytes.jsonl", "caption")


def test_the_check_names_every_line(folder: Path) -> None:
    (folder / "photos" / "1.png").write_bytes(b"no picture")
    lines = [*captions(), "nothing", {"image": "photos/none.png", "caption": "x"}, {"image": "photos/2.png"}]
    report = check_own(written(folder, lines))
    assert report.summary == "mine.jsonl: 13 records for caption, 13 pictures" and len(report.problems) == 4
    for number, text in (
        (13, "not valid JSON"),
        (15, "has no caption"),
        (2, "1.png is not a readable"),
        (14, "not there"),
    ):
        assert any(f"line {number}" in problem and text in problem for problem in report.problems), number
    good = check_own(written(folder, captions()[2:]))
    assert good.lines() == [
        "mine.jsonl: 10 records for caption, 10 pictures (6 train, 2 val, 2 test)", "nothing wrong found"
    ]  # fmt: skip
