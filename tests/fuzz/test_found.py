"""What the fuzzing found in files and settings, each as small as it gets."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.fuzz.saved_files import OLD
from vlmadapt.adapters import load_adapter
from vlmadapt.adapters.coop import CoOpConfig
from vlmadapt.adapters.xm.config import XMAdapterConfig
from vlmadapt.classifier import Classifier
from vlmadapt.cli import app
from vlmadapt.errors import FileError, InputError
from vlmadapt.files import read_json, sha256_of_file, write_json
from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.peers import BottleneckConfig, LoRAConfig
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.tuning import predictions_of
from vlmadapt.provenance.about import About, about_of
from vlmadapt.provenance.settings import parse_settings

LABEL = "p-adapter:reduction=8:lr=0.03"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "classifier", tmp_path / "run"))


def edit(path: Path, **entries: Any) -> None:
    """Files of 0.1.0 have no seals: whatever is written counts."""
    write_json(path, read_json(path) | entries)


def load(folder: Path) -> Classifier:
    described = read_json(OLD / "classifier" / "run.json")["encoder"]
    encoder: Any = SimpleNamespace(device=torch.device("cpu"), **described)
    return Classifier.load(folder, encoder)


@pytest.mark.parametrize("stored", [{}, {"name": "embedded"}, {"name": 1, "fingerprint": "a"}, [], "embedded", 3])
def test_an_encoder_without_a_fingerprint_is_refused(classifier: Path, stored: Any) -> None:
    edit(classifier / "adapter.json", encoder=stored)
    edit(classifier / "run.json", adapter_sha256=sha256_of_file(classifier / "adapter.json"))
    with pytest.raises(FileError, match=r"adapter\.json names an encoder .* without name and fingerprint"):
        load(classifier)
    with pytest.raises(FileError, match="without name and fingerprint"):
        load_adapter(classifier)


@pytest.mark.parametrize("support", [[[1, 0]], [["a.png", "0"]], [["a.png", None]], [["a.png", True]]])
def test_support_pictures_are_paths_with_labels(classifier: Path, support: Any) -> None:
    edit(classifier / "run.json", support=support)
    with pytest.raises(FileError, match=r"run\.json does not describe a saved classifier \(support holds"):
        load(classifier)


def test_a_run_without_a_folder_of_data_is_refused(classifier: Path) -> None:
    edit(classifier / "run.json", data=read_json(classifier / "run.json")["data"] | {"root": 5})
    with pytest.raises(FileError, match="the data have no folder"):
        load(classifier)


@pytest.mark.parametrize("names", [["bird"], ["bird", "car"], ["bird", "car", "fish", "fish"]])
def test_a_run_of_other_classes_than_its_adapter_is_refused(classifier: Path, names: list[str]) -> None:
    edit(classifier / "run.json", class_names=names)
    with pytest.raises(FileError, match=rf"names {len(names)} classes, its adapter has 3"):
        load(classifier)


@pytest.mark.parametrize("cell", [["a"], "a", 1, None, {}, []])
def test_a_fit_that_is_no_object_is_refused(tmp_path: Path, cell: Any) -> None:
    shutil.copytree(OLD / "tune", tmp_path / "tune")
    edit(tmp_path / "tune" / "results.json", cells=[cell])
    with pytest.raises(FileError, match=r"results\.json is not a results file of vlmadapt tune"):
        TuningResults.load(tmp_path / "tune")


@pytest.mark.parametrize("change", [{"predictions": None}, {"predictions": ["yes"]}, {"test": 1}, {"more": {}}])
def test_what_a_tuning_fit_said_is_texts_by_record(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(OLD / "tune", tmp_path / "tune"))
    [path] = folder.glob("fits/p-adapter*/seed-0/test.json")
    assert predictions_of(folder, LABEL, 0)
    edit(path, **change)
    with pytest.raises(FileError, match=r"test\.json is not what a fit wrote, see its (predictions|test|more)"):
        predictions_of(folder, LABEL, 0)


@pytest.mark.parametrize("config", [None, [], "p-adapter", {"training": 3}])
def test_an_identity_of_a_tuning_fit_without_settings_is_of_no_fit(tmp_path: Path, config: Any) -> None:
    folder = Path(shutil.copytree(OLD / "tune", tmp_path / "tune"))
    [path] = folder.glob("fits/p-adapter*/seed-0/identity.json")
    edit(path, config=config)
    with pytest.raises(FileError, match="No such file"):
        predictions_of(folder, LABEL, 0)


def test_one_name_of_modules_is_not_taken_for_its_letters() -> None:
    assert PAdapterConfig.make(parse_settings(["only=text_decoder"])).only == ("text_decoder",)
    assert PAdapterConfig.make({"only": ["text_decoder", "vision"]}).only == ("text_decoder", "vision")
    for wrong in (3, [3], ["a", None], True, {"a": 1}):
        with pytest.raises(InputError, match=r"PAdapterConfig\.only is .*: give the beginnings of names of modules\."):
            PAdapterConfig.make({"only": wrong})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (XMAdapterConfig, "mlp_width"),
        (XMAdapterConfig, "hidden_width"),
        (CoOpConfig, "context_tokens"),
        (BottleneckConfig, "width"),
        (LoRAConfig, "rank"),
    ],
)
def test_a_size_that_would_ask_for_hundreds_of_gigabytes_is_refused(kind: Any, name: str) -> None:
    assert getattr(kind.make({name: 512}), name) == 512
    with pytest.raises(InputError, match=rf"{name} is 2147483648: give a"):
        kind.make({name: 2**31})


def test_a_number_beyond_64_bits_is_refused_in_a_sentence() -> None:
    said = CliRunner().invoke(app, ["fit", "pictures", "--split-seed", "9" * 30])
    assert said.exit_code == 2
    assert said.stderr == "--split-seed is beyond 9223372036854775807: give a smaller number.\n"


@pytest.mark.parametrize("name", ["content_{sha256", "conten_sha256", "content_sha25\t6"])
def test_damage_to_the_name_of_the_hash_does_not_make_a_file_one_without(tmp_path: Path, name: str) -> None:
    About("compare", "birds", "ab" * 32, encoder="x").write(tmp_path)
    [path] = tmp_path.iterdir()
    value = read_json(path)
    value[name] = value.pop("content_sha256")
    write_json(path, value | {"split_hash": "ba" * 32})
    with pytest.raises(FileError, match="is damaged or was edited"):
        about_of(tmp_path)
