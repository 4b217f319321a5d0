"""``vlmadapt.fit``, ``compare`` and ``evaluate``: data in, a classifier or results out. The command line calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from vlmadapt import backbones
from vlmadapt.atomic import remove_tree
from vlmadapt.backbones.load import check_encoder
from vlmadapt.classifier import Classifier, read_run
from vlmadapt.data import Dataset, Extraction
from vlmadapt.data.descriptions import digest_of
from vlmadapt.errors import InputError
from vlmadapt.experiments import evaluation, folders, single
from vlmadapt.experiments.arrays import Use, held_dataset, is_held
from vlmadapt.experiments.evaluation import Evaluation
from vlmadapt.experiments.features import told_by_file
from vlmadapt.experiments.options import CompareOptions, EvaluateOptions, FitOptions, Options
from vlmadapt.experiments.protocol import check_plan, run_protocol
from vlmadapt.experiments.protocols import Protocol as ComparisonProtocol
from vlmadapt.experiments.protocols import protocol_of
from vlmadapt.experiments.protocols.base import OnShort
from vlmadapt.experiments.results import AGAINST
from vlmadapt.experiments.sources import (
    Data,
    asked_for,
    extraction_of,
    open_dataset,
    open_encoder,
    open_protocol,
    source_of,
    with_domains,
)
from vlmadapt.experiments.store import FolderFits
from vlmadapt.experiments.tested import TestData, test_data
from vlmadapt.modes import usual
from vlmadapt.options import with_options
from vlmadapt.provenance.place import Place, hold
from vlmadapt.provenance.settings import Method

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.experiments.results import ProtocolResults

OWN = "{} is given, but data is no features or pictures in memory, and has its own: leave it out."

Given = ParamSpec("Given")
Result = TypeVar("Result")


class OnData(Protocol[Given, Result]):
    """A function of data; its keyword arguments are the fields of its options."""

    with_options: Callable[..., Result]

    def __call__(
        self,
        data: Data | Any,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
        text_features: Any = None,
        *args: Given.args,
        **options: Given.kwargs,
    ) -> Result: ...


class OnClassifier(Protocol[Given, Result]):
    """The same of a classifier, and of data that may be left out."""

    with_options: Callable[..., Result]

    def __call__(
        self,
        classifier: str | Path | Classifier,
        data: Data | TestData | Any = None,
        labels: Any = None,
        *args: Given.args,
        **options: Given.kwargs,
    ) -> Result: ...


def _on_data(kind: Callable[Given, Options]) -> Callable[[Callable[..., Result]], OnData[Given, Result]]:
    decorator: Any = with_options(kind)
    return decorator


def _on_classifier(kind: Callable[Given, Options]) -> Callable[[Callable[..., Result]], OnClassifier[Given, Result]]:
    decorator: Any = with_options(kind)
    return decorator


@_on_data(FitOptions)
@usual(grad=True)
def fit(
    data: Data | Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    text_features: Any = None,
    *,
    options: FitOptions,
) -> Classifier:
    """Fit a classifier on a few pictures a class; with ``out``, save it there, resumably.

    data: what :func:`vlmadapt.load_dataset` takes, a data set, or with ``labels`` features ``[n, D]`` or n pictures
        (:func:`vlmadapt.experiments.arrays.held_dataset`), all of which may be trained on; a class with fewer than
        ``shots`` gives all it has.
    labels, class_names, text_features: of data in memory: n names or numbers, C names, ``[C, D]``.
    Hyper-parameters and epochs are chosen on validation pictures; the test split is not read.
    Raises :class:`InputError` for a bad argument or a folder that holds something else, before any slow work.
    """
    held = is_held(data)
    data = _in_memory(data, labels, class_names, text_features, options, "train")
    method = Method(options.adapter, options.adapter, options.settings or {})
    protocol = protocol_of(options.protocol, single=True)
    folders.refuse_inside(data, folders.places_of(options))
    dataset = open_dataset(data, options)
    source = options.source
    if source is None and not isinstance(data, Dataset):
        source = source_of(data, options)
    shots, on_short = _shots_of(dataset, replace(options, allow_short=options.allow_short or held))
    with _held(options.out) as place:
        if place is not None:
            single.claim_folder(place, options.resume, options.overwrite)
        if options.report is not None:
            options.report(dataset.describe())
        return single.fit_classifier(
            open_encoder(options, dataset),
            dataset,
            source,
            method,
            shots,
            options.seed,
            options.out,
            extraction_of(options, dataset),
            resume=options.resume,
            on_short=on_short,
            protocol=protocol,
        )


def _shots_of(dataset: Dataset, options: FitOptions) -> tuple[int, OnShort]:
    """How many pictures of a class are trained on, and what becomes of a class with fewer.

    Raises :class:`InputError` for another word than ``all``.
    """
    shots = options.shots
    if shots == "all":
        return max(1, *dataset.counts("train")), "every"
    if isinstance(shots, str):
        raise InputError(f"shots is {shots!r}: give a whole number of training pictures a class, or 'all'.")
    return shots, "all" if options.allow_short else "error"


def _in_memory(
    data: Any, labels: Any, class_names: Sequence[str] | None, text_features: Any, options: Options, use: Use
) -> Any:
    """``data`` that are in memory as a data set, all else as it is."""
    if is_held(data):
        check_encoder(options.encoder)
        return held_dataset(data, labels, options, use, class_names, text_features)
    for name, value in (("labels", labels), ("class_names", class_names), ("text_features", text_features)):
        if value is not None:
            raise InputError(
                f"{name} is given, but data is no features or pictures in memory, and has its own: leave it out."
            )
    return data


@_on_data(CompareOptions)
def compare(
    data: Data | Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    text_features: Any = None,
    *,
    options: CompareOptions,
) -> ProtocolResults:
    """Compare adapters over shots and seeds under one protocol (:func:`vlmadapt.experiments.protocol.run_protocol`).

    data, labels, class_names, text_features: as :func:`fit` takes them; data in memory are split by ``split_seed``.
    With ``out``, ``results.json`` and ``results.csv`` are written there, and finished fits wait there for an
    interrupted call to be repeated.
    Raises :class:`InputError` for a bad argument, and for a folder that another run holds, that is of another run, or
    that has fits which this one would not have, before any picture is read.
    """
    return comparison(_in_memory(data, labels, class_names, text_features, options, "split"), options)


@usual(grad=True)
def comparison(data: Data, options: CompareOptions, kind: str = "compare") -> ProtocolResults:
    """:func:`compare`, as a run of ``kind``, which tells folders apart. Raises :class:`InputError` as that does."""
    folders.refuse_inside(data, folders.places_of(options))
    options = with_domains(data, options)
    dataset = _announced(data, options)
    protocol = open_protocol(dataset, options)
    extraction = extraction_of(options, dataset)
    plan = check_plan(asked_for(dataset, options), options.shots, range(options.seeds))
    methods = list(plan.values())
    if options.against is not None and options.against not in plan:
        raise InputError(f"against is {options.against!r}, which is not compared: use one of {', '.join(plan)}.")
    with _held(options.out) as place:
        if place is None:
            return _run(dataset, open_encoder(options, dataset), extraction, methods, protocol, options)
        settings = {
            "views": extraction.views,
            "precision": extraction.precision,
            "templates": dataset.templates,
            "descriptions": digest_of(dataset.descriptions),
            **protocol.about(dataset),
        }
        asked = methods, options.shots, range(options.seeds), options.overwrite
        folders.claim_results(place, folders.describe(kind, dataset, settings), *asked)
        encoder = open_encoder(options, dataset)
        about = folders.describe(kind, dataset, {**settings, **told_by_file(dataset, encoder)}, encoder)
        replacing = folders.claim_results(place, about, *asked)
        fits = FolderFits(place.folder / "fits")

        def ready() -> None:
            if options.overwrite and not place.begun:
                remove_tree(fits.root)
            place.begin(about, replacing)

        results = _run(dataset, encoder, extraction, methods, protocol, options, fits, ready)
        results.save(place.folder)
        folders.finish_results(place, about)
        if not options.keep_fits:
            fits.remove(results)
    return results


def _run(
    dataset: Dataset,
    encoder: Encoder,
    extraction: Extraction,
    methods: Sequence[Method],
    protocol: ComparisonProtocol,
    options: CompareOptions,
    fits: FolderFits | None = None,
    ready: Callable[[], None] | None = None,
) -> ProtocolResults:
    results = run_protocol(
        encoder,
        dataset,
        methods,
        options.shots,
        range(options.seeds),
        extraction=extraction,
        fits=fits,
        report=options.report,
        allow_short=options.allow_short,
        ready=ready,
        protocol=protocol,
    )
    if options.against is None:
        return results
    return replace(results, protocol={**results.protocol, AGAINST: options.against})


@_on_classifier(EvaluateOptions)
@usual(grad=True)
def evaluate(
    classifier: str | Path | Classifier,
    data: Data | TestData | Any = None,
    labels: Any = None,
    *,
    options: EvaluateOptions,
) -> Evaluation:
    """Every measure of a classifier, or of the one saved in a folder, on labelled pictures; with ``out``, written.

    data: other pictures of its classes, or of some of them; by default what it was fitted on. Of data without splits,
        none of whose pictures was fitted on, all pictures are evaluated, else the test split; in a tree with domains
        above the classes each domain is such data. With ``labels``, names or numbers of its classes, features
        ``[n, D]`` of its encoder or n pictures, all of which are evaluated.
    Raises :class:`InputError` for pictures of classes that the classifier does not know, unless ``skip_unknown``, and
    when a test picture was used in fitting.
    """
    folder = None if isinstance(classifier, Classifier) else Path(classifier)
    run = classifier.run if isinstance(classifier, Classifier) else read_run(classifier)
    if not isinstance(data, TestData):
        if is_held(data):
            data = held_dataset(data, labels, options, "test", run=run)
        elif labels is not None:
            raise InputError(
                "labels is given, but data is no features or pictures in memory, and has its own: leave it out."
            )
    tested = data if isinstance(data, TestData) else test_data(run, data, options)
    if options.report is not None:
        options.report(tested.said)
    with _held(options.out) as place:
        if place is not None:
            own = folder is not None and folder.resolve() == place.folder.resolve().parent
            about = folders.describe_evaluation(tested.dataset, run, own)
            place.claim(about, options.overwrite, (*folders.EVALUATED, *folders.DRAWN_OF_EVALUATION))
        if not isinstance(classifier, Classifier):
            only_features = tested.dataset.given is not None
            device = backbones.pick_device(options.device)
            classifier = Classifier.load(classifier, None, device, only_features, options.engine)
        # Test pictures are taken as they are, in the precision the classifier was fitted in.
        extraction = replace(extraction_of(options), precision=run.precision)
        found = evaluation.evaluate(classifier, tested, extraction, options.abstain)
        if place is not None:
            place.begin(about)
            found.save(place.folder)
    return found


def _held(out: Path | None) -> AbstractContextManager[Place | None]:
    return nullcontext() if out is None else hold(out)


def _announced(data: Data, options: Options) -> Dataset:
    dataset = open_dataset(data, options)
    if options.report is not None:
        options.report(dataset.describe())
    return dataset
