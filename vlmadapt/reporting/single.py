"""Fit one classifier into a folder, resumably, and evaluate a saved one on a test split."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmadapt.data import sample_shots
from vlmadapt.errors import InputError
from vlmadapt.files import read_versioned, write_csv, write_versioned
from vlmadapt.reporting.classifier import DESCRIPTION, Classifier, DataSource, describe_run, read_run
from vlmadapt.reporting.fitting import ClassTexts, Extraction, FeatureTable, FewShotFeatures, create, fit
from vlmadapt.reporting.methods import Method, plain
from vlmadapt.reporting.protocol import describe_dataset, describe_encoder
from vlmadapt.reporting.results import Cell, ProtocolResults
from vlmadapt.reporting.versions import versions

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset

UNFINISHED = "unfinished.json"
FORMAT = 1  # of what UNFINISHED holds
CHECKPOINTS = "checkpoints"


def claim_folder(folder: str | Path, resume: bool = False, overwrite: bool = False) -> Path:
    """Check that a fit may write to ``folder``, before any slow work.

    Raises :class:`InputError` when it holds something else, or a fit that neither ``resume`` nor ``overwrite`` covers.
    """
    folder = Path(folder)
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: pass one of them.")
    unfinished, finished = (folder / UNFINISHED).exists(), (folder / DESCRIPTION).exists()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (unfinished or finished)):
        raise InputError(f"{folder} holds other files: choose a new or empty folder with --out.")
    if (unfinished or finished) and not (resume or overwrite):
        state = "an unfinished fit" if unfinished else "a finished fit"
        raise InputError(
            f"{folder} holds {state}: pass --resume to go on, --overwrite to replace it, or another --out."
        )
    if overwrite:
        # The old classifier itself stays until the new one replaces it.
        (folder / UNFINISHED).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return folder


def fit_classifier(
    encoder: Encoder,
    dataset: Dataset,
    source: DataSource,
    method: Method,
    shots: int,
    seed: int,
    folder: Path,
    extraction: Extraction,
    resume: bool = False,
    allow_short: bool = False,
) -> Classifier:
    """Fit ``method`` on ``shots`` pictures a class and save the classifier in ``folder``.

    An interrupted call leaves checkpoints behind; the same call with ``resume`` ends with the same classifier as one
    that was never interrupted. Raises :class:`InputError` when ``resume`` meets a fit of other settings.
    """
    split = sample_shots(dataset, shots, seed, "all" if allow_short else "error")
    adapter = create(method, ClassTexts(encoder, dataset), with_encoder=True)
    config = plain(adapter.config.as_dict())
    identity = {
        "data": dataset.name,
        "shots": shots,
        "seed": seed,
        "split_hash": split.split_hash,
        "class_names": list(dataset.class_names),
        "templates": list(dataset.templates),
        "encoder": encoder.fingerprint,
        "adapter": method.adapter,
        "config": config,
        "views": extraction.views,
        "precision": extraction.precision,
    }
    if resume:
        earlier = _earlier_fit(folder, identity)
        if earlier is not None:
            return Classifier.load(folder, encoder)
    write_versioned(folder / UNFINISHED, identity, FORMAT)
    data = FewShotFeatures.of(
        split,
        FeatureTable(encoder, split.train, extraction, extraction.views),
        FeatureTable(encoder, split.val, extraction),
    )
    measures = fit(adapter, data, seed, folder / CHECKPOINTS, progress=extraction.progress)
    run = describe_run(dataset, source, encoder, split, method, config, extraction, measures)
    classifier = Classifier(adapter, encoder, {**run, "identity": identity})
    classifier.save(folder)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / UNFINISHED).unlink(missing_ok=True)
    return classifier


def _earlier_fit(folder: Path, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The finished fit in ``folder``; None when there is none or it is unfinished."""
    unfinished, finished = folder / UNFINISHED, folder / DESCRIPTION
    if unfinished.exists():
        stored = read_versioned(unfinished, FORMAT, "run vlmadapt fit --overwrite")
    elif finished.exists():
        stored = read_run(folder).get("identity", {})
    else:
        return None
    for name, value in identity.items():
        if stored.get(name) != value:
            raise InputError(
                f"{folder} holds a fit with another {name.replace('_', ' ')}: repeat its options to resume it, "
                "or pass --overwrite instead of --resume."
            )
    return None if unfinished.exists() else stored


def evaluate(
    classifier: Classifier, dataset: Dataset, extraction: Extraction
) -> tuple[ProtocolResults, list[tuple[str, int, float | None]]]:
    """Test accuracy of a saved classifier, and ``(class name, test pictures, accuracy)`` of every class.

    Raises :class:`InputError` when the classes differ or a test picture was used in fitting.
    """
    run = classifier.run
    if tuple(dataset.class_names) != classifier.class_names:
        differing = sorted(set(dataset.class_names) ^ set(classifier.class_names)) or ["their order"]
        raise InputError(
            f"data set {dataset.name!r} and the classifier have different classes ({', '.join(differing[:5])}): "
            "evaluate on pictures of the classes it was fitted on."
        )
    _refuse_leak(classifier, dataset)
    test = dataset.test
    if not test:
        raise InputError(f"data set {dataset.name!r} has no test pictures: add some to its test split.")
    features, labels = FeatureTable(classifier.encoder, test, extraction).of(test)
    hits = classifier.adapter.predict(features).cpu() == labels
    cell = Cell(
        method=run["method"],
        adapter=run["adapter"],
        shots=run["shots"],
        seed=run["seed"],
        split_hash=run["few_shot_split_hash"],
        val_accuracy=run["val_accuracy"],
        test_accuracy=float(hits.double().mean()),
        trainable_parameters=run["trainable_parameters"],
        fit_seconds=run["fit_seconds"],
        peak_memory_mib=run["peak_memory_mib"],
        selected=run["selected"],
    )
    results = ProtocolResults(
        dataset={**describe_dataset(dataset), "test": len(test)},
        encoder=describe_encoder(classifier.encoder),
        protocol={
            "shots": [cell.shots],
            "seeds": [cell.seed],
            "views": run["views"],
            "precision": run["precision"],
            "selection": run["selection"],
        },
        versions=versions(),
        methods={cell.method: run["config"]},
        cells=(cell,),
    )
    return results, _by_class(hits, labels, classifier.class_names)


def save_by_class(path: Path, rows: list[tuple[str, int, float | None]]) -> Path:
    write_csv(path, ["class", "test_pictures", "accuracy"], rows)
    return path


def _by_class(hits: Tensor, labels: Tensor, names: tuple[str, ...]) -> list[tuple[str, int, float | None]]:
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    right = torch.bincount(labels[hits], minlength=len(names)).tolist()
    return [(name, n, r / n if n else None) for name, n, r in zip(names, counts, right, strict=True)]


def _refuse_leak(classifier: Classifier, dataset: Dataset) -> None:
    run = classifier.run
    root = Path(run["data"]["root"])
    fitted = {(root / name).resolve() for name, _ in [*run["support"], *run["validation"]]}
    leaked = [sample.path for sample in dataset.test if sample.path.resolve() in fitted]
    if leaked:
        raise InputError(
            f"{len(leaked)} test pictures were used to fit this classifier, {leaked[0].name} among them: the data "
            "changed since, so fit again."
        )
