"""The protocol on given features: draws, resuming, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from vlmadapt.adapters import NoText
from vlmadapt.errors import FileError, InputError
from vlmadapt.experiments.given import POOL, GivenFeatures, run_given
from vlmadapt.provenance.settings import Method

METHODS = (Method("zero-shot", "zero-shot"), Method("gda", "gda"), Method("hegraph", "hegraph", {"epochs": 1}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 12, generator=generator)
    labels = torch.arange(3).repeat(POOL + 10)
    features = centres[labels] + 0.7 * torch.randn(len(labels), 12, generator=generator)
    tensors = {"image_features": features.half(), "labels": labels.short(), "text_features": centres.half()}
    safetensors.torch.save_file(tensors, tmp_path / "features.safetensors")
    return tmp_path / "features.safetensors"


def test_draws_are_nested_and_touch_no_test_picture(path: Path) -> None:
    given = GivenFeatures.read(path, "three", "made up")
    rows = {tuple(row.tolist()) for row in given.test().features}
    assert len(rows) == 30
    drawn = {shots: given.draw(shots, seed=1) for shots in (1, 4, 16)}
    for shots, data in drawn.items():
        assert data.val is not None
        assert torch.bincount(data.train.labels).tolist() == [shots] * 3
        assert torch.bincount(data.val.labels).tolist() == [min(shots, 4)] * 3
        train, val = ({tuple(row.tolist()) for row in each.features} for each in (data.train, data.val))
        assert not (train & val or (train | val) & rows)
    assert {tuple(row.tolist()) for row in drawn[4].train.features} < {
        tuple(row.tolist()) for row in drawn[16].train.features
    }
    assert not torch.equal(given.draw(4, 0).train.features, drawn[4].train.features)


def test_negatives_are_the_mean_of_the_other_texts(path: Path) -> None:
    given = GivenFeatures.read(path, "three", "made up")
    assert given.given.text is not None and given.negatives is not None
    unit = torch.nn.functional.normalize(given.given.text, dim=-1)
    torch.testing.assert_close(given.negatives[1], (unit[0] + unit[2]) / 2)


def test_what_is_finished_is_not_run_again(path: Path, tmp_path: Path) -> None:
    given = GivenFeatures.read(path, "three", "made up")
    lines: list[str] = []
    first = run_given(given, METHODS, (1, 4), (0, 1), tmp_path / "cells", lines.append)
    assert len(lines) == 12 and {cell.method for cell in first.cells} == {"zero-shot", "gda", "hegraph"}
    assert run_given(given, METHODS, (1, 4), (0, 1), tmp_path / "cells", lines.append) == first and len(lines) == 12
    more = (*METHODS[:2], Method("hegraph", "hegraph", {"epochs": 2}))
    run_given(given, more, (1,), (0,), tmp_path / "cells", lines.append)
    assert len(lines) == 13  # of other settings


def test_files_that_do_not_fit_are_named(path: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    for change, words in (
        ({"labels": tensors["labels"][1:]}, "labels is int16 .*: give one label for each of the 102 feature rows"),
        ({"text_features": tensors["text_features"][:2].clone()}, "labels holds 2 at index 2 but there are 2 classes"),
        ({"labels": None}, "has no tensor 'labels'"),
    ):
        changed = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
        safetensors.torch.save_file(
            {name: tensor.contiguous().clone() for name, tensor in changed.items()}, tmp_path / "bad.safetensors"
        )
        with pytest.raises(FileError, match=rf"bad\.safetensors.*{words}"):
            GivenFeatures.read(tmp_path / "bad.safetensors", "bad", "made up")
    few = {
        "image_features": tensors["image_features"][:60].clone(),
        "labels": tensors["labels"][:60].clone(),
        "text_features": tensors["text_features"],
    }
    safetensors.torch.save_file(few, tmp_path / "few.safetensors")
    with pytest.raises(InputError, match="few has 20 pictures of class 0: more than 24 are needed"):
        GivenFeatures.read(tmp_path / "few.safetensors", "few", "made up").test()


def test_without_class_text(path: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    del tensors["text_features"]
    safetensors.torch.save_file(tensors, path)
    given = GivenFeatures.read(path, "three", "made up")
    assert given.text == NoText(3, 12) and given.negatives is None
    results = run_given(given, METHODS[1:], (4,), (0,), tmp_path / "cells")
    assert min(cell.values["accuracy"] for cell in results.cells) > 0.8
    with pytest.raises(InputError, match="zero-shot needs class text"):
        run_given(given, METHODS, (4,), (0,), tmp_path / "more")
