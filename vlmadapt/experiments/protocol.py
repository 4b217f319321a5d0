"""The few-shot protocol: adapters x shots x seeds on the same pictures, the test split read once at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch

from vlmadapt.adapters import ADAPTERS, NoText
from vlmadapt.data import Extraction
from vlmadapt.data.descriptions import digest_of
from vlmadapt.errors import InputError
from vlmadapt.experiments import leaks
from vlmadapt.experiments.answers import pack_classes
from vlmadapt.experiments.features import (
    ClassTexts,
    FeatureTable,
    FewShotFeatures,
    identity_of,
    pictures_hash,
    refuse_views,
    seen_by,
)
from vlmadapt.experiments.fit import Measures, create, fit, judged, measure_adapter
from vlmadapt.experiments.protocols import FewVal, Protocol, TestSet
from vlmadapt.experiments.results import Cell, ProtocolResults, selection
from vlmadapt.experiments.rights import pack
from vlmadapt.experiments.sources import refuse_other_encoder
from vlmadapt.experiments.store import FitKey, FolderFits, MemoryFits
from vlmadapt.provenance.intervals import wilson
from vlmadapt.provenance.settings import Method, parse_method, plain
from vlmadapt.provenance.versions import public_name, versions

if TYPE_CHECKING:
    from vlmadapt.adapters import Adapter
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset, Sample

SHOTS = (1, 2, 4, 8, 16)
STAND_IN = "zero-shot"  # answers for methods that are bound to other classes


def run_protocol(
    encoder: Encoder,
    dataset: Dataset,
    adapters: Sequence[str | Method],
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    extraction: Extraction | None = None,
    fits: MemoryFits | FolderFits | None = None,
    report: Callable[[str], None] | None = None,
    allow_short: bool = False,
    ready: Callable[[], None] | None = None,
    protocol: Protocol | None = None,
) -> ProtocolResults:
    """Compare ``adapters`` on ``dataset``; returns the results, which ``save(folder)`` writes.

    For every number of shots and every seed, one sample of training and validation pictures serves all methods, and
    its features are extracted once. Hyper-parameters and epochs are chosen on the validation pictures. Only when every
    fit is done is a test split read, once.

    adapters: names of the registry, ``"name:setting=value"`` strings or :class:`Method`.
    fits: where fitted adapters wait for the test split. :class:`FolderFits` makes the same call go on after an
        interruption; by default they stay in memory and nothing can be resumed.
    report: called with one line after each fit.
    allow_short: a class with fewer training pictures than shots gives all it has, instead of being an error.
    ready: called when all arguments have been found good, before any picture is read.
    protocol: what chooses, what is fitted and what is tested (:mod:`vlmadapt.experiments.protocols`); few-val by
        default.

    Raises :class:`InputError` for a bad argument, before any picture is read.
    """
    comparison = Comparison(
        encoder, dataset, adapters, shots, seeds, extraction=extraction, allow_short=allow_short, protocol=protocol
    )
    if ready is not None:
        ready()
    fits = fits or MemoryFits()
    return comparison.test(fits, comparison.fit(fits, report))


class Comparison:
    """A plan that was found good, and the two steps of :func:`run_protocol`, which says what the arguments are.

    Raises :class:`InputError` for a bad argument, before any picture is read.
    """

    def __init__(
        self,
        encoder: Encoder,
        dataset: Dataset,
        adapters: Sequence[str | Method],
        shots: Sequence[int],
        seeds: Sequence[int],
        *,
        extraction: Extraction | None = None,
        allow_short: bool = False,
        protocol: Protocol | None = None,
    ) -> None:
        self._encoder, self._whole, self._shots, self._seeds = encoder, dataset, shots, seeds
        self._extraction, self._protocol = extraction or Extraction(), protocol or FewVal()
        self._methods = check_plan(adapters, shots, seeds)
        self._protocol.check(dataset)
        self._fitted, self._tests = self._protocol.fitted(dataset), self._protocol.tests(dataset)
        refuse_other_encoder(encoder, self._fitted, self._protocol.others)
        for test in self._tests:
            leaks.require_test(test.dataset)
        on_short: Literal["error", "all"] = "all" if allow_short else "error"
        self._splits = {
            (count, seed): self._protocol.draw(self._fitted, count, seed, on_short) for count in shots for seed in seeds
        }
        self._texts = ClassTexts(encoder, self._fitted)
        self._asked = [_texts_of(test, self._texts, self._fitted) for test in self._tests]
        self._configs = {
            label: plain(create(method, self._texts).config.as_dict()) for label, method in self._methods.items()
        }
        for config in self._configs.values():
            refuse_views(config, dataset, self._extraction)
        self._keys = [FitKey(label, count, seed) for count in shots for seed in seeds for label in self._methods]

    def fit(self, fits: MemoryFits | FolderFits, report: Callable[[str], None] | None = None) -> dict[FitKey, Measures]:
        """Every fit of the plan, those in ``fits`` as they are."""
        splits, extraction = self._splits.values(), self._extraction
        train = FeatureTable(self._encoder, _union(split.train for split in splits), extraction, extraction.views)
        val = FeatureTable(self._encoder, _union(split.val for split in splits), extraction)
        leaks.warn([test.dataset for test in self._tests], splits)
        if report is not None:
            for remark in self._protocol.remarks(tuple(self._shots)):
                report(remark)
        lasting = self._splits if isinstance(fits, FolderFits) else {}
        contents = {key: pictures_hash((*split.train, *split.val)) for key, split in lasting.items()}
        measured: dict[FitKey, Measures] = {}
        for number, key in enumerate(self._keys, start=1):
            split, method = self._splits[key.shots, key.seed], self._methods[key.method]
            measures = fits.finished(key, self._identity(key, contents.get((key.shots, key.seed), "")))
            if measures is None:
                on_all = self._protocol.trains_on_all
                each_view = self._configs[key.method].get("each_view", False)
                data = FewShotFeatures.of(split, train, val, each_view, on_all)
                adapter = create(method, self._texts)
                measures = fit(adapter, data, key.seed, fits.checkpoint_dir(key), on_all=on_all)
                fits.put(key, adapter, measures)
            measured[key] = measures
            if report is not None:
                on_all = self._protocol.trains_on_all or ADAPTERS[method.adapter].trains_on_validation
                known = [sample.label for sample in (*split.train, *split.val)]
                pictures = judged(known) if on_all else len(split.val)
                report(_line(number, len(self._keys), key, measures, pictures, "held out" if on_all else "validation"))
        return measured

    def _identity(self, key: FitKey, pictures: str) -> dict[str, Any]:
        split, adapter = self._splits[key.shots, key.seed], self._methods[key.method].adapter
        config, protocol = self._configs[key.method], self._protocol.name
        known = identity_of(self._fitted, split, self._encoder, adapter, config, self._extraction, pictures, protocol)
        return {**known, "versions": versions()}

    def test(self, fits: MemoryFits | FolderFits, measured: Mapping[FitKey, Measures]) -> ProtocolResults:
        """The results of all fits. Nothing is fitted or chosen here: this is the one place that reads test splits."""
        cells = []
        for test, words in zip(self._tests, self._asked, strict=True):
            pictures, extraction = test.dataset.test, self._extraction
            samples = FeatureTable(self._encoder, pictures, extraction).of(pictures)
            for key in self._keys:
                adapter, answered_by = answering(fits.get(key, self._encoder), self._texts, words)
                split, seen = self._splits[key.shots, key.seed], samples
                if adapter.adapts_images:
                    seen = seen_by(adapter, self._encoder, pictures, extraction)
                tested = measure_adapter(adapter, seen)
                cells.append(
                    Cell(
                        method=key.method,
                        adapter=self._methods[key.method].adapter,
                        shots=key.shots,
                        seed=key.seed,
                        split_hash=split.split_hash,
                        train_hash=split.train_hash,
                        values=tested.values,
                        right=pack(tested.right),
                        predicted=pack_classes(tested.log_probabilities.argmax(-1), len(test.dataset.class_names)),
                        reliability=tested.bins,
                        tested_on=test.name,
                        answered_by=answered_by,
                        **asdict(measured[key]),
                    )
                )
        number = len(self._tests[0].dataset.test)
        return ProtocolResults(
            dataset={**describe_dataset(self._whole), "test": number, **_describe_tests(self._tests)},
            encoder=describe_encoder(self._encoder),
            protocol={
                "shots": list(self._shots),
                "seeds": list(self._seeds),
                "views": self._extraction.views,
                "precision": self._extraction.precision,
                "protocol": self._protocol.name,
                "selection": selection(self._protocol, (method.adapter for method in self._methods.values())),
            },
            versions=versions(),
            methods=self._configs,
            cells=tuple(cells),
        )


def _texts_of(test: TestSet, known: ClassTexts, fitted: Dataset) -> ClassTexts:
    """The texts that a test set is answered among. Raises :class:`InputError` where others are asked, and are none."""
    if test.dataset.class_names == fitted.class_names:
        return known
    texts = ClassTexts(known.encoder, test.dataset)
    if isinstance(texts.features, NoText):
        raise InputError(
            f"data set {test.dataset.name!r} is to be tested among classes that were not fitted, and has no text of "
            "them: use another protocol."
        )
    return texts


def answering(adapter: Adapter, known: ClassTexts, asked: ClassTexts) -> tuple[Adapter, str | None]:
    """What answers among the classes ``asked`` for an adapter fitted on ``known`` ones, and whose name it has.

    Itself (None) on its own classes, and with other texts where what it learned is not bound to them; else zero-shot.
    """
    if known is asked:
        return adapter, None
    if adapter.can_transfer and not isinstance(asked.features, NoText):
        return adapter.for_classes(asked.features, asked.class_names), None
    return create(Method(STAND_IN, STAND_IN), asked), STAND_IN


def _describe_tests(tests: Sequence[TestSet]) -> dict[str, Any]:
    """What is tested, each of several test sets apart."""
    if len(tests) == 1 and tests[0].name is None:
        return _truth_of(tests[0].dataset)
    described = [
        {"name": test.name, "classes": len(test.dataset.class_names), "test": len(test.dataset.test)}
        | {"split_hash": test.dataset.split_hash, **_truth_of(test.dataset)}
        for test in tests
    ]
    return {"tests": described}


def _truth_of(dataset: Dataset) -> dict[str, Any]:
    names = dataset.class_names
    labels = torch.tensor([sample.label for sample in dataset.test])
    return {"class_names": list(names), "labels": pack_classes(labels, len(names))}


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "classes": len(dataset.class_names),
        "templates": list(dataset.templates),
        "split_hash": dataset.split_hash,
        **({"descriptions": digest_of(dataset.descriptions)} if dataset.descriptions else {}),
    }


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    return {
        "name": public_name(encoder.name),
        "fingerprint": encoder.fingerprint,
        "engine": encoder.engine,
        "width": encoder.width,
        "logit_scale": encoder.logit_scale,
    }


def check_plan(adapters: Sequence[str | Method], shots: Sequence[int], seeds: Sequence[int]) -> dict[str, Method]:
    """Methods by label. Raises :class:`InputError` for an empty or repeated argument."""
    for name, values in (("adapters", adapters), ("shots", shots), ("seeds", seeds)):
        if len(values) == 0:
            raise InputError(f"{name} is empty: give at least one.")
    for name, numbers, least in (("shots", shots, 1), ("seeds", seeds, 0)):
        for value in numbers:
            if value < least or list(numbers).count(value) > 1:
                raise InputError(f"{name} is {list(numbers)}: give different whole numbers of at least {least}.")
    methods = [parse_method(adapter) if isinstance(adapter, str) else adapter for adapter in adapters]
    labels = [method.label for method in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"adapters names {label!r} twice: name each method once.")
    return dict(zip(labels, methods, strict=True))


def _union(groups: Iterable[Sequence[Sample]]) -> list[Sample]:
    return [sample for group in groups for sample in group]


def _line(number: int, total: int, key: FitKey, measures: Measures, pictures: int, what: str) -> str:
    plural = "s" * (key.shots > 1)
    share = measures.val_accuracy
    found = "" if share is None else f", {what} {100 * share:.1f} % {wilson(share, pictures)}"
    return (
        f"[{number}/{total}] {key.method}, {key.shots} shot{plural}, seed {key.seed}: "
        f"{measures.fit_seconds:.1f} s{found}"
    )
