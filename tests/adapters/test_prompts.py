"""Negative prompts of every data set's templates, and of awkward ones."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.problem import TokenEncoder, make_problem
from vlmadapt.adapters import negative_template, negative_templates
from vlmadapt.backbones import class_text_features
from vlmadapt.data import BENCHMARKS
from vlmadapt.data.templates import TEMPLATES, templates_for

EXPECTED = {
    "imagenet": (
        "itap of no {}.",
        "a bad photo of no the {}.",
        "a photo of no a origami {}.",
        "a photo of no the large {}.",
        "a photo of no a {} in a video game.",
        "art of no the {}.",
        "a photo of no the small {}.",
    ),
    "caltech101": ("a photo of no {}.",),
    "oxfordpets": ("a photo of no {}, a type of pet.",),
    "stanfordcars": ("a photo of no {}.",),
    "flowers102": ("a photo of no {}, a type of flower.",),
    "food101": ("a photo of no {}, a type of food.",),
    "fgvcaircraft": ("a photo of no {}, a type of aircraft.",),
    "sun397": ("a photo of no {}.",),
    "dtd": ("a photo of no {} texture.",),
    "eurosat": ("a centered satellite photo of no {}.",),
    "ucf101": ("a photo of no person doing {}.",),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_templates_of_the_benchmarks(name):
    assert negative_templates(templates_for(name)) == EXPECTED[name]


def test_every_benchmark_is_covered():
    assert set(BENCHMARKS) == set(EXPECTED)
    assert len(EXPECTED) == 11


@pytest.mark.parametrize("template", [template for group in TEMPLATES.values() for template in group])
def test_every_template_changes_and_keeps_its_place_for_the_name(template):
    negative = negative_template(template)
    assert negative != template
    assert " no " in negative
    assert negative.count("{}") == 1


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{} of a {}", "{} of no {}"),
        ("a photo of a {}, that is of a {}.", "a photo of no {}, that is of a {}."),
        ("{}", "a photo of no {}"),
        ("of a {}", "a photo of no of a {}"),
        ("", "a photo of no "),
        ("photo of the {}", "photo of no the {}"),
    ],
)
def test_other_templates(template, expected):
    assert negative_template(template) == expected


@pytest.mark.parametrize("name", ["jack of a trade", "{}", "{0} {name}", "a%sb\\n", "Ünïcode 果物 of a", "of a", "$x$"])
def test_class_names_are_left_as_they_are(name):
    class Texts(TokenEncoder):
        def encode_texts(self, texts, normalize=True):
            seen.extend(texts)
            return super().encode_texts(texts, normalize)

    seen: list[str] = []
    encoder: Any = Texts(make_problem().text)
    features = class_text_features(encoder, [name, "dog"], negative_templates(["a photo of a {}."]))
    assert seen == [f"a photo of no {name}.", "a photo of no dog."]
    assert features.shape == (2, 24)
