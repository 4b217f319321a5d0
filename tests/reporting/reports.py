"""Reports of a tiny world whose classes and files have names that would be markup, scripts or Plotly's templates."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.experiments.world import TIP, TIP_F, ColourEncoder, make_world
from vlmadapt.classifier import Classifier
from vlmadapt.data import Dataset, load_dataset
from vlmadapt.experiments import front
from vlmadapt.experiments.evaluation import Evaluation
from vlmadapt.experiments.results import ProtocolResults
from vlmadapt.provenance.settings import parse_settings

NAMES = {
    "apple": "apple</script><script>document.title='evil'</script>",
    "fish": "fish\"'><img src=x onerror=\"document.title='evil'\">",
    "leaf": 'leaf <a href="https://example.org/">果物</a> &lt;b&gt; %{x} $\\alpha$ ${1}',
    "sun": "@s1 sun <script>\u202eevil</b><!--",
}
FILES = (
    "<script>document.title='evil'<﹤script>",
    "\"'><svg onload=document.title='evil'>",
    "é 果物 &amp; <b>.x",
    "\u202egpj.txt]]><!--",
)
FAST = ["search_beta=[1,4,2]", "search_alpha=[1,4,2]", "epochs=4"]


def evil_world(root: Path) -> Dataset:
    """Every class and many files renamed; classes come from a list, for a folder cannot be called ``</script>``."""
    world = make_world(root / "plain", test=12)
    rows = []
    for path in sorted(world.rglob("*.png")):
        number, name, split = int(path.stem), path.parent.name, path.parent.parent.name
        renamed = path.with_name(f"{number}{FILES[number]}.png") if number < len(FILES) else path
        path.rename(renamed)
        rows.append([renamed.relative_to(root).as_posix(), NAMES[name], split])
    with open(root / "<b>list.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["path", "label", "split"], *rows])
    return load_dataset(root / "<b>list.csv")


def compared(dataset: Dataset, seeds: int = 2, shots: tuple[int, ...] = (1, 2)) -> ProtocolResults:
    labels = ("zero-shot", TIP, TIP_F)
    return front.compare(dataset, adapters=labels, shots=shots, seeds=seeds, encoder=ColourEncoder(), no_cache=True)


def classifier_of(dataset: Dataset, folder: Path | None = None) -> Classifier:
    return front.fit(
        dataset,
        adapter="tip-adapter-f",
        shots=2,
        settings=parse_settings(FAST),
        protocol="few-val",
        encoder=ColourEncoder(),
        no_cache=True,
        out=folder,
    )


def evaluated(classifier: Classifier, dataset: Dataset) -> Evaluation:
    return front.evaluate(classifier, dataset, no_cache=True)
