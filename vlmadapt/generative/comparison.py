"""The comparison of docs/tuning.md: methods, controls and sizes on easy-VQA's three tasks, learning rates chosen first.

What is compared are labels, as ``vlmadapt tune --method`` takes them. One with settings trains at the rate that was
found for its method without any: of a control only what it controls is different. Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.generative.data.records import RecordSet
from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.registry import METHODS
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.plan import TuningPlan
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.tuning import run_tuning
from vlmadapt.provenance.identity import file_name
from vlmadapt.provenance.settings import parse_method
from vlmadapt.training import TrainConfig

PAPER, APPNP = "p-adapter-paper", "p-adapter-paper:p=2:learn_p=no"
NO_DEGREES, FROM_FROZEN = f"{PAPER}:degree=none", "p-adapter:form=paper"
ZEROS, NOISE = f"{PAPER}:query_nodes=zeros", f"{PAPER}:query_nodes=noise"
NO_PULL, BLIND = f"{APPNP}:residual=none", "p-adapter:blind=yes"
# What the first table of each task holds.
COMPARED = (*METHODS, FROM_FROZEN, NO_DEGREES, ZEROS, NOISE, APPNP, NO_PULL, BLIND)
# What D is divided by, the default among them, and what gives rivals as many numbers in the small model that answers.
REDUCTIONS = (32, 16, 8, 4)
RESIZED = ("bottleneck", "prefix", "lora", "rslora", "p-adapter", "p-adapter-released", PAPER, APPNP)
RIVALS = {"bottleneck": ("width", 128), "prefix": ("length", 256), "lora": ("rank", 128), "rslora": ("rank", 128)}
SIZED = "vqa"  # the task whose second table they are in
# What the table of the assembled model holds, one step of which takes as long as a hundred of the small one's.
ASSEMBLED, ASSEMBLED_TASK = "assembled:smollm2", "vqa"
ASSEMBLED_COMPARED = ("frozen", "bottleneck", "lora", "p-adapter", PAPER, BLIND)
RATES = (1e-3, 3e-3, 1e-2)
FULL_RATES = (3e-4, 1e-3)  # of everything trained at once; ten times the time a fit
SEARCHED, FORMAT = "learning_rates.json", 1
ASIDE = 8  # training records whose pictures a search ends with

Say = Callable[[str], None]


@dataclass(frozen=True)
class Course:
    """How long one task trains, in what batches, and on the most records of training, validation and test."""

    epochs: int
    limits: tuple[int, int, int]
    batch: int = 32
    rates: tuple[float, ...] = RATES

    def plan(self, method: str, seeds: int, lr: float | None) -> TuningPlan:
        """``method`` on ``seeds`` seeds; ``lr`` None: its own."""
        train = TrainConfig(epochs=self.epochs, batch_size=self.batch)
        return TuningPlan(methods=(method,), seeds=tuple(range(seeds)), train=train, lr=lr, limits=self.limits)


COURSES: Mapping[str, Course] = {
    "vqa": Course(4, (800, 300, 2000)),
    "entailment": Course(4, (800, 300, 2000)),
    "caption": Course(6, (416, 150, 500)),
}
ASSEMBLED_COURSE = Course(2, (192, 64, 200), batch=16, rates=RATES[:2])


def resized(label: str, reduction: int) -> str:
    """``label`` in the size that a p-adapter has with ``reduction``."""
    if reduction == PAdapterConfig.reduction:
        return label
    name, numbers = RIVALS.get(label, ("reduction", reduction**2))
    return f"{label}:{name}={numbers // reduction}"


def sized() -> list[str]:
    """What the table of sizes holds beside what has the default one."""
    labels = [resized(label, reduction) for reduction in REDUCTIONS for label in RESIZED]
    return [label for label in labels if label not in RESIZED]


def run_method(
    loaded: GenerativeModel, records: RecordSet, course: Course, label: str, seeds: int, root: Path, say: Say
) -> TuningResults:
    """Run ``label`` on ``seeds`` seeds at its method's learning rate, which is searched first, and save the results
    in :func:`place` of it below ``root``."""
    method, folder = parse_method(label).adapter, place(root, label)
    lr = None if method == "frozen" else best_rate(loaded, records, course, method, place(root, method), say)
    results = run_tuning(loaded, records, course.plan(label, seeds, lr), folder, report=say)
    results.save(folder)
    return results


def place(root: Path, label: str) -> Path:
    """The folder of ``label`` below ``root``, that of its task."""
    return root / file_name(label)


def best_rate(
    loaded: GenerativeModel, records: RecordSet, course: Course, method: str, folder: Path, say: Say
) -> float:
    """The rate of ``course`` (``FULL_RATES``) with the best validation score with seed 0; kept in ``folder``.

    Tuning ends with a test: of a few training pictures, set aside, so that the test records stay unread.
    """
    if not (folder / SEARCHED).exists():
        unseen = without_test(records)
        found = {}
        for rate in FULL_RATES if method == "full" else course.rates:
            results = run_tuning(loaded, unseen, course.plan(method, 1, rate), folder / f"lr-{rate:g}", report=say)
            found[f"{rate:g}"] = results.cells[0].validation
        write_versioned(folder / SEARCHED, found, FORMAT)
    return float(chosen_rate(folder))


def without_test(records: RecordSet) -> RecordSet:
    """``records`` with a few training pictures in the place of the test records, which they then do not train on."""
    aside = {record.image for record in records.train[-ASIDE:]}
    train, test = ([r for r in records.train if (r.image in aside) == chosen] for chosen in (False, True))
    return replace(records, train=tuple(train), test=tuple(test))


def chosen_rate(folder: Path) -> str:
    """The rate that :func:`best_rate` found, as it is written; of equal ones the first."""
    found = read_versioned(folder / SEARCHED, FORMAT, "remove it and run scripts/tuning_table.py")
    return max(found, key=lambda rate: found[rate])


def rates_line(folder: Path, methods: Sequence[str]) -> str:
    """The chosen learning rates of those of ``methods`` that were searched, in a sentence."""
    searched = [method for method in methods if (place(folder, method) / SEARCHED).exists()]
    return f"Learning rates: {', '.join(f'{method} {chosen_rate(place(folder, method))}' for method in searched)}."
