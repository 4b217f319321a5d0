"""Classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .. import ours, peers
from ..case import OURS, Verdict, case
from ..judge import judged, of_call, of_command
from ..pictures import class_folders, fill

NAME = "Classes"
SEEDS = range(3)

order = case(
    NAME,
    "classes called `01` and `1`, read in processes with different hash seeds",
    "both classes, always in the same order",
    "order of classes of its own",
    "data/test_layouts.py::test_the_order_does_not_depend_on_the_hash_seed",
)


def in_processes(place: Path, code: str) -> tuple[bool, str]:
    """Does ``code`` print the same two names under every hash seed?"""
    printed = set()
    for seed in SEEDS:
        environment = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment,
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(done.stdout.strip())
    return len(printed) == 1 and "01" in str(printed) and "'1'" in str(printed), " or ".join(sorted(printed))


@order.by(OURS)
def _order(place: Path) -> Verdict:
    class_folders(place / "pets", classes=("01", "1"))
    rows = [f"{path.relative_to(place)},{path.parent.name}" for path in sorted(place.rglob("*.png"))]
    (place / "table.csv").write_text("\n".join(["path,label", *rows]))
    return judged(
        *in_processes(
            place, "from vlmadapt.data import load_dataset; print(list(load_dataset('table.csv').class_names))"
        )
    )


@order.by("ImageFolder")
def _order_torchvision(place: Path) -> Verdict:
    class_folders(place / "pets", classes=("01", "1"))
    return judged(
        *in_processes(place, "from torchvision.datasets import ImageFolder; print(ImageFolder('pets').classes)")
    )


@order.by("scikit-learn")
def _order_sklearn(place: Path) -> Verdict:
    return judged(
        *in_processes(
            place,
            "from sklearn.preprocessing import LabelEncoder as E; print(E().fit(['1', '01', '1']).classes_.tolist())",
        )
    )


same = case(
    NAME,
    "two labels with one name (`crane`, the bird and the machine) in a split file",
    "refused, or told apart",
    "class names of its own",
    "data/test_text.py::test_two_labels_of_one_name_are_refused",
)


def cranes(root: Path) -> dict[str, list[list[object]]]:
    rows: list[list[object]] = []
    for label, (folder, name) in enumerate((("bird", "crane"), ("machine", "crane"), ("cat", "cat"))):
        rows += [[str(path.relative_to(root)), label, name] for path in fill(root / folder, label, range(6))]
    return {"train": rows[::3], "val": rows[1::3], "test": rows[2::3]}


@same.by(OURS)
def _same(place: Path) -> Verdict:
    (place / "split_zhou_Cranes.json").write_text(json.dumps(cranes(place)))
    said = ours.command(place, "fit", "split_zhou_Cranes.json", *ours.FAST, "--out", "run")
    return of_command(
        said, ("crane",), lambda: (len(set(ours.read(place / "run" / "run.json")["class_names"])) == 3, "fitted")
    )


@same.by("Tip-Adapter")
def _same_tip(place: Path) -> Verdict:
    peers.tip_split(place, cranes(place / "oxford_pets" / "images"))
    return of_call(
        lambda: peers.tip_dataset(place).classnames,
        ("crane",),
        lambda names: (len(set(names)) == 3, f"classes {names}"),
    )
