"""Tuning a generative model by several methods: the same records and loop for all, the test split read once."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from vlmadapt.atomic import remove_tree
from vlmadapt.errors import FileError
from vlmadapt.files import read_versioned, write_versioned
from vlmadapt.generative.data.records import Record, RecordSet
from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.load import known_family, task_model
from vlmadapt.generative.plan import Job, TuningPlan, check_plan
from vlmadapt.generative.results import SELECTION, TITLES, TuningCell, TuningResults
from vlmadapt.generative.tasks import TASK_CLASSES, Pictures, Task
from vlmadapt.generative.tasks.prior import prior_predictions
from vlmadapt.modes import usual
from vlmadapt.progress import track
from vlmadapt.provenance.identity import file_name, file_name_of_0_1_0
from vlmadapt.provenance.memory import PeakMemory
from vlmadapt.provenance.settings import parse_method, plain
from vlmadapt.provenance.versions import versions
from vlmadapt.training import fit_loop

IDENTITY, FITTED, TESTED, ADAPTER = "identity.json", "fit.json", "test.json", "adapter"
FORMAT = 1  # of the first three
AGAIN = "run vlmadapt tune with another --out"
NUMBER = (int, float)
FIT = {  # what FITTED holds
    "validation": NUMBER,
    "best_epoch": int,
    "trainable_parameters": int,
    "seconds_per_step": (*NUMBER, type(None)),
    "fit_seconds": NUMBER,
    "peak_memory_mib": NUMBER,
}
TEST = {"test": dict, "by_kind": dict, "predictions": dict}  # what TESTED holds


@usual(grad=True)
def run_tuning(
    loaded: GenerativeModel,
    data: RecordSet,
    plan: TuningPlan,
    folder: Path,
    *,
    report: Callable[[str], None] | None = None,
    progress: bool = False,
) -> TuningResults:
    """Fit every method of ``plan`` on ``data`` and test them; files of the fits lie below ``folder/fits``.

    Interrupted, the same call goes on where it stopped: finished fits are kept, an unfinished one continues from its
    last checkpoint. The model is given back as it came. Raises :class:`InputError` for a bad plan, before any training.
    """
    run = _Run(loaded, data, plan, folder / "fits", report or (lambda line: None), progress)
    for number, job in enumerate(run.jobs, start=1):
        run.fit(job, f"[{number}/{len(run.jobs)}]")
    # From here on nothing is fitted or chosen any more: this is the one place that reads the test split.
    cells = tuple(run.test(job) for job in run.jobs)
    prior, prior_by_kind = run.prior()
    return TuningResults(
        task=data.task,
        metric=run.metric,
        data={"name": data.name, "split_hash": data.split_hash, "records": run.counts},
        model={"name": known_family(loaded.model).public_name(loaded.name), "fingerprint": run.fingerprint},
        protocol={
            "seeds": list(plan.seeds),
            "options": plan.options.as_dict(),
            "limits": list(plan.limits),
            "selection": SELECTION,
        },
        versions=_versions(),
        methods={job.method.label: job.describes for job in run.jobs},
        cells=cells,
        prior=prior,
        prior_by_kind=prior_by_kind,
    )


class _Run:
    """A model, its pictures and the jobs of one plan."""

    def __init__(
        self,
        loaded: GenerativeModel,
        data: RecordSet,
        plan: TuningPlan,
        root: Path,
        report: Callable[[str], None],
        progress: bool,
    ) -> None:
        self.jobs = check_plan(plan, data)
        self.data, self.plan, self.root = data, plan, root
        self.report, self.progress = report, progress
        self.model = task_model(loaded)
        self.pictures = Pictures(self.model)
        height, width = loaded.image_size
        nothing = Image.new("RGB", (width, height), (127, 127, 127))
        self.hidden = Pictures(self.model, read=lambda path: nothing)
        self.sets = {seed: data.limited(*plan.limits, seed=seed) for seed in plan.seeds}
        self.metric = self.task(plan.seeds[0]).metric
        self.fingerprint = self.model.fingerprint()

    @property
    def counts(self) -> dict[str, int]:
        chosen = self.sets[self.plan.seeds[0]]
        return {"train": len(chosen.train), "val": len(chosen.val), "test": len(chosen.test)}

    def task(self, seed: int, blind: bool = False) -> Task:
        pictures = self.hidden if blind else self.pictures
        return TASK_CLASSES[self.data.task](self.model, self.sets[seed], self.plan.options, pictures)

    def prior(self) -> tuple[dict[str, float], dict[str, float]]:
        """Measures of what is right most often in training with the first seed, and the main one by type."""
        task = self.task(self.plan.seeds[0])
        said = prior_predictions(task.data.train, task.data.test)
        return task.measure(task.data.test, said), by_kind(task, said)

    def identity(self, job: Job) -> dict[str, Any]:
        return plain(
            {
                "task": self.data.task,
                "method": job.method.adapter,
                "config": job.describes,
                "options": self.plan.options.as_dict(),
                "split_hash": self.sets[job.seed].split_hash,
                "model": self.fingerprint,
                "seed": job.seed,
                "versions": _versions(),
            }
        )

    @contextmanager
    def attached(self, job: Job) -> Iterator[Attached]:
        method = attach(self.model.module, job.method.adapter, job.config, job.seed)
        try:
            yield method
        finally:
            method.detach()
            self.model.module.eval()

    def fit(self, job: Job, place: str) -> None:
        identity, folder = self.identity(job), fit_folder(self.root, job.method.label, job.seed)
        started = folder / IDENTITY
        if started.exists() and read_versioned(started, FORMAT, AGAIN) != identity:
            self.report(f"{place} {job.method.label}, seed {job.seed}: settings or data have changed, fitted again")
            remove_tree(folder)
        if not (folder / FITTED).exists():
            write_versioned(started, identity, FORMAT)
            self._fit(job, identity, folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        found = _read(folder / FITTED, FIT)
        unit = " %" if self.metric == "accuracy" else ""
        self.report(
            f"{place} {job.method.label}, seed {job.seed}: {found['trainable_parameters']:,} parameters, "
            f"{found['fit_seconds']:.1f} s, validation {TITLES[self.metric]} {100 * found['validation']:.1f}{unit}"
        )

    def _fit(self, job: Job, identity: Mapping[str, Any], folder: Path) -> None:
        task = self.task(job.seed, job.blind)
        with self.attached(job) as method:
            numbers = method.trainable_parameters()
            self._compute_features(task)
            with PeakMemory(self.model.device) as peak:
                watch = _Watch(task.score_validation)
                begun = time.perf_counter()
                best_epoch, steps = 0, 0
                if numbers:
                    result = fit_loop(
                        self.model.module,
                        task.loss,
                        len(task.data.train),
                        job.train,
                        evaluate=watch,
                        seed=job.seed,
                        identity=identity,
                        checkpoint_dir=folder / "checkpoints",
                        label=f"{job.method.label}, seed {job.seed}",
                        progress=self.progress,
                    )
                    best_epoch, score = result.best_epoch, result.history[result.best_epoch].score
                    epochs = job.train.epochs - (result.resumed_from or 0)
                    steps = epochs * -(-len(task.data.train) // job.train.batch_size)
                else:
                    score = watch()
                seconds = time.perf_counter() - begun
            method.save(folder / ADAPTER)
        assert score is not None
        measures = {
            "validation": score[0],
            "best_epoch": best_epoch,
            "trainable_parameters": numbers,
            "seconds_per_step": (seconds - watch.seconds) / steps if steps else None,
            "fit_seconds": seconds,
            "peak_memory_mib": peak.mib,
        }
        write_versioned(folder / FITTED, measures, FORMAT)

    def _compute_features(self, task: Task) -> None:
        """Before the clock starts: a frozen tower is asked about each picture once, whichever method comes first."""
        records = [*task.data.train, *task.data.val]
        batch = self.plan.options.batch
        if not any(parameter.requires_grad for parameter in self.model.tower.parameters()):
            for start in track(range(0, len(records), batch), "image features", enabled=self.progress):
                task.features(records[start : start + batch])

    def test(self, job: Job) -> TuningCell:
        folder = fit_folder(self.root, job.method.label, job.seed)
        path = folder / TESTED
        if not path.exists():
            task = self.task(job.seed, job.blind)
            with self.attached(job) as method:
                method.load(folder / ADAPTER)
                said = task.predict(task.data.test, progress=self.progress)
            measured = {
                "test": task.measure(task.data.test, said),
                "by_kind": by_kind(task, said),
                "predictions": {record.id: text for record, text in zip(task.data.test, said, strict=True)},
            }
            write_versioned(path, measured, FORMAT)
        found = _read(path, TEST)
        return TuningCell(
            method=job.method.label,
            adapter=job.method.adapter,
            seed=job.seed,
            split_hash=self.sets[job.seed].split_hash,
            values=found["test"],
            by_kind=found["by_kind"],
            **_read(folder / FITTED, FIT),
        )


def by_kind(task: Task, said: Sequence[str]) -> dict[str, float]:
    """The task's metric on the test records of each type of question, where records have types."""
    groups: dict[str, list[tuple[Record, str]]] = defaultdict(list)
    for record, text in zip(task.data.test, said, strict=True):
        if record.kind:
            groups[record.kind].append((record, text))
    return {
        kind: task.measure([record for record, _ in pairs], [text for _, text in pairs])[task.metric]
        for kind, pairs in sorted(groups.items())
    }


