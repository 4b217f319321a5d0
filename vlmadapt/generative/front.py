"""``vlmadapt.generative.tune``: records and a model in, results and adapters out. The command line calls it."""

from __future__ import annotations

from pathlib import Path

from vlmadapt import backbones
from vlmadapt.atomic import remove_file, remove_tree
from vlmadapt.errors import InputError
from vlmadapt.generative.data.load import load_records
from vlmadapt.generative.data.own import is_own
from vlmadapt.generative.data.records import RecordSet
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.load import family_named, name_forms, task_model
from vlmadapt.generative.options import SMALL, TuneOptions
from vlmadapt.generative.plan import TuningPlan, check_plan
from vlmadapt.generative.results import TuningResults
from vlmadapt.generative.scratch import named_model
from vlmadapt.generative.tasks import TaskOptions
from vlmadapt.generative.tuned import TUNED, place_of, save_tuned
from vlmadapt.generative.tuning import run_tuning
from vlmadapt.modes import usual
from vlmadapt.options import with_options
from vlmadapt.provenance.about import About
from vlmadapt.provenance.place import Place, hold
from vlmadapt.provenance.settings import plain
from vlmadapt.training import TrainConfig

RESULTS = ("results.json", "results.csv", TUNED)
REPORT = "report.html"
DRAWN = ("table.md", "said.png", REPORT)  # what the command line adds to the results


@with_options(TuneOptions)
@usual(grad=True)
def tune(options: TuneOptions) -> TuningResults:
    """Adapt a generative model by one or more methods; results and adapters are written to ``out``.

    data: a name, a ``.jsonl`` file, or a :class:`RecordSet`. model: a name, or what :func:`load_generative` gave.
        settings: a mapping of options of the task.
    All that is written to ``out`` is written in this call; interrupted, the same call goes on where it stopped.
    :class:`Tuned` loads what it leaves there. Raises :class:`InputError` for a bad argument, and for a folder that
    another run holds, that is of other data or settings, or that has fits which this one would not have, before a model
    is loaded or trained.
    """
    say = options.report or (lambda line: None)
    data, model = options.data, options.model
    records = data if isinstance(data, RecordSet) else load_records(data, options.task, options.root)
    published = isinstance(data, str) and not is_own(data)
    if records.task != options.task:
        raise InputError(f"task is {options.task!r}, but data are records for {records.task}: give that task.")
    plan = plan_of(options)
    check_plan(plan, records)
    if isinstance(model, str):
        check_model(model)
    folder = options.out or Path("runs") / f"tune-{data if published else records.name}-{options.task}"
    with hold(folder) as place:
        claim(place, about_plan(plan, records), plan, options.overwrite)
        say(_described(records))
        loaded = open_model(options) if isinstance(model, str) else model
        about = about_plan(plan, records, loaded)
        replacing = claim(place, about, plan, options.overwrite)
        if options.overwrite:
            remove_tree(folder / "fits")
        place.begin(about, replacing)
        results = run_tuning(loaded, records, plan, folder, report=options.report, progress=options.progress)
        results.save(folder)
        sets = {seed: records.limited(*plan.limits, seed=seed) for seed in plan.seeds}
        save_tuned(folder, place_of(model) if isinstance(model, str) else None, sets)
        for name in DRAWN:
            remove_file(folder / name)
        place.begin(about)
        if options.finish is not None:
            options.finish(results, records.limited(*plan.limits), folder)
    return results


def _described(records: RecordSet) -> str:
    return (
        f"{records.name} for {records.task}: {len(records.train)} training, {len(records.val)} validation and "
        f"{len(records.test)} test records"
    )


def about_plan(plan: TuningPlan, records: RecordSet, loaded: GenerativeModel | None = None) -> About:
    """What a run of ``plan`` writes into its folder: all but methods and seeds, which may be joined by others."""
    settings = {
        "task": records.task,
        "training": plan.train.train_fields(),
        "lr": plan.lr,
        "options": plan.options.as_dict(),
        "limits": plan.limits,
    }
    model = None if loaded is None else task_model(loaded).fingerprint()
    return About("tune", records.name, records.split_hash, encoder=model, settings=plain(settings))


def claim(place: Place, about: About, plan: TuningPlan, overwrite: bool) -> bool:
    """:meth:`Place.claim_results` for a tuning run; raises what it raises."""

    def lost() -> list[str]:
        cells = TuningResults.load(place.folder).cells
        return [
            f"{cell.method} at seed {cell.seed}"
            for cell in cells
            if cell.method not in plan.methods or cell.seed not in plan.seeds
        ]

    return place.claim_results(about, overwrite, (*RESULTS, *DRAWN), lost)


def plan_of(options: TuneOptions) -> TuningPlan:
    return TuningPlan(
        methods=(options.methods,) if isinstance(options.methods, str) else options.methods,
        seeds=range(options.seeds),
        train=TrainConfig(epochs=options.epochs, batch_size=options.batch_size),
        lr=options.lr,
        options=TaskOptions.make(options.settings or {}),
        limits=(options.train_limit, options.val_limit, options.test_limit),
    )


def check_model(name: str) -> None:
    """Raise :class:`InputError` unless ``name`` looks like a model; loads nothing."""
    if name != SMALL:
        try:
            family_named(name)
        except InputError:
            raise InputError(f"model is {name!r}: use {SMALL}, {name_forms()}.") from None


def open_model(options: TuneOptions) -> GenerativeModel:
    """The model that ``options`` names; the small one is trained where it is not there yet."""
    device = backbones.pick_device(options.device)
    return named_model(str(options.model), options.task, device, options.download, options.progress, options.report)
