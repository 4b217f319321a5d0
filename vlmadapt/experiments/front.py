"""``vlmadapt.fit``, ``compare`` and ``evaluate``: data in, a classifier or results out. The command line calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmadapt import backbones
from vlmadapt.classifier import Classifier, DataSource, read_run
from vlmadapt.data import Dataset, Extraction, FeatureCache, load_dataset
from vlmadapt.errors import InputError
from vlmadapt.experiments import single
from vlmadapt.experiments.options import CompareOptions, EvaluateOptions, FitOptions, Options
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.store import FolderFits
from vlmadapt.options import with_options
from vlmadapt.provenance.settings import Method

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.experiments.results import ProtocolResults

Data = str | Path | Dataset
Report = Callable[[str], None]


@with_options(FitOptions)
def fit(
    data: Data, *, source: DataSource | None = None, report: Report | None = None, options: FitOptions
) -> Classifier:
    """Fit a classifier on a few pictures a class; with ``out``, save it there, resumably.

    data: what :func:`vlmadapt.load_dataset` takes, or a data set. source: where a data set came from, so that
        :func:`evaluate` finds it again. report: called with a line about the data.
    Hyper-parameters and epochs are chosen on validation pictures; the test split is not read.
    Raises :class:`InputError` for a bad argument or a folder that holds something else, before any slow work.
    """
    method = Method(options.adapter, options.adapter, options.settings or {})
    dataset = open_dataset(data, options)
    folder = None if options.out is None else single.claim_folder(options.out, options.resume, options.overwrite)
    if report is not None:
        report(dataset.describe())
    if source is None and not isinstance(data, Dataset):
        source = DataSource.of(str(data), options.split_seed, options.root)
    return single.fit_classifier(
        open_encoder(options),
        dataset,
        source,
        method,
        options.shots,
        options.seed,
        folder,
        extraction_of(options),
        resume=options.resume,
        allow_short=options.allow_short,
    )


@with_options(CompareOptions)
def compare(data: Data, *, report: Report | None = None, options: CompareOptions) -> ProtocolResults:
    """Compare adapters over shots and seeds under one protocol (:func:`vlmadapt.experiments.protocol.run_protocol`).

    data: what :func:`vlmadapt.load_dataset` takes, or a data set. report: called with a line about the data and after
        each fit. With ``out``, ``results.json`` and ``results.csv`` are written there, and finished fits wait there for
        an interrupted call to be repeated.
    Raises :class:`InputError` for a bad argument, before any picture is read.
    """
    dataset = open_dataset(data, options, report)
    fits = None if options.out is None else FolderFits(options.out / "fits")
    results = run_protocol(
        open_encoder(options),
        dataset,
        options.adapters,
        options.shots,
        range(options.seeds),
        extraction=extraction_of(options),
        fits=fits,
        report=report,
        allow_short=options.allow_short,
    )
    if options.out is not None:
        results.save(options.out)
    if fits is not None and not options.keep_fits:
        fits.remove()
    return results


@with_options(EvaluateOptions)
def evaluate(
    classifier: str | Path | Classifier,
    data: Data | None = None,
    *,
    report: Report | None = None,
    options: EvaluateOptions,
) -> single.Evaluation:
    """Test accuracy of a classifier, or of the one saved in a folder; with ``out``, written there.

    data: other data with the same classes; by default what it was fitted on. report: called with a line about the data.
    Raises :class:`InputError` when the classes differ or a test picture was used in fitting.
    """
    run = classifier.run if isinstance(classifier, Classifier) else read_run(classifier)
    if data is None:
        if run.data.source is None:
            raise InputError("data is missing: the classifier was fitted on a data set without a source, so name it.")
        data = run.data.source.load()
    dataset = open_dataset(data, options, report)
    if not isinstance(classifier, Classifier):
        classifier = Classifier.load(classifier, device=backbones.pick_device(options.device))
    # Test pictures are taken as they are, in the precision the classifier was fitted in.
    extraction = replace(extraction_of(options), precision=run.precision)
    found = single.evaluate(classifier, dataset, extraction)
    if options.out is not None:
        found.save(options.out)
    return found


def open_dataset(data: Data, options: Options, report: Report | None = None) -> Dataset:
    dataset = data if isinstance(data, Dataset) else _load(data, options)
    if report is not None:
        report(dataset.describe())
    return dataset


def _load(spec: str | Path, options: Options) -> Dataset:
    return load_dataset(spec, seed=options.split_seed, root=options.root, templates=options.templates or None)


def open_encoder(options: Options) -> Encoder:
    if not isinstance(options.encoder, str):
        return options.encoder
    return backbones.load_encoder(
        options.encoder, device=backbones.pick_device(options.device), allow_download=options.download
    )


def extraction_of(options: Options) -> Extraction:
    """Raises :class:`InputError` for a precision that is none."""
    if options.precision not in ("fp32", "bf16"):
        raise InputError(f"precision is {options.precision!r}: use fp32 or bf16.")
    cache = None if options.no_cache else FeatureCache(options.cache)
    return Extraction(options.views, options.batch_size, options.precision, cache)
