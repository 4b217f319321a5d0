"""Few-shot runs and their output folders: what a folder is of, and what a new run there would lose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.adapters import ADAPTERS
from vlmadapt.atomic import remove_file
from vlmadapt.data import BUILTIN
from vlmadapt.errors import InputError
from vlmadapt.experiments.features import pictures_hash
from vlmadapt.experiments.fit import FROM_DATA
from vlmadapt.experiments.results import DIFFERENCES, ProtocolResults
from vlmadapt.provenance.about import About
from vlmadapt.provenance.place import Place
from vlmadapt.provenance.settings import Method, plain

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.classifier import Run
    from vlmadapt.data import Dataset
    from vlmadapt.experiments.options import Options

RESULTS = ("results.json", "results.csv")
BY_DOMAIN = "by_domain.csv"  # where there are domains
EVALUATED = (*RESULTS, "by_class.csv", "measures.csv", "confusion.csv", "predictions.csv", "mistakes.csv")
CALIBRATION = "reliability.png"  # which the command line draws of an evaluation, too
CONFUSION = "confusion.png"
REPORT = "report.html"
DRAWN_OF_EVALUATION = (CALIBRATION, CONFUSION, REPORT)
COMPARED = (*RESULTS, DIFFERENCES)
DRAWN = ("table.md", "curve.png", CALIBRATION, REPORT)  # what the command line adds to the results of a comparison


def describe(kind: str, dataset: Dataset, settings: Mapping[str, Any], encoder: Encoder | None = None) -> About:
    """What a run of ``kind`` on ``dataset`` writes into its folder."""
    first = {sample.label: sample for sample in reversed((*dataset.train, *dataset.val, *dataset.test))}
    return About(
        kind,
        dataset.name,
        dataset.split_hash,
        pictures_hash(first[label] for label in sorted(first)),
        None if encoder is None else encoder.fingerprint,
        plain(settings),
    )


def describe_evaluation(dataset: Dataset, run: Run, own: bool) -> About:
    """What an evaluation writes into its folder; in the classifier's ``own`` it may be of any fit that lay there."""
    names = ("method", "config", "shots", "seed", "few_shot_split_hash")
    settings = {} if own else {"classifier": {name: getattr(run, name) for name in names}}
    return replace(describe("eval", dataset, settings), encoder=run.encoder.fingerprint)


def refuse_inside(data: object, paths: Mapping[str, Path | None], files: bool = False) -> None:
    """Raise :class:`InputError` when one of ``paths``, by option, lies in the folder of pictures ``data``.

    The next reading would take what is written there for classes or pictures. ``files``: the paths are single files,
    which do no harm beside the class folders. Data sets that list their files, and built-in ones, take none at all.
    """
    if not isinstance(data, (str, Path)) or str(data) in BUILTIN or not os.path.isdir(data):
        return
    root = os.path.realpath(data)
    for option, path in paths.items():
        if path is None or (files and os.path.realpath(path.parent) == root):
            continue
        if os.path.commonpath([root, os.path.realpath(path)]) == root:
            outside = os.path.relpath(os.path.join(os.path.dirname(root), "runs", path.name))
            raise InputError(
                f"{path} lies inside the data {data}, where it would be read as classes and pictures: "
                f"use for example {option} {outside}."
            )


def places_of(options: Options) -> dict[str, Path | None]:
    """Where a command writes, by option."""
    return {"--out": getattr(options, "out", None), "--cache": options.cache}


def claim_results(
    place: Place, about: About, methods: Sequence[Method], shots: Sequence[int], seeds: Sequence[int], overwrite: bool
) -> bool:
    """:meth:`Place.claim_results` for a comparison of ``methods``; raises what it raises."""

    def lost() -> list[str]:
        return _lost(ProtocolResults.load(place.folder), methods, shots, seeds)

    return place.claim_results(about, overwrite, (*COMPARED, *DRAWN), lost)


def _lost(old: ProtocolResults, methods: Sequence[Method], shots: Sequence[int], seeds: Sequence[int]) -> list[str]:
    known = {method.label: method for method in methods}
    return [
        f"{cell.method} at {cell.shots} shot{'s' * (cell.shots > 1)} and seed {cell.seed}"
        for cell in old.cells
        if cell.method not in known
        or cell.shots not in shots
        or cell.seed not in seeds
        or not _same_method(known[cell.method], cell.adapter, old.methods[cell.method])
    ]


def _same_method(method: Method, adapter: str, config: Mapping[str, Any]) -> bool:
    """Whether ``method`` is what an earlier run of its label was, as far as settings are known to both versions."""
    if method.adapter != adapter:
        return False
    now = plain(ADAPTERS[adapter].config_class.make(dict(method.settings)).as_dict())
    of_data = {FROM_DATA} - method.settings.keys()
    return all(now[name] == config[name] for name in (now.keys() & config.keys()) - of_data)


def finish_results(place: Place, about: About) -> None:
    """After new results have been saved: what was drawn from older ones is removed."""
    for name in DRAWN:
        remove_file(place.folder / name)
    place.begin(about)
