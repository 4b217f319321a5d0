"""An argument of another kind than is annotated ends in a sentence, at every public function and option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlmadapt
from tests.experiments.world import ColourEncoder, make_world
from vlmadapt import adapters, backbones, data, pictures
from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds

ENCODER = ColourEncoder()
TEXT = torch.eye(3, 4)
NUMBER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "load_dataset": (vlmadapt.load_dataset, "spec is a int: give a word or a path"),
    "load_dataset.root": (lambda value: vlmadapt.load_dataset("caltech101", root=value), "root is a int"),
    "load_encoder": (vlmadapt.load_encoder, "name is a int: give the name of a backbone"),
    "create_adapter": (lambda value: adapters.create_adapter(value, TEXT, 1.0), "'?3'?"),
    "create_adapter.text": (lambda value: adapters.create_adapter("ncm", value, 1.0), "text_features is a int"),
    "create_adapter.names": (
        lambda value: adapters.create_adapter("ncm", TEXT, 1.0, None, value),
        "class_names is a int",
    ),
    "load_adapter": (adapters.load_adapter, "folder is a int: give a word or a path"),
    "Classifier.load": (vlmadapt.Classifier.load, "folder is a int: give a word or a path"),
    "read_table": (data.read_table, "table is a int"),
    "read_folder": (data.read_folder, "is a int"),
    "sample_shots": (lambda value: data.sample_shots(value, 1, 0), "dataset is a int: give a Dataset"),
    "class_text_features": (
        lambda value: backbones.class_text_features(ENCODER, value, ["{}"]),
        "class_names is a int",
    ),
    "identify": (pictures.identify, "path is a int"),
    "evaluate": (vlmadapt.evaluate, "classifier is a int"),
}


@pytest.mark.parametrize("name", NUMBER)
def test_a_number_where_none_belongs(name: str) -> None:
    function, sentence = NUMBER[name]
    with pytest.raises(InputError, match=sentence) as caught:
        function(3)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


OPTIONS: dict[str, tuple[Any, str]] = {
    "settings": (["alpha"], "settings is a list: give a dict"),
    "out": (3, "out is a int: give a path"),
    "templates": (3, "templates is a int: give a list"),
    "cache": (object(), "cache is a object: give a path"),
    "shots": (2.5, "shots is 2.5"),
    "seed": ("x", "seed is 'x'"),
    "encoder": (3, "encoder is a int: give a backbone's name"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_another_kind(name: str, tmp_path: Path) -> None:
    value, sentence = OPTIONS[name]
    given: dict[str, Any] = {"adapter": "ncm", "shots": 1, "encoder": ENCODER, name: value}
    with pytest.raises(InputError, match=sentence):
        vlmadapt.fit(make_world(tmp_path / "world"), no_cache=name != "cache", **given)


@of_kinds
def scaled(rows: torch.Tensor, by: float, names: list[str] | None = None) -> torch.Tensor:
    return rows.mul(by) + len(names or ())


def test_what_is_right_or_of_no_known_kind_is_left_alone() -> None:
    assert scaled(torch.ones(2), 2).tolist() == [2, 2]
    assert scaled.__name__ == "scaled"
    with pytest.raises(InputError, match=r"rows is a ndarray: give a tensor, as torch\.from_numpy\(rows\) is"):
        scaled(np.ones(2), 2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="by is a str: give a number"):
        scaled(torch.ones(2), "2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional"):
        scaled(torch.ones(2))  # type: ignore[call-arg]
    with pytest.raises(RuntimeError, match="sparse"):
        of_kinds(lambda: (_ for _ in ()).throw(RuntimeError("sparse")))()
