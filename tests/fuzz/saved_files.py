"""What this version writes, damaged: adapters of both wings, classifiers, feature caches, checkpoints, results, fits.

Beside them files of 0.1.0, which knew no seals: damage to them must not crash, but not all of it can be told.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from tests.fuzz.mutate import bit_flipped, changed, damaged
from tests.fuzz.outcome import Attempt
from tests.generative.tiny import in_training, spelt, tiny_blip
from vlmadapt.adapters import load_adapter
from vlmadapt.classifier import Classifier
from vlmadapt.data import FeatureCache
from vlmadapt.data.cache import Recipe
from vlmadapt.errors import FileError, VlmadaptError
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.store import FitKey, FolderFits
from vlmadapt.files import read_json, read_tensors, sha256_of_file, write_json, write_versioned
from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.tuning import predictions_of
from vlmadapt.provenance.about import About, about_of
from vlmadapt.seals import SEAL, sealed, without_seal
from vlmadapt.training.checkpoint import Checkpoint

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
KEY = FitKey("zero-shot", 1, 0)
SAID = "p-adapter:reduction=8:lr=0.03"
GENERATIVE: dict[str, dict[str, Any]] = {"p-adapter": {"reduction": 4}, "bottleneck": {"width": 4}, "bitfit": {}}
OLD_ONES = ("adapter xmadapter", "adapter hegraph", "classifier", "compare", "tune")
OLD_FOLDER = "0.1.0"
FORMATS = ("format", "format_version")


@dataclass(frozen=True)
class Saved:
    """A folder, how it is read, and whether two readings mean the same; ``sealed``: whether damage can be told."""

    folder: Path
    read: Callable[[Path], Any]
    same: Callable[[Any, Any], bool]
    sealed: bool = True


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _same_tensors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _probabilities(folder: Path) -> dict[str, Any]:
    adapter, then = load_adapter(folder), read_tensors(OLD / "expected" / "adapters.safetensors")[0]
    return {"probabilities": adapter.predict_proba(then["queries"])}


def _predictions(folder: Path) -> Any:
    described = read_json(OLD / "classifier" / "run.json")["encoder"]
    encoder: Any = SimpleNamespace(device=torch.device("cpu"), **described)
    classifier = Classifier.load(folder, encoder)
    features = read_tensors(OLD / "expected" / "features.safetensors")[0]["features"]
    return classifier.predict_features([Path(str(number)) for number in range(len(features))], features), classifier.run


def _checkpoint(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoint.safetensors"
    identity = json.loads(read_tensors(OLD / "checkpoints" / "tip-adapter-f.safetensors")[1]["vlmadapt"])["identity"]
    found = Checkpoint.load(path, identity)
    text = json.dumps([found.epoch, found.progress], sort_keys=True)
    tensors = {"generator": found.generator, "text": torch.tensor(list(text.encode()))}
    for part in ("current", "best", "optimizer"):
        tensors.update({f"{part}/{name}": tensor for name, tensor in getattr(found, part).items()})
    return tensors


def _features(folder: Path) -> dict[str, Any]:
    """A cache computes again what it cannot read, and so may find less, never something else."""
    [recipe], digests = _recipes(), read_json(OLD / "expected" / "classifier.json")["sha256"]
    return FeatureCache(folder).load(recipe, digests, 16)


def _recipes() -> list[Recipe]:
    return [Recipe(**json.loads(read_tensors(path)[1]["recipe"])) for path in (OLD / "features").rglob("*.safetensors")]


def _attached(method: str, settings: dict[str, Any]) -> Attached:
    """As if it had been trained, on a tiny model."""
    return in_training(attach(spelt(tiny_blip("BlipForConditionalGeneration")), method, settings))


def _loading(attached: Attached) -> Callable[[Path], dict[str, Any]]:
    @torch.no_grad()
    def read(folder: Path) -> dict[str, Any]:
        for parameter in attached.parameters():
            parameter.zero_()
        try:
            attached.load(folder, check=False)  # of the model, which is whole
        except VlmadaptError:
            assert not any(parameter.any() for parameter in attached.parameters()), "refused, but changed"
            raise
        return {name: parameter.clone() for name, parameter in attached.named_parameters()}

    return read


def _found_less(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def prepare(place: Path) -> dict[str, Saved]:
    """Everything once, written by this version from what 0.1.0 wrote."""
    found = {}
    for path in sorted((OLD / "adapters").iterdir()):
        load_adapter(path).save(place / path.name)
        found[f"adapter {path.name}"] = Saved(place / path.name, _probabilities, _same_tensors)
    described = read_json(OLD / "classifier" / "run.json")["encoder"]
    encoder: Any = SimpleNamespace(device=torch.device("cpu"), **described)
    Classifier.load(OLD / "classifier", encoder).save(place / "classifier")
    found["classifier"] = Saved(place / "classifier", _predictions, _equal)
    [recipe], digests = _recipes(), read_json(OLD / "expected" / "classifier.json")["sha256"]
    width = read_tensors(next((OLD / "features").rglob("*.safetensors")))[0]["features"].shape[1]
    kept = FeatureCache(OLD / "features").load(recipe, digests, width)
    FeatureCache(place / "features").store(recipe, list(kept), torch.stack(list(kept.values()))[:, :16])
    found["features"] = Saved(place / "features", _features, _found_less)
    old = OLD / "checkpoints" / "tip-adapter-f.safetensors"
    identity = json.loads(read_tensors(old)[1]["vlmadapt"])["identity"]
    Checkpoint.load(old, identity).save(place / "checkpoint" / "checkpoint.safetensors")
    found["checkpoint"] = Saved(place / "checkpoint", _checkpoint, _same_tensors)
    ProtocolResults.load(OLD / "compare").save(place / "compare")
    found["compare"] = Saved(place / "compare", ProtocolResults.load, _equal)
    TuningResults.load(OLD / "tune").save(place / "tune")
    found["tune"] = Saved(place / "tune", TuningResults.load, _equal)
    old_fits, fits = FolderFits(OLD / "compare" / "fits"), FolderFits(place / "fits")
    fits.put(KEY, old_fits.get(KEY), old_fits.measures(KEY))
    found["fit"] = Saved(place / "fits", lambda folder: FolderFits(folder).measures(KEY), _equal)
    About("compare", "birds", "ab" * 32, encoder="x", settings={"views": 1}).write(place / "about")
    found["about"] = Saved(place / "about", about_of, _equal)
    for name in ("identity.json", "test.json"):
        [path] = (OLD / "tune").glob(f"fits/p-adapter*/seed-0/{name}")
        write_versioned(place / "said" / path.relative_to(OLD / "tune"), read_json(path), 1)
    found["said"] = Saved(place / "said", lambda folder: predictions_of(folder, SAID, 0), _equal)
    if importlib.util.find_spec("transformers"):
        for method, settings in GENERATIVE.items():
            attached = _attached(method, settings)
            attached.save(place / "generative" / method)
            found[f"generative {method}"] = Saved(place / "generative" / method, _loading(attached), _same_tensors)
    for name in OLD_ONES:
        thing = found[name]
        old = OLD / ("adapters" if "adapter " in name else "") / thing.folder.name
        folder = Path(shutil.copytree(old, place / OLD_FOLDER / thing.folder.name))
        found[f"{name} of 0.1.0"] = replace(thing, folder=folder, sealed=False)
    return found


class SavedFiles:
    """Damages copies of what :func:`prepare` made below ``place``."""

    def __init__(self, place: Path) -> None:
        self.things = prepare(place)
        self.truth = {name: thing.read(thing.folder) for name, thing in self.things.items()}

    def attempt(self, random: Random, place: Path) -> Attempt:
        """One of them copied to ``place`` and damaged.

        What is accepted must mean what it meant, but where a file was edited and its hashes made anew: then nothing
        can tell, and it must be read or refused like any other. A file of another version is refused.
        """
        name = random.choice(sorted(self.things))
        thing, copy = self.things[name], place / "copy"
        shutil.copytree(thing.folder, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        described = [each for each in files if each.suffix == ".json"]
        path = random.choice(files)
        forged, other_version = not thing.sealed, False
        match random.randrange(6):
            case 0 | 1:
                path.write_bytes(bit_flipped(random, path.read_bytes()))
            case 2:
                path.write_bytes(damaged(random, path.read_bytes()))
            case 3:
                other = self.things[random.choice(sorted(self.things))].folder
                alike = sorted(each for each in other.rglob(f"*{path.suffix}") if each.name == path.name)
                if alike:
                    found = random.choice(alike)
                    forged |= OLD_FOLDER in found.parts  # 0.1.0 knew no seals
                    shutil.copy(found, path)
                elif random.random() < 0.5:
                    path.unlink()
            case 4 if described:
                forged |= forge(random, random.choice(described))
            case _ if described:
                other_version = of_another_version(random, described)
        named = (*(each.name for each in files), "copy")

        def check(value: Any) -> None:
            assert not other_version, f"{name}: another version's file is read"
            assert forged or thing.same(self.truth[name], value), f"{name}: silently something else"

        return Attempt(lambda: self._read(thing, copy), named, check)

    @staticmethod
    def _read(thing: Saved, copy: Path) -> Any:
        value = thing.read(copy)
        if value is None:  # of `about_of`, where the file is gone
            raise FileError(f"{copy} holds nothing.")
        return value


def forge(random: Random, path: Path) -> bool:
    """Change a value in a JSON file and make its hashes anew, as nobody but a program would. Whether it is sealed."""
    value = read_json(path)
    again = random.random() < 0.8
    content = changed(random, without_seal(value))
    if not isinstance(content, dict):
        content = {"": content}
    try:
        text = json.dumps(sealed(content) if again else {**content, SEAL: value.get(SEAL)})
    except (TypeError, ValueError):
        return False
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    if again:
        _follow(path)
    return again


def of_another_version(random: Random, paths: list[Path]) -> bool:
    """Give files the format of another version, with hashes to match. Whether any of them names its format."""
    version = random.choice([0, 2, 99, -1, "1", 1.5, None, [1]])
    found = False
    for path in paths:
        value = without_seal(read_json(path))
        kept = value.keys() & set(FORMATS)
        found |= bool(kept)
        write_json(path, sealed(value | dict.fromkeys(kept, version)))
        _follow(path)
    return found


def _follow(path: Path) -> None:
    """Have a classifier's description name the adapter that is there now."""
    run = path.parent / "run.json"
    if path.name == "adapter.json" and run.exists():
        write_json(run, sealed(without_seal(read_json(run)) | {"adapter_sha256": sha256_of_file(path)}))
