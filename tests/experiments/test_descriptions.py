"""Descriptions of classes as prompts: read from several kinds of file, encoded, and part of what a fit is known by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmadapt
from tests.experiments.world import ColourEncoder, make_world
from vlmadapt.backbones import class_text_features, prompt_features
from vlmadapt.data import load_dataset
from vlmadapt.data.descriptions import described, read_descriptions
from vlmadapt.errors import VlmadaptError
from vlmadapt.experiments.features import ClassTexts

TEXTS = {"apple": ("a red apple, round", "an apple"), "sun": ("the {} at noon",)}
COMMON: dict[str, Any] = {"encoder": ColourEncoder(), "no_cache": True, "adapter": "zero-shot", "shots": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("data") / "world")


def as_json(folder: Path) -> Path:
    (folder / "texts.json").write_text(json.dumps({"apple": list(TEXTS["apple"]), "sun": TEXTS["sun"][0]}))
    return folder / "texts.json"


def as_csv(folder: Path) -> Path:
    rows = ["Class,Description,who", 'apple,"a red apple, round",me', "apple,an  apple,me", " sun ,the {} at noon,"]
    (folder / "texts.csv").write_text("\n".join([*rows, "apple,an apple,again"]), encoding="utf-16")
    return folder / "texts.csv"


def as_jsonl(folder: Path) -> Path:
    pairs = [{"class": name, "description": text} for name, texts in TEXTS.items() for text in texts]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return folder / "texts.jsonl"


@pytest.mark.parametrize("form", [as_json, as_csv, as_jsonl])
def test_every_form_says_the_same(form: Any, tmp_path: Path) -> None:
    assert read_descriptions(form(tmp_path)) == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "[]", "holds no JSON object"),
        ("a.json", '{"apple": []}', "holds no descriptions"),
        ("a.json", '{"apple": [3]}', "has description 3 at 'apple'"),
        ("a.json", '{"_": "x"}', "has class '_' at '_'"),
        ("a.csv", "name,text\na,b", "none called class and description: name them so in its first line, one row a"),
        ("a.csv", "class,description\napple,", "has description '' at line 2"),
        ("a.txt", "apple: red", r"give a \.json, \.csv, \.tsv or \.jsonl file"),
        ("a.json", '{"plum": "blue"}', "describes plum, but no class of 'world' \\(apple, fish, leaf and 1 more\\)"),
    ],
)
def test_what_cannot_be_used_is_named(world: Path, tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(VlmadaptError, match=words):
        described(load_dataset(world), tmp_path / name)


def test_a_class_takes_its_descriptions_and_the_others_the_templates(world: Path, tmp_path: Path) -> None:
    dataset = described(load_dataset(world), as_json(tmp_path))
    assert dataset.prompts() == [
        ["a red apple, round", "an apple"],
        ["a photo of a fish."],
        ["a photo of a leaf."],
        ["the sun at noon"],
    ]
    assert dataset.notes[-1] == "no description, but the templates, for fish, leaf"
    encoder = ColourEncoder()
    features = ClassTexts(encoder, dataset).features
    assert isinstance(features, torch.Tensor)
    torch.testing.assert_close(features, prompt_features(encoder, dataset.prompts()))
    plain = class_text_features(encoder, ["fish"], dataset.templates)
    torch.testing.assert_close(features[1:2], plain)
    (tmp_path / "more.json").write_text('{"plum": "a plum", "sun": "x sun"}')
    note = described(dataset, tmp_path / "more.json").notes[-1]
    assert note == "descriptions left out, of classes that the data do not have: plum"


def test_a_fit_notes_them_and_is_another_one(world: Path, tmp_path: Path) -> None:
    file = as_json(tmp_path)
    classifier = vlmadapt.fit(world, descriptions=file, out=tmp_path / "run", **COMMON)
    assert classifier.run.descriptions == {name: list(texts) for name, texts in TEXTS.items()}
    assert vlmadapt.Classifier.load(tmp_path / "run", ColourEncoder()).run == classifier.run
    with pytest.raises(ValueError, match="another descriptions"):
        vlmadapt.fit(world, out=tmp_path / "run", resume=True, **COMMON)
    assert "descriptions" not in json.loads(_plain_run(world, tmp_path).read_text())


def _plain_run(world: Path, folder: Path) -> Path:
    vlmadapt.fit(world, out=folder / "plain", **COMMON)
    return folder / "plain" / "run.json"


def test_compare_keeps_them_apart_and_features_take_them(world: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"adapters": ["zero-shot"], "shots": [1], "seeds": 1, "encoder": ColourEncoder()}
    vlmadapt.compare(world, out=tmp_path / "out", no_cache=True, **options)
    with pytest.raises(ValueError, match="other settings"):
        vlmadapt.compare(world, out=tmp_path / "out", no_cache=True, descriptions=as_json(tmp_path), **options)


def test_where_there_is_no_text_they_are_refused(world: Path, tmp_path: Path) -> None:
    class Blind(ColourEncoder):
        has_text = False  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"descriptions is given, but the backbone has no text tower"):
        vlmadapt.fit(world, descriptions=as_json(tmp_path), **{**COMMON, "encoder": Blind(), "adapter": "ncm"})