def fit_folder(root: Path, label: str, seed: int) -> Path:
    """Where the fit of ``label`` lies below ``root``, or will: that of 0.1.0 where only it holds a fit of ``label``."""
    own, old = (root / name(label) / f"seed-{seed}" for name in (file_name, file_name_of_0_1_0))
    return old if not own.exists() and _holds(old, label) else own


def _holds(folder: Path, label: str) -> bool:
    """Whether the fit that was started in ``folder`` has the settings of ``label``; 0.1.0 gave some labels one folder
    together."""
    if not (folder / IDENTITY).exists():
        return False
    found, method = read_versioned(folder / IDENTITY, FORMAT, AGAIN), parse_method(label)
    config, wanted = found.get("config"), plain(method.settings)
    if not isinstance(config, dict):
        return False
    training = config.get("training")
    settings = {**(training if isinstance(training, dict) else {}), **config}
    return found.get("method") == method.adapter and all(settings.get(name) == wanted[name] for name in wanted)


def predictions_of(folder: Path, label: str, seed: int) -> dict[str, str]:
    """What the fit of a finished :func:`run_tuning` said about the test records, by id."""
    return _read(fit_folder(folder / "fits", label, seed) / TESTED, TEST)["predictions"]


def _read(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What a fit wrote to ``path``. Raises :class:`FileError` where it is anything but entries of these ``kinds``."""
    found = read_versioned(path, FORMAT, AGAIN)
    for name in kinds.keys() | found.keys():
        if name not in kinds or not isinstance(found.get(name, path), kinds[name]):
            raise FileError(f"{path} is not what a fit wrote, see its {name}: {AGAIN}.")
    return found


class _Watch:
    """Calls ``evaluate`` and adds up how long it took."""

    def __init__(self, evaluate: Callable[[], tuple[float, ...]]) -> None:
        self.evaluate, self.seconds = evaluate, 0.0

    def __call__(self) -> tuple[float, ...]:
        begun = time.perf_counter()
        score = self.evaluate()
        self.seconds += time.perf_counter() - begun
        return score


def _versions() -> dict[str, str]:
    """The common ones and those of the packages that compute here."""
    from importlib.metadata import PackageNotFoundError, version

    found = versions()
    for package in ("transformers", "peft", "pycocoevalcap"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
