"""Every file that is read back carries a format; one of another format is refused, and left as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tests.experiments.world import ColourEncoder, make_world
from tests.generative.tasks import world as tasks_world
from tests.generative.tiny import spelt, tiny_blip
from vlmadapt.adapters import load_adapter
from vlmadapt.classifier import Classifier, DataSource
from vlmadapt.data import Extraction, FeatureCache, load_dataset
from vlmadapt.data.cache import Recipe
from vlmadapt.errors import FileError
from vlmadapt.experiments import single
from vlmadapt.experiments.fit import Measures
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.single import fit_classifier
from vlmadapt.experiments.store import FitKey, FolderFits
from vlmadapt.files import read_json, read_tensors, read_versioned, write_json, write_tensors
from vlmadapt.generative import tuning
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.models.small import WordTokenizer
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.tuning import TuningPlan, predictions_of, run_tuning
from vlmadapt.provenance.settings import Method
from vlmadapt.training import TrainConfig
from vlmadapt.training.checkpoint import Checkpoint

OLD = Path(__file__).parent / "fixtures" / "v0_1_0"
FROZEN = "fits/frozen/seed-0"


def of_format(path: Path, version: int) -> None:
    """Make ``path`` say that it is of another format."""
    if path.suffix == ".json":
        value = read_json(path)
        value["format_version" if "format_version" in value else "format"] = version
        write_json(path, value)
        return
    tensors, metadata = read_tensors(path)
    if "vlmadapt" in metadata:
        metadata["vlmadapt"] = json.dumps({**json.loads(metadata["vlmadapt"]), "format_version": version})
    else:
        metadata["format"] = str(version)
    write_tensors(path, tensors, metadata)


def read_p_adapter(folder: Path) -> None:
    attach(spelt(tiny_blip("BlipForConditionalGeneration")), "p-adapter", {"reduction": 4, "task": "vqa"}).load(folder)


def read_fit(folder: Path) -> None:
    """As an equal comparison would, so that nothing but the format is at fault."""
    fits, key = FolderFits(folder / "fits"), FitKey("zero-shot", 1, 0)
    identity = read_json(fits.folder(key) / "identity.json")
    fits.finished(key, {name: value for name, value in identity.items() if name != "format"})


def go_on_fitting(folder: Path) -> None:
    world = make_world(folder.parent / "world", classes=("apple", "fish"))
    source, quiet = DataSource.of(str(world), 0, None), Extraction(progress=False)
    method = Method("tip-adapter-f", "tip-adapter-f", {"epochs": 2})
    fit_classifier(ColourEncoder(), load_dataset(world), source, method, 2, 0, folder, quiet, resume=True)


def go_on_tuning(folder: Path) -> None:
    """With the versions of then, as read_fit."""
    versions = read_json(OLD / "tune" / "results.json")["versions"]
    plan = TuningPlan(("frozen",), train=TrainConfig(epochs=8, batch_size=8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "_versions", lambda: versions)
        run_tuning(spelt_tiny(), tasks_world.records("vqa", folder.parent), plan, folder)


def spelt_tiny() -> Any:
    loaded = tasks_world.model()
    spelt(loaded.model)
    return loaded


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "adapters/xmadapter adapter.json": (load_adapter, "vlmadapt fit"),
    "p_adapter adapter.json": (read_p_adapter, "tune"),
    "classifier run.json": (Classifier.load, "vlmadapt fit --overwrite"),
    "unfinished unfinished.json": (go_on_fitting, "vlmadapt fit --overwrite"),
    "compare results.json": (ProtocolResults.load, "vlmadapt compare"),
    "compare fits/zero-shot/shots-1-seed-0/identity.json": (read_fit, "vlmadapt compare or demo with another --out"),
    "compare fits/zero-shot/shots-1-seed-0/fit.json": (read_fit, "vlmadapt compare or demo with another --out"),
    "tune results.json": (TuningResults.load, "vlmadapt tune"),
    f"tune {FROZEN}/identity.json": (go_on_tuning, "vlmadapt tune with another --out"),
    f"tune {FROZEN}/fit.json": (go_on_tuning, "vlmadapt tune with another --out"),
    f"tune {FROZEN}/test.json": (
        lambda folder: predictions_of(folder, "frozen", 0),
        "vlmadapt tune with another --out",
    ),
    "checkpoints tip-adapter-f.safetensors": (
        lambda folder: Checkpoint.load(folder / "tip-adapter-f.safetensors", {}),
        "delete it and give the command",
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", READERS)
def test_a_file_of_a_newer_format_is_refused_and_stays(case: str, tmp_path: Path) -> None:
    name, file = case.split(" ")
    read, command = READERS[case]
    folder = Path(shutil.copytree(OLD / name, tmp_path / "copy"))
    of_format(folder / file, 99)
    before = contents(folder)
    with pytest.raises(FileError) as refused:
        read(folder)
    message = str(refused.value)
    assert message.startswith(f"{folder / file} has format 99, this version of vlmadapt reads 1: ")
    assert command in message and message.endswith(".") and "\n" not in message
    assert contents(folder) == before


def test_cached_features_of_a_newer_format_are_computed_again(tmp_path: Path) -> None:
    root = Path(shutil.copytree(OLD / "features", tmp_path / "features"))
    [shard] = root.rglob("*.safetensors")
    recipe = Recipe(**json.loads(read_tensors(shard)[1]["recipe"]))
    digests = read_json(OLD / "expected" / "classifier.json")["sha256"]
    of_format(shard, 99)
    with pytest.warns(
        UserWarning, match="has format '99', this version of vlmadapt reads 1: the next vlmadapt features"
    ):
        assert FeatureCache(root).load(recipe, digests, 1664) == {}


def test_a_vocabulary_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    tasks_world.tokenizer().save(tmp_path)
    of_format(tmp_path / "vocabulary.json", 99)
    with pytest.raises(FileError, match=r"vocabulary\.json has format 99.*vlmadapt tune"):
        WordTokenizer.load(tmp_path)


def test_what_is_written_now_says_its_format(tmp_path: Path) -> None:
    """Reading cannot tell: a file without a format counts as one of 0.1.0."""
    tasks_world.tokenizer().save(tmp_path)
    FolderFits(tmp_path).finished(FitKey("zero-shot", 1, 0), {"encoder": "colours"})
    FolderFits(tmp_path).put(
        FitKey("tip-adapter", 1, 0), load_adapter(OLD / "adapters" / "tip-adapter"), Measures(1.0, 1.0, 1.0, 1)
    )
    plan = TuningPlan(("frozen",))
    run_tuning(spelt_tiny(), tasks_world.records("vqa", tmp_path), plan, tmp_path / "tune").save(tmp_path / "tune")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(single, "fit", interrupt)
        go_on_fitting(tmp_path / "unfinished")
    written = {path.name: read_json(path) for path in tmp_path.rglob("*.json")}
    assert {name: value.get("format", value.get("format_version")) for name, value in written.items()} == dict.fromkeys(
        (
            "vocabulary.json",
            "identity.json",
            "fit.json",
            "test.json",
            "results.json",
            "unfinished.json",
            "adapter.json",
        ),
        1,
    )
    recipe = Recipe("a", "b", 1, 0, "fp32", "0.1.0")
    FeatureCache(tmp_path).store(recipe, ["00" * 32], torch.ones(1, 2))
    [shard] = tmp_path.glob("*/*.safetensors")
    assert read_tensors(shard)[1]["format"] == "1"


def interrupt(*arguments: Any, **more: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("text", "named"), [("[1]", "holds a JSON list"), ('{"format": "1"}', "has format '1'")])
def test_what_is_no_file_of_ours_is_named(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(FileError, match=named):
        read_versioned(tmp_path / "it.json", 1, "run it again")
