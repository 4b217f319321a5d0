"""``vlmadapt.fit``, ``compare`` and ``evaluate``: data in, a classifier or results out. The command line calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from vlmadapt import backbones
from vlmadapt.classifier import Classifier, DataSource, read_run
from vlmadapt.data import Dataset, Extraction, FeatureCache, load_dataset
from vlmadapt.errors import InputError
from vlmadapt.experiments import single
from vlmadapt.experiments.options import CompareOptions, EvaluateOptions, FitOptions, Options, with_options
from vlmadapt.experiments.protocol import run_protocol
from vlmadapt.experiments.store import FolderFits
from vlmadapt.provenance.settings import Method

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.experiments.results import ProtocolResults

Data = str | Path | Dataset
Given = ParamSpec("Given")
Result = TypeVar("Result")


class OnData(Protocol[Given, Result]):
    """A function of data; its keyword arguments are the fields of its options."""

    with_options: Callable[..., Result]

    def __call__(self, data: Data, *args: Given.args, **options: Given.kwargs) -> Result: ...


class OnClassifier(Protocol[Given, Result]):
    """The same of a classifier, and of data that may be left out."""

    with_options: Callable[..., Result]

    def __call__(
        self,
        classifier: str | Path | Classifier,
        data: Data | None = None,
        *args: Given.args,
        **options: Given.kwargs,
    ) -> Result: ...


def _on_data(kind: Callable[Given, Options]) -> Callable[[Callable[..., Result]], OnData[Given, Result]]:
    decorator: Any = with_options(kind)  # type: ignore[arg-type]
    return decorator


def _on_classifier(kind: Callable[Given, Options]) -> Callable[[Callable[..., Result]], OnClassifier[Given, Result]]:
    decorator: Any = with_options(kind)  # type: ignore[arg-type]
    return decorator


@_on_data(FitOptions)
def fit(data: Data, options: FitOptions) -> Classifier:
    """Fit a classifier on a few pictures a class; with ``out``, save it there, resumably.

    data: what :func:`vlmadapt.load_dataset` takes, or a data set.
    Hyper-parameters and epochs are chosen on validation pictures; the test split is not read.
    Raises :class:`InputError` for a bad argument or a folder that holds something else, before any slow work.
    """
    method = Method(options.adapter, options.adapter, options.settings or {})
    dataset = open_dataset(data, options)
    folder = None if options.out is None else single.claim_folder(options.out, options.resume, options.overwrite)
    if options.report is not None:
        options.report(dataset.describe())
    source = options.source
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


@_on_data(CompareOptions)
def compare(data: Data, options: CompareOptions) -> ProtocolResults:
    """Compare adapters over shots and seeds under one protocol (:func:`vlmadapt.experiments.protocol.run_protocol`).

    data: what :func:`vlmadapt.load_dataset` takes, or a data set. With ``out``, ``results.json`` and ``results.csv``
        are written there, and finished fits wait there for an interrupted call to be repeated.
    Raises :class:`InputError` for a bad argument, before any picture is read.
    """
    dataset = _announced(data, options)
    fits = None if options.out is None else FolderFits(options.out / "fits")
    results = run_protocol(
        open_encoder(options),
        dataset,
        options.adapters,
        options.shots,
        range(options.seeds),
        extraction=extraction_of(options),
        fits=fits,
        report=options.report,
        allow_short=options.allow_short,
    )
    if options.out is not None:
        results.save(options.out)
    if fits is not None and not options.keep_fits:
        fits.remove()
    return results


@_on_classifier(EvaluateOptions)
def evaluate(
    classifier: str | Path | Classifier, data: Data | None = None, *, options: EvaluateOptions
) -> single.Evaluation:
    """Test accuracy of a classifier, or of the one saved in a folder; with ``out``, written there.

    data: other data with the same classes; by default what it was fitted on.
    Raises :class:`InputError` when the classes differ or a test picture was used in fitting.
    """
    run = classifier.run if isinstance(classifier, Classifier) else read_run(classifier)
    if data is None:
        if run.data.source is None:
            raise InputError("data is missing: the classifier was fitted on a data set without a source, so name it.")
        data = run.data.source.load()
    dataset = _announced(data, options)
    if not isinstance(classifier, Classifier):
        classifier = Classifier.load(classifier, device=backbones.pick_device(options.device))
    # Test pictures are taken as they are, in the precision the classifier was fitted in.
    extraction = replace(extraction_of(options), precision=run.precision)
    found = single.evaluate(classifier, dataset, extraction)
    if options.out is not None:
        found.save(options.out)
    return found


def open_dataset(data: Data, options: Options) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return load_dataset(data, seed=options.split_seed, root=options.root, templates=options.templates or None)


def _announced(data: Data, options: Options) -> Dataset:
    dataset = open_dataset(data, options)
    if options.report is not None:
        options.report(dataset.describe())
    return dataset


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
