"""No pickle is executed: one that would make a folder, in many disguises, through every door that takes a path."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.experiments.world import ColourEncoder, make_world
from tests.generative.tiny import tiny_blip
from vlmadapt import Classifier, backbones, load_dataset, load_encoder
from vlmadapt.adapters import load_adapter
from vlmadapt.cli import app
from vlmadapt.data import FeatureCache, check_dataset, extract_features
from vlmadapt.data.features import make_recipe
from vlmadapt.errors import VlmadaptError
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.files import sha256_of_file
from vlmadapt.generative import attach, load_generative, load_records
from vlmadapt.generative.models.small import WordTokenizer
from vlmadapt.generative.results import TuningResults
from vlmadapt.pictures import identify, read
from vlmadapt.training.checkpoint import Checkpoint

ARCH = "vlmadapt-pickles"
COCA = "vlmadapt-pickles-coca"
Door = Callable[[Path, bytes], Any]


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def objects(evil: Evil) -> np.ndarray:
    return np.array([evil, 1], dtype=object)


def npy(evil: Evil) -> bytes:
    stream = io.BytesIO()
    np.save(stream, objects(evil), allow_pickle=True)
    return stream.getvalue()


def npz(evil: Evil) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, features=objects(evil))
    return stream.getvalue()


def zipped(evil: Evil) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(evil))
        archive.writestr("../../../escaped", b"x")
    return stream.getvalue()


DISGUISES: dict[str, Callable[[Evil], bytes]] = {
    "plain": pickle.dumps,
    "text": lambda evil: pickle.dumps(evil, protocol=0),
    "checkpoint": lambda evil: saved({"state_dict": {"weight": torch.zeros(2), "more": evil}}),
    "old checkpoint": lambda evil: saved({"weight": evil}, _use_new_zipfile_serialization=False),
    "archive": zipped,
    "npy": npy,
    "npz": npz,
    "gzip": lambda evil: gzip.compress(pickle.dumps(evil)),
}
# The package never reads so. These try the disguises: each must run its pickle when it is read without care, or its
# refusal would prove nothing.
OPENERS: dict[str, Callable[[bytes], Any]] = {
    "plain": pickle.loads,
    "text": pickle.loads,
    "checkpoint": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "old checkpoint": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "archive": lambda data: pickle.loads(zipfile.ZipFile(io.BytesIO(data)).read("model/data.pkl")),
    "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    "npz": lambda data: np.load(io.BytesIO(data), allow_pickle=True)["features"],
    "gzip": lambda data: pickle.loads(gzip.decompress(data)),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_pickles_are_alive(disguise, tmp_path):
    """Whoever does open them runs them: the tests below could fail."""
    OPENERS[disguise](DISGUISES[disguise](Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def adapter_pair(folder: Path, content: bytes) -> None:
    """Tensors whose sum the description knows, so that they are opened."""
    tensors = put(folder / "adapter.safetensors", content)
    header = {"format_version": 1, "adapter": "zero-shot", "config": {}, "tensors_sha256": sha256_of_file(tensors)}
    (folder / "adapter.json").write_text(json.dumps(header))


def tensors_of_an_adapter(folder: Path, content: bytes) -> None:
    adapter_pair(folder, content)
    load_adapter(folder)


def description_of_an_adapter(folder: Path, content: bytes) -> None:
    put(folder / "adapter.json", content)
    load_adapter(folder)


def classifier(folder: Path, content: bytes) -> None:
    put(folder / "run.json", content)
    Classifier.load(folder, ColourEncoder())


def attached(folder: Path, content: bytes) -> None:
    adapter_pair(folder, content)
    attach(tiny_blip("BlipForConditionalGeneration"), "bitfit").load(folder)


def training_checkpoint(folder: Path, content: bytes) -> None:
    Checkpoint.load(put(folder / "a.safetensors", content), {})


def picture(folder: Path, content: bytes) -> None:
    read(put(folder / "a.jpg", content))


def array(folder: Path, content: bytes) -> None:
    read(put(folder / "a.npy", content))


def identity(folder: Path, content: bytes) -> None:
    identify(put(folder / "a.png", content))


def features_of_pictures(folder: Path, content: bytes) -> None:
    extract_features(ColourEncoder(), [put(folder / "a.png", content)], progress=False)


def listing(suffix: str) -> Door:
    return lambda folder, content: load_dataset(put(folder / f"data{suffix}", content))


def features_of_a_file(folder: Path, content: bytes) -> None:
    """The disguise stands where class names are due, in an archive that is good otherwise."""
    path = folder / "data.npz"
    np.savez(path, features=np.eye(2), labels=np.arange(2), text=np.eye(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("class_names.npy", content)
    load_dataset(path)


def captions(folder: Path, content: bytes) -> None:
    put(folder / "dataset_coco.json", content)
    load_records("karpathy", "caption", folder)


def results(kind: Any) -> Door:
    def load(folder: Path, content: bytes) -> None:
        put(folder / "results.json", content)
        kind.load(folder)

    return load


def backbone(suffix: str, name: str = f"open_clip:{ARCH}") -> Door:
    return lambda folder, content: load_encoder(f"{name}@{put(folder / f'a{suffix}', content)}")


def coca(suffix: str) -> Door:
    return lambda folder, content: load_generative(f"coca:{COCA}@{put(folder / f'a{suffix}', content)}")


def blip(name: str) -> Door:
    def load(folder: Path, content: bytes) -> None:
        tiny_blip("BlipForConditionalGeneration").save_pretrained(folder)
        WordTokenizer(["a", "red", "circle"]).save(folder)
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        put(folder / name, content)
        load_generative(f"blip:{folder}")

    return load


LISTS = (".csv", ".tsv", ".jsonl", ".json", ".npz", ".npy", ".pkl", ".safetensors")
DOORS: dict[str, Door] = {
    "a picture": picture,
    "a picture, .npy": array,
    "the identity of a picture": identity,
    "features of a picture": features_of_pictures,
    **{f"a list, {suffix}": listing(suffix) for suffix in LISTS},
    "an array in a file of features": features_of_a_file,
    "annotations": captions,
    "an adapter's tensors": tensors_of_an_adapter,
    "an adapter's description": description_of_an_adapter,
    "a classifier": classifier,
    "an attached method": attached,
    "a training checkpoint": training_checkpoint,
    "results of a comparison": results(ProtocolResults),
    "results of tuning": results(TuningResults),
    **{
        f"a backbone, {suffix}": backbone(suffix)
        for suffix in (".pt", ".pth", ".bin", ".safetensors", ".npz", ".npy", ".pkl")
    },
    **{
        f"a timm tower, {suffix}": backbone(suffix, "timm:test_vit")
        for suffix in (".pt", ".bin", ".safetensors", ".npz")
    },
    **{f"a CoCa, {suffix}": coca(suffix) for suffix in (".pt", ".safetensors")},
    **{
        f"a BLIP's {name}": blip(name)
        for name in (
            "model.safetensors",
            "pytorch_model.bin",
            "config.json",
            "vocabulary.json",
            "preprocessor_config.json",
        )
    },
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_architectures(tmp_path_factory):
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("configs")
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    several = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "dim_head": 8}
    config: dict[str, Any] = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    for name, more in ((ARCH, {}), (COCA, {"multimodal_cfg": several})):
        (folder / f"{name}.json").write_text(json.dumps({**config, **more}))
        open_clip.add_model_config(folder / f"{name}.json")


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("door", DOORS)
def test_a_pickle_is_refused_in_one_sentence_and_not_run(door, disguise, tmp_path):
    marker, folder = tmp_path / "ran", tmp_path / "given"
    folder.mkdir()
    with pytest.raises(VlmadaptError) as caught:
        DOORS[door](folder, DISGUISES[disguise](Evil(marker)))
    assert not marker.exists()
    assert not list(tmp_path.parent.rglob("escaped"))
    said = str(caught.value)
    assert str(folder) in said and "\n" not in said and len(said) < 600, said


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_pickle_in_the_cache_costs_a_warning(disguise, tmp_path):
    encoder = ColourEncoder()
    world = make_world(tmp_path / "world")
    paths = sorted((world / "test").rglob("*.png"))
    cache = FeatureCache(tmp_path / "cache")
    wanted = extract_features(encoder, paths, cache=cache, progress=False)
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    assert shard.parent.name == make_recipe(encoder, 1, 0, "fp32").key[:32]
    shard.write_bytes(DISGUISES[disguise](Evil(tmp_path / "ran")))
    with pytest.warns(UserWarning, match=shard.name):
        assert torch.equal(extract_features(encoder, paths, cache=cache, progress=False), wanted)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_pickle_among_the_pictures_is_one_finding(disguise, tmp_path):
    world = make_world(tmp_path / "world")
    place = next((world / "train").iterdir())
    put(place / "zz.png", DISGUISES[disguise](Evil(tmp_path / "ran")))
    put(place / "no_ending", DISGUISES[disguise](Evil(tmp_path / "ran")))
    (finding,) = check_dataset(world, progress=False).unreadable
    assert "zz.png is not a readable picture" in finding and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("command", ["fit", "compare", "features"])
def test_a_pickle_where_results_go_is_not_replaced(command, disguise, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "load_encoder", lambda name, **_: ColourEncoder())
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path / "cache"))
    world = make_world(tmp_path / "world")
    content = DISGUISES[disguise](Evil(tmp_path / "ran"))
    name = {"fit": "run.json", "compare": "results.json", "features": "out.safetensors"}[command]
    there = put(tmp_path / "out" / name, content)
    out = there if command == "features" else there.parent
    result = CliRunner().invoke(app, [command, str(world), "--out", str(out)])
    assert result.exit_code == 2 and str(out) in result.stderr and "Traceback" not in result.stderr
    assert there.read_bytes() == content and not (tmp_path / "ran").exists()


def test_code_in_a_model_s_folder_is_not_run_nor_asked_about(tmp_path, monkeypatch):
    """``auto_map`` names a file of Python in the folder; transformers left to itself asks on standard input."""
    folder, marker = tmp_path / "given", tmp_path / "ran"
    tiny_blip("BlipForConditionalGeneration").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Config: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked") or "y")
    for kind in ("of-nobody", config["model_type"]):
        told = {**config, "model_type": kind, "auto_map": {"AutoConfig": "evil.Config"}}
        (folder / "config.json").write_text(json.dumps(told))
        try:
            load_generative(f"blip:{folder}")
        except VlmadaptError as error:
            assert str(folder) in str(error)
        else:
            assert kind == "blip"  # whose own code is used
        assert not marker.exists()
    (folder / "config.json").write_text(json.dumps(config))
    told = {"auto_map": {"AutoTokenizer": ["evil.Config", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(VlmadaptError):
        load_generative(f"blip:{folder}")
    assert not marker.exists()
