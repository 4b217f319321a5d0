"""Leakage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .. import ours, peers
from ..case import OURS, Verdict, case
from ..judge import of_call, of_command
from ..pictures import CLASSES, class_folders

NAME = "Pictures that were fitted on"

copied = case(
    NAME,
    "fit; the data are copied, moved, or copied under other file names; the classifier is evaluated on that",
    "refused, or none of the evaluated pictures is one that was fitted on",
    "record of the pictures of a fit",
    "experiments/test_leaks.py::test_fitted_pictures_in_other_data_are_refused",
    "experiments/test_leaks.py::test_a_copy_of_the_data_is_evaluated_as_the_data",
)


def renamed(data: Path, to: Path) -> None:
    shutil.copytree(data, to)
    for number, path in enumerate(sorted(to.rglob("*.png"))):
        path.rename(path.with_name(f"x{(number * 7919) % 1000:03}.png"))


MOVES: dict[str, Any] = {"cp -r": shutil.copytree, "mv": shutil.move, "other names": renamed}


@copied.by(OURS)
def _copied(place: Path) -> list[Verdict]:
    found = []
    for what, move in MOVES.items():
        base = place / what.replace(" ", "")
        data = class_folders(base / "pets")
        run = ours.fit(place, data, f"run-{base.name}")
        by_content = {path.read_bytes(): path.relative_to(data) for path in data.rglob("*.png")}
        fitted = {
            Path(row[0]) for part in ("support", "validation") for row in ours.read(run / "run.json").get(part, [])
        }
        move(data, base / "moved")
        said = ours.command(place, "eval", run, base / "moved", "--out", base / "out")

        def check(base: Path = base, by_content: Any = by_content, fitted: Any = fitted) -> tuple[bool, str]:
            import vlmadapt

            tested = [by_content[sample.path.read_bytes()] for sample in vlmadapt.load_dataset(base / "moved").test]
            twice = len(fitted & set(tested))
            count = ours.read(base / "out" / "results.json")["dataset"]["test"]
            return twice == 0 and len(fitted) == 12 and count == len(
                tested
            ), f"{twice} of {count} pictures were fitted on"

        found.append(of_command(said, ("fitted",), check, what))
    return found


split_file = case(
    NAME,
    "one picture in the training and the test list of a split file or a table, once written `dog/../cat/000.png`",
    "refused, or said where results are made",
    "reading of lists",
    "experiments/test_leaks.py::test_a_path_in_two_splits_is_warned_of_at_loading",
    "experiments/test_leaks.py::test_a_picture_in_two_splits_of_the_data_is_warned_of",
)


def rows_with_one_twice(root: Path) -> dict[str, list[list[Any]]]:
    parts: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    for path in sorted(root.rglob("*.png")):
        number = int(path.stem)
        part = "train" if number < 6 else "val" if number < 9 else "test"
        parts[part].append([str(path.relative_to(root)), CLASSES.index(path.parent.name), path.parent.name])
    parts["test"].append(["cat/000.png", 0, "cat"])
    return parts


@split_file.by(OURS)
def _split_file(place: Path) -> list[Verdict]:
    root = class_folders(place / "pets")
    parts = rows_with_one_twice(root)
    (root / "split_zhou_Pets.json").write_text(json.dumps(parts))
    parts["test"][-1][0] = "dog/../cat/000.png"
    table = [f"{path},{name},{part}" for part, rows in parts.items() for path, _, name in rows]
    (root / "pets.csv").write_text("\n".join(["path,label,split", *table]))
    found = []
    for file in ("split_zhou_Pets.json", "pets.csv"):
        said = ours.command(
            place,
            "compare",
            root / file,
            "--adapters",
            "zero-shot",
            "--shots",
            "1",
            "--seeds",
            "1",
            "--out",
            file + ".out",
        )
        check = lambda said=said: ("000.png" in said.err and "train and test" in said.err, said.err.splitlines()[0])
        found.append(of_command(said, ("000.png",), check, file))
    return found


@split_file.by("Tip-Adapter")
def _split_file_tip(place: Path) -> Verdict:
    root = class_folders(place / "oxford_pets" / "images")
    peers.tip_split(place, rows_with_one_twice(root))

    def read() -> tuple[int, str]:
        import contextlib
        import io

        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            dataset = peers.tip_dataset(place)
        return len({item.impath for item in dataset.train_x} & {item.impath for item in dataset.test}), said.getvalue()

    return of_call(read, ("000",), lambda seen: ("000" in seen[1], "not said"))
