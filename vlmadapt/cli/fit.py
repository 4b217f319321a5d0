"""``vlmadapt fit``: one classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import DataArgument, command
from vlmadapt.experiments.options import FitOptions

if TYPE_CHECKING:
    from vlmadapt.adapters import Auto
    from vlmadapt.classifier import Classifier


@command(FitOptions)
def fit(data: DataArgument, options: FitOptions) -> None:
    """Fit a classifier on a few pictures a class and save it.

    Hyper-parameters and epochs are chosen on validation pictures, by auto on all labelled ones in turn; the test split
    is not read.
    """
    from vlmadapt.experiments import front, sources
    from vlmadapt.experiments.folders import places_of, refuse_inside
    from vlmadapt.provenance.place import hold

    dataset = sources.open_dataset(data, options)
    folder = options.out or Path("runs") / f"{dataset.name}-{options.adapter}-{options.shots}"
    options = replace(options, source=sources.source_of(data, options), report=note, out=folder)
    refuse_inside(data, places_of(options))
    with hold(folder):
        classifier = front.fit.with_options(dataset, options=options)
    report_fit(classifier, folder)


def report_fit(classifier: Classifier, folder: Path) -> None:
    from vlmadapt.adapters import Auto
    from vlmadapt.backbones.given import UNKNOWN
    from vlmadapt.experiments.fit import judged
    from vlmadapt.experiments.protocols import PROTOCOLS
    from vlmadapt.provenance.intervals import NAME, wilson

    run = classifier.run
    accuracy = run.val_accuracy
    on_all = classifier.adapter.trains_on_validation or PROTOCOLS[run.protocol].trains_on_all
    held = "accuracy on pictures held out in turn" if on_all else "validation accuracy"
    none = "no picture could be held out" if on_all else "no validation pictures"
    labels = [label for _, label in (*run.support, *run.validation)]
    number = judged(labels) if on_all else len(run.validation)
    found = none if accuracy is None else f"{held} {100 * accuracy:.1f} % {wilson(accuracy, number)}"
    plural = "s" * (len(run.validation) != 1)
    say(f"{run.method}, {run.shots} shot{'s' * (run.shots > 1)}, seed {run.seed}, {run.protocol}: {found}", "bold")
    also = ", fitted on too" if on_all and run.validation else ""
    say(f"  {len(run.support)} training pictures, {len(run.validation)} validation picture{plural}{also}")
    if accuracy is not None:
        without = len(labels) - number if on_all else 0
        never = f"; {without} more, the only ones of their class, were never held out" if without else ""
        say(f"  [low, high]: of {number} pictures ({NAME}){never}")
    for remark in PROTOCOLS[run.protocol]().remarks((run.shots,)):
        say(f"  {remark}")
    if isinstance(classifier.adapter, Auto):
        _say_mixture(classifier.adapter)
    else:
        chosen = ", ".join(f"{name} {_number(value)}" for name, value in run.selected.items())
        by = "by cross-validation" if on_all else "on validation"
        say(f"  chosen {by} or trained: {chosen or 'nothing'}")
        for name, field in classifier.adapter.at_edges().items():
            low, high, steps = classifier.adapter.searched(field)
            wider = f"--set {field}=[{low / 8:g},{high * 8:g},{steps}]"
            say(f"  {name} is on the edge of what was searched: {wider} looks beyond")
    say(f"  {run.trainable_parameters:,} trained parameters, {run.fit_seconds:.1f} s")
    say(f"saved in {folder}", "green")
    say(f"  vlmadapt eval {folder}")
    if run.encoder.name != UNKNOWN:
        explain = " --explain" if classifier.adapter.explains else ""
        say(f"  vlmadapt predict {folder} PICTURE{explain}")


def _say_mixture(adapter: Auto) -> None:
    shares = sorted(adapter.shares().items(), key=lambda item: -item[1])
    how = "by held-out predictions" if adapter.certainties_ else "in equal parts"
    say(f"  a mixture, {how}: {', '.join(f'{name} {100 * share:.0f} %' for name, share in shares)}")
    if adapter.left_out:
        say(f"  left out, for they cost too much or lack classes or negative prompts: {', '.join(adapter.left_out)}")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
