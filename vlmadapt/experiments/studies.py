"""The studies of docs/results.md: every adapter on four data sets, ablations, and the slow method on two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.adapters import ADAPTERS
from vlmadapt.atomic import remove_tree
from vlmadapt.data import Extraction, FeatureCache
from vlmadapt.experiments.estimate import Timed, ends
from vlmadapt.experiments.features import ClassTexts
from vlmadapt.experiments.fit import create
from vlmadapt.experiments.given import GivenFeatures, run_given
from vlmadapt.experiments.protocol import SHOTS, Comparison, describe_dataset, describe_encoder, run_protocol
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.experiments.store import FolderFits
from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.provenance.identity import difference
from vlmadapt.provenance.settings import Method, plain
from vlmadapt.provenance.versions import versions

if TYPE_CHECKING:
    from vlmadapt.backbones import Encoder
    from vlmadapt.data import Dataset

FIRST = (
    *("zero-shot", "auto", "hegraph", "xmadapter", "tip-adapter-f", "tip-adapter", "graph-adapter", "taskres"),
    *("clip-adapter", "lp++", "linear-probe", "zs-lp", "clap", "ss-text", "ncm", "gda", "proker", "coop"),
)
SLOW = ("clip-lora",)  # a fit takes minutes to hours: it has sections of its own, of fewer shots and seeds
# All that compare knows, apart from them: a new method takes part in the next run.
METHODS = tuple(Method(name, name) for name in (*FIRST, *(name for name in ADAPTERS if name not in (*FIRST, *SLOW))))
PLAN, RESULTS, FORMAT = "plan.json", "results.json", 1
AGAIN = "run scripts/make_results.py --fresh"
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
class Study:
    """One protocol run: a section of the page."""

    name: str
    data: str
    methods: Sequence[Method]
    shots: tuple[int, ...]
    curve: bool = True
    counts: bool = True  # is one of the sets that methods are ranked over
    most_seeds: int | None = None  # where a fit takes too long for all that are asked for

    def seeds(self, wanted: int) -> int:
        return wanted if self.most_seeds is None else min(wanted, self.most_seeds)


LORA = tuple(Method(name, name) for name in ("zero-shot", "coop", "taskres", *SLOW))
STUDIES = (
    Study("clipart", "clipart", METHODS, (1, 2, 4, 8, 16)),
    Study("mnist5k", "mnist5k", METHODS, (1, 2, 4, 8, 16)),
    Study("textile3", "textile3", METHODS, (1, 2, 4, 8, 16)),
    Study("tuxphotos", "tuxphotos", METHODS, (1, 2, 4)),  # its smallest class has four training pictures
    Study("ablations", "clipart", ABLATIONS, (1, 4, 16), curve=False, counts=False),
    Study("lora-tuxphotos", "tuxphotos", LORA, (1, 4), curve=False, counts=False, most_seeds=3),
    Study("lora-mnist5k", "mnist5k", LORA, (1, 4), curve=False, counts=False, most_seeds=3),
)

# On given features: name of the section, file, encoder. Some methods need the encoder itself.
REAL = (
    ("whu-rn50", "whu_rs19/clip_rn50.safetensors", "OpenAI CLIP RN50"),
    ("whu-vit-b-32", "whu_rs19/clip_vit-b-32.safetensors", "OpenAI CLIP ViT-B/32"),
    ("whu-vit-l-14", "whu_rs19/clip_vit-l-14.safetensors", "OpenAI CLIP ViT-L/14"),
)
REAL_METHODS = tuple(method for method in METHODS if not ADAPTERS[method.adapter].needs_encoder)


def complete_real(
    folder: Path, root: Path, seeds: int, report: Callable[[str], None] | None = None
) -> Iterator[tuple[str, ProtocolResults]]:
    """The sections of ``REAL``, from the files under ``root``; finished fits and results lie in ``folder``."""
    for name, file, encoder in REAL:
        given = GivenFeatures.read(root / file, name, encoder)
        results = run_given(given, REAL_METHODS, SHOTS, range(seeds), folder / name, report)
        results.save(folder / name)
        yield name, results


def known_real(folder: Path) -> dict[str, ProtocolResults]:
    """The sections of ``REAL`` that were finished in ``folder``."""
    places = {name: folder / name for name, _, _ in REAL}
    return {name: ProtocolResults.load(place) for name, place in places.items() if (place / RESULTS).exists()}


def time_real(
    folder: Path, root: Path, report: Callable[[str], None] | None = None
) -> Iterator[tuple[str, dict[str, Timed]]]:
    """Of each section of ``REAL``: what one fit of each method takes. They stay in ``folder`` for the run itself."""
    for name, file, encoder in REAL:
        given = GivenFeatures.read(root / file, name, encoder)
        results = run_given(given, REAL_METHODS, ends(SHOTS), (0,), folder / name, report)
        seconds = {(cell.method, cell.shots): cell.fit_seconds for cell in results.cells}
        yield name, _timed(seconds, REAL_METHODS, SHOTS)


def time_study(
    study: Study,
    dataset: Dataset,
    encoder: Encoder,
    folder: Path,
    extraction: Extraction | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Timed]:
    """What one fit of each method takes. They wait in ``folder`` for the run itself; no test picture is looked at."""
    extraction = extraction or Extraction(cache=FeatureCache())
    comparison = Comparison(encoder, dataset, study.methods, ends(study.shots), (0,), extraction=extraction)
    measured = comparison.fit(FolderFits(folder / "fits"), report)
    seconds = {(key.method, key.shots): measures.fit_seconds for key, measures in measured.items()}
    return _timed(seconds, study.methods, study.shots)


def _timed(
    seconds: Mapping[tuple[str, int], float], methods: Sequence[Method], shots: Sequence[int]
) -> dict[str, Timed]:
    low, high = min(shots), max(shots)
    return {each.label: Timed(seconds[each.label, low], seconds[each.label, high]) for each in methods}


def complete(
    study: Study,
    dataset: Dataset,
    encoder: Encoder,
    seeds: int,
    folder: Path,
    *,
    fresh: bool = False,
    extraction: Extraction | None = None,
    report: Callable[[str], None] | None = None,
) -> ProtocolResults:
    """The results of ``study`` on as many of the seeds 0 to ``seeds - 1`` as it takes: those in ``folder`` when it
    finished there, else run now.

    An interrupted run goes on; one of another plan is made again, as is any with ``fresh``.
    """
    seeds = study.seeds(seeds)
    plan = _plan(study, dataset, encoder, seeds)
    if fresh:
        remove_tree(folder)
    known = finished(folder, plan)
    if known is not None and all(cell.right is not None for cell in known.cells):
        return known
    fits = FolderFits(folder / "fits")
    results = run_protocol(
        encoder,
        dataset,
        study.methods,
        study.shots,
        range(seeds),
        extraction=extraction or Extraction(cache=FeatureCache()),
        fits=fits,
        report=report,
    )
    results.save(folder)
    fits.remove(results)
    write_versioned(folder / PLAN, plan, FORMAT)
    return results


def finished(folder: Path, plan: dict[str, Any] | None = None) -> ProtocolResults | None:
    """The results in ``folder``, if a run of this plan (any, without one) finished there."""
    if not (folder / PLAN).exists():
        return None
    if plan is not None and difference(read_versioned(folder / PLAN, FORMAT, AGAIN), plan) is not None:
        return None
    return ProtocolResults.load(folder)


def _plan(study: Study, dataset: Dataset, encoder: Encoder, seeds: int) -> dict[str, Any]:
    """All that decides the results of a study, apart from the code."""
    texts = ClassTexts(encoder, dataset)
    return plain(
        {
            "dataset": describe_dataset(dataset),
            "encoder": describe_encoder(encoder),
            "methods": {method.label: create(method, texts).config.as_dict() for method in study.methods},
            "adapters": [method.adapter for method in study.methods],
            "shots": study.shots,
            "seeds": seeds,
            "versions": versions(),
        }
    )
