"""Run the cases and write ``docs/robustness.json`` and ``docs/robustness.md``.

    python -m scripts.robustness --peer tip-adapter=FOLDER [--peer clip-benchmark=FOLDER] [--only WORDS ...]

A folder of CLIP_benchmark is one that ``pip install --target`` made; Tip-Adapter's is a clone of its repository. Cells
of peers that are not given keep what the JSON has. ``--page`` only draws the page.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from .case import COLUMNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--only", nargs="*", default=[], help="cases that hold one of these words")
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--page", action="store_true", help="only draw the page from the JSON")
    options = parser.parse_args()
    from . import page

    if not options.page:
        os.environ["OMP_NUM_THREADS"] = "1"
        folders = dict(pair.split("=", 1) for pair in options.peer)
        if "clip-benchmark" in folders:
            sys.path.insert(1, str(Path(folders.pop("clip-benchmark")).resolve()))
        from . import peers, run

        if "tip-adapter" in folders:
            peers.FOLDERS["Tip-Adapter"] = Path(folders.pop("tip-adapter")).resolve()
        if folders:
            parser.error(f"--peer knows tip-adapter and clip-benchmark, not {', '.join(folders)}")
        with tempfile.TemporaryDirectory() as place:
            faults = run.run(Path(place), options.columns.split(","), options.only)
        if faults:
            print("at fault themselves, so without a result:", *faults, sep="\n  ", file=sys.stderr)
    page.write()
    if not options.page and faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
