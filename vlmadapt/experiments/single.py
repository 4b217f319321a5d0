"""Fit one classifier into a folder, resumably."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.atomic import remove_file
from vlmadapt.classifier import DESCRIPTION, Classifier, DataSource, FittedOn, FittedWith, Run, read_run
from vlmadapt.data import Extraction
from vlmadapt.errors import InputError
from vlmadapt.experiments import leaks
from vlmadapt.experiments.features import (
    ClassTexts,
    FeatureTable,
    FewShotFeatures,
    changed,
    identity_of,
    pictures_hash,
    refuse_views,
)
from vlmadapt.experiments.fit import Measures, create, fit
from vlmadapt.experiments.protocols import FewVal, Protocol
from vlmadapt.experiments.protocols.base import OnShort
from vlmadapt.experiments.results import selection
from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.provenance.about import About
from vlmadapt.provenance.place import Place, hold
from vlmadapt.provenance.settings import Method, plain
from vlmadapt.provenance.versions import versions

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset, FewShotSplit, Sample

UNFINISHED = "unfinished.json"
FORMAT = 1  # of what UNFINISHED holds
CHECKPOINTS = "checkpoints"


def claim_folder(place: Place, resume: bool = False, overwrite: bool = False) -> None:
    """Check that a fit may write to ``place``, before any slow work.

    Raises :class:`InputError` when it holds something else, or a fit that neither ``resume`` nor ``overwrite`` covers.
    """
    folder = place.folder
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: pass one of them.")
    place.claim(About("fit"))
    unfinished, finished = (folder / UNFINISHED).exists(), (folder / DESCRIPTION).exists()
    if not (unfinished or finished or place.is_empty()):
        raise InputError(f"{folder} holds other files: choose a new or empty folder with --out.")
    if (unfinished or finished) and not (resume or overwrite):
        state = "an unfinished fit" if unfinished else "a finished fit"
        raise InputError(
            f"{folder} holds {state}: pass --resume to go on, --overwrite to replace it, or another --out."
        )


def fit_classifier(
    encoder: Encoder,
    dataset: Dataset,
    source: DataSource | None,
    method: Method,
    shots: int,
    seed: int,
    folder: Path | None,
    extraction: Extraction,
    resume: bool = False,
    on_short: OnShort = "error",
    protocol: Protocol | None = None,
) -> Classifier:
    """Fit ``method`` on ``shots`` pictures a class and save the classifier in ``folder``, if one is given.

    An interrupted call leaves checkpoints behind; the same call with ``resume`` ends with the same classifier as one
    that was never interrupted; without it they are removed, and an older classifier stays until the new one replaces
    it. Raises :class:`InputError` when ``resume`` meets a fit of other settings.
    """
    protocol = protocol or FewVal()
    split = protocol.draw(dataset, shots, seed, on_short)
    adapter = create(method, ClassTexts(encoder, dataset), with_encoder=True)
    config = plain(adapter.config.as_dict())
    refuse_views(config, dataset, extraction)
    pictures = pictures_hash((*split.train, *split.val))
    identity = {
        "data": dataset.name,
        "shots": shots,
        "seed": seed,
        **identity_of(dataset, split, encoder, method.adapter, config, extraction, pictures, protocol.name),
    }
    with nullcontext() if folder is None else hold(folder) as place:
        if place is not None:
            if resume and _is_finished(place.folder, identity):
                shutil.rmtree(place.folder / CHECKPOINTS, ignore_errors=True)  # which the disk may have kept
                return Classifier.load(place.folder, encoder)
            _begin(place, identity, resume)
        data = FewShotFeatures.of(
            split,
            FeatureTable(encoder, split.train, extraction, extraction.views),
            FeatureTable(encoder, split.val, extraction),
            each_view=config.get("each_view", False),
            on_all=protocol.trains_on_all,
        )
        checkpoints = None if place is None else place.folder / CHECKPOINTS
        measures = fit(adapter, data, seed, checkpoints, progress=extraction.progress, on_all=protocol.trains_on_all)
        run = describe_run(dataset, source, encoder, split, method, config, extraction, measures, protocol)
        classifier = Classifier(adapter, encoder, replace(run, identity=identity))
        if place is not None:
            classifier.save(place.folder)
            shutil.rmtree(place.folder / CHECKPOINTS, ignore_errors=True)
            remove_file(place.folder / UNFINISHED)
    return classifier


def _begin(place: Place, identity: Mapping[str, Any], resume: bool) -> None:
    if not resume:
        shutil.rmtree(place.folder / CHECKPOINTS, ignore_errors=True)
    write_versioned(place.folder / UNFINISHED, identity, FORMAT)
    place.begun = True  # the file just written, and run.json in the end, say what the folder is of


def _is_finished(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether ``folder`` holds the finished fit of ``identity``. Raises :class:`InputError` when it is of another."""
    unfinished, finished = folder / UNFINISHED, folder / DESCRIPTION
    if unfinished.exists():
        stored: Mapping[str, Any] = read_versioned(unfinished, FORMAT, "run vlmadapt fit --overwrite")
    elif finished.exists():
        stored = read_run(folder).identity or {}
    else:
        return False
    other = changed(stored, identity)
    if other is not None:
        name = other.key.partition(".")[0].replace("_", " ")
        raise InputError(
            f"{folder} holds a fit with another {name} ({other}): repeat its options to resume it, or pass --overwrite "
            "instead of --resume."
        )
    return not unfinished.exists()


def describe_run(
    dataset: Dataset,
    source: DataSource | None,
    encoder: Encoder,
    split: FewShotSplit,
    method: Method,
    config: Mapping[str, Any],
    extraction: Extraction,
    measures: Measures,
    protocol: Protocol | None = None,
) -> Run:
    """The record of a fit, without its identity."""

    protocol = protocol or FewVal()

    def listed(samples: Sequence[Sample]) -> tuple[tuple[str, int], ...]:
        return tuple((dataset.key(sample), sample.label) for sample in samples)

    return Run(
        data=FittedOn(dataset.name, str(dataset.root.resolve()), dataset.split_hash, source),
        class_names=dataset.class_names,
        templates=dataset.templates,
        descriptions={name: list(texts) for name, texts in dataset.descriptions.items()},
        encoder=FittedWith(encoder.name, encoder.fingerprint, encoder.engine),
        method=method.label,
        adapter=method.adapter,
        config=config,
        shots=split.shots,
        seed=split.seed,
        few_shot_split_hash=split.split_hash,
        views=extraction.views,
        precision=extraction.precision,
        support=listed(split.train),
        validation=listed(split.val),
        selection=selection(protocol, [method.adapter]),
        protocol=protocol.name,
        versions=versions(),
        contents=leaks.contents_of(split),
        **asdict(measures),
    )
