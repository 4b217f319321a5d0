"""Folders as people have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import ours, peers
from ..case import CRASH, OURS, Verdict, case
from ..judge import judged, of_call, of_command
from ..pictures import CLASSES, class_folders, fill, picture

NAME = "Folders as people have them"
SPLITS = (
    ("training_set", "test_set"),
    ("seg_train", "seg_test"),
    ("train_images", "test_images"),
    ("Training", "Test Set"),
    ("train", "dev"),
    ("train", "eval"),
)


def split_folders(root: Path, first: str, second: str) -> Path:
    class_folders(root / first, range(8))
    return class_folders(root / second, range(8, 12)).parent


splits = case(
    NAME,
    "splits called `training_set` and `test_set`, `seg_train` and `seg_test`, `Training` and "
    "`Test Set`, `train` and `dev` and the like",
    "three classes; pictures of the first folder train, those of the second do not "
    "(ImageFolder is given each split, as documented)",
    "reading of folders",
    "data/test_layouts.py::test_split_folders_by_whatever_name",
)


@splits.by(OURS)
def _splits(place: Path) -> list[Verdict]:
    import vlmadapt

    def check(dataset: Any) -> tuple[bool, str]:
        trained = {sample.path.parts[-3] for sample in dataset.train}
        others = {sample.path.parts[-3] for sample in (*dataset.val, *dataset.test)} - trained
        return dataset.class_names == CLASSES and trained == {first} and second in others, f"train {trained}"

    found = []
    for first, second in SPLITS:
        root = split_folders(place / first / second, first, second)
        found.append(of_call(lambda: vlmadapt.load_dataset(root), (first, second), check, f"{first}, {second}"))
    return found


@splits.by("ImageFolder")
def _splits_torchvision(place: Path) -> list[Verdict]:
    found = []
    for first, second in SPLITS:
        root = split_folders(place / first / second, first, second)
        for name, wanted in ((first, 24), (second, 12)):
            check = lambda seen, wanted=wanted: (seen == ([*CLASSES], wanted), str(seen))
            found.append(of_call(lambda: peers.read_all(root / name), (name,), check, name))
    return found


@splits.by("CLIP_benchmark")
def _splits_clip(place: Path) -> Verdict:
    root = split_folders(place / "pets", "training_set", "test_set")
    return of_call(lambda: evaluated(place, root / "test_set"), (), lambda seen: (seen == ([*CLASSES], 12), str(seen)))


def evaluated(place: Path, classes: Path) -> tuple[list[str], int]:
    """Class names of CLIP_benchmark's set, and the pictures it evaluated."""
    import sklearn.metrics
    from clip_benchmark.metrics import zeroshot_classification

    counts: list[int] = []

    def counting(target: Any, pred: Any) -> float:
        counts.append(len(target))
        return float(sklearn.metrics.balanced_accuracy_score(target, pred))

    zeroshot_classification.balanced_accuracy_score = counting
    root = peers.convert(classes, place / "converted")
    peers.clip_benchmark(root, place / "m")
    return (root / "classnames.txt").read_text().splitlines(), counts[0]


def beside_unlabelled(root: Path) -> Path:
    class_folders(root / "train")
    fill(root / "unlabelled", 0, range(20, 26))
    return root


def flat_test(root: Path) -> Path:
    class_folders(root / "train", range(8))
    class_folders(root / "val", range(8, 12))
    fill(root / "test", 0, range(20, 26))
    return root


def with_annotations(root: Path) -> Path:
    split_folders(root, "train", "test")
    (root / "annotations").mkdir()
    (root / "annotations" / "list.txt").write_text("cat 1\n")
    return root


def masks(root: Path) -> Path:
    split_folders(root, "train", "test")
    fill(root / "annotations" / "trimaps", 1, range(4))
    return root


BESIDE: dict[str, Callable[[Path], Path]] = {
    "train beside unlabelled": beside_unlabelled,
    "train, val and a flat test": flat_test,
    "train, test, annotations": with_annotations,
    "train, test, annotations with pictures": masks,
}

beside = case(
    NAME,
    "something beside the splits: unlabelled pictures, a test folder without class folders, annotations",
    "three classes, and `fit` works (ImageFolder: `train` is read)",
    "reading of folders",
    "data/test_layouts.py::test_train_beside_folders_without_labels_is_split_by_seed",
    "data/test_layouts.py::test_folders_beside_splits_are_named",
    "data/test_layouts.py::test_a_flat_split_is_left_out_and_the_rest_is_fitted",
)


@beside.by(OURS)
def _beside(place: Path) -> list[Verdict]:
    found = []
    for number, (what, make) in enumerate(BESIDE.items()):
        run = place / f"run{number}"
        said = ours.command(place, "fit", make(place / str(number) / "pets"), *ours.FAST, "--out", run)
        check = lambda run=run: (ours.read(run / "run.json")["class_names"] == [*CLASSES], "fitted")
        found.append(of_command(said, ("unlabelled", "test", "annotations"), check, what))
    return found


@beside.by("ImageFolder")
def _beside_torchvision(place: Path) -> list[Verdict]:
    roots = {what: make(place / str(number)) for number, (what, make) in enumerate(BESIDE.items())}
    return [
        of_call(lambda: peers.read_all(root / "train")[0], (), lambda seen: (seen == [*CLASSES], str(seen)), what)
        for what, root in roots.items()
    ]


@beside.by("CLIP_benchmark")
def _beside_clip(place: Path) -> list[Verdict]:
    found = []
    for number, (what, make) in enumerate(BESIDE.items()):
        root, work = make(place / str(number)), place / f"work{number}"
        work.mkdir()
        found.append(
            of_call(lambda: evaluated(work, root / "train")[0], (), lambda seen: (seen == [*CLASSES], str(seen)), what)
        )
    return found


inside = case(
    NAME,
    "`cd pets`, a run with its results in the default place, then the same again",
    "the second run still has three classes, or the first was refused",
    "results in files",
    "cli/test_folders.py::test_output_inside_the_data_is_refused_before_the_work",
    "data/test_layouts.py::test_folders_we_wrote_are_left_out",
)


@inside.by(OURS)
def _inside(place: Path) -> list[Verdict]:
    import vlmadapt

    found = []
    for command in (
        ("fit", ".", *ours.FAST),
        ("compare", ".", "--adapters", "zero-shot", "--shots", "1", "--seeds", "1"),
    ):
        data = class_folders(place / command[0] / "pets")
        for _ in range(2):
            said = ours.command(place, *command, cwd=data)
        classes = vlmadapt.load_dataset(data).class_names
        check = lambda classes=classes: (classes == CLASSES, f"classes {classes}")
        verdict = of_command(said, ("inside the data",), check, f"{command[0]} .")
        found.append(verdict if classes == CLASSES else judged(False, f"classes {classes}", verdict.of))
    return found


@inside.by("CLIP_benchmark")
def _inside_clip(place: Path) -> Verdict:
    import os

    data = class_folders(place / "pets")
    os.chdir(data)

    def twice() -> list[str]:
        peers.clip_benchmark(peers.convert(Path("."), place / "w1"), place / "m")
        return evaluated(place, Path("."))[0]

    return of_call(twice, (), lambda seen: (seen == [*CLASSES], str(seen)))


spelling = case(
    NAME,
    "fitted on folders `1`, `2`, `10` or `road_sign`, evaluated on a table whose labels are "
    "`10`, `1`, `2` or `road sign`",
    "classes are matched by name: all pictures evaluated, accuracy as on the folders",
    "reading of tables",
    "data/test_layouts.py::test_numbers_as_folders_and_as_labels_are_the_same_classes",
    "data/test_layouts.py::test_underscores_are_read_alike_in_folders_and_tables",
    "experiments/test_leaks.py::test_classes_are_matched_by_name",
)


@spelling.by(OURS)
def _spelling(place: Path) -> list[Verdict]:
    found = []
    for names in (("1", "2", "10"), ("road_sign", "bus_stop", "kerb")):
        base = place / names[0]
        run = ours.fit(place, class_folders(base / "fitted", classes=names), f"run-{names[0]}")
        other = class_folders(base / "other", range(20, 32), names)
        rows = [
            f"{path.relative_to(base)},{path.parent.name.replace('_', ' ')}"
            for path in sorted(other.rglob("*.png"), reverse=True)
        ]
        (base / "table.csv").write_text("\n".join(["path,label", *rows]))
        said = ours.command(place, "eval", run, base / "table.csv", "--out", base / "out")
        direct = ours.command(place, "eval", run, other, "--out", base / "direct")

        def check(base: Path = base) -> tuple[bool, str]:
            one, two = (ours.read(base / name / "results.json") for name in ("out", "direct"))
            same = ours.accuracies(base / "out") == ours.accuracies(base / "direct")
            return same and one["dataset"]["test"] == two["dataset"]["test"] == 36, f"{one['dataset']['test']} pictures"

        verdict = of_command(said, names, check, ", ".join(names))
        found.append(verdict if direct.code == 0 else Verdict(CRASH, "the folder", direct.code, direct.last))
    return found


endings = case(
    NAME,
    "pictures ending in .JPG, .jfif, .jpe, .avif, nothing at all, and one .heic that cannot be read, in each class",
    "the ten that can be read are read, and the others are named or counted",
    "reading of pictures by name",
    "data/test_layouts.py::test_endings_that_are_read_and_counted",
    "pictures/test_identity.py::test_every_kind_is_known_by_its_ending_and_without",
)


def many_endings(root: Path) -> Path:
    for kind, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number, (ending, form) in enumerate(
            (("a.JPG", "JPEG"), ("b.jfif", "JPEG"), ("c.jpe", "JPEG"), ("d.avif", "AVIF"), ("e", "PNG"))
        ):
            picture(kind, number).save(root / name / ending, format=form)
        (root / name / "f.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(400))
    return root


@endings.by(OURS)
def _endings(place: Path) -> Verdict:
    import vlmadapt

    def check(dataset: Any) -> tuple[bool, str]:
        said = " ".join((*dataset.notes, *dataset.doubts))
        count = len([*dataset.train, *dataset.val, *dataset.test])
        return (
            count == 10 and "heic" in said,
            f"{count} of 10 pictures; heic {'named' if 'heic' in said else 'not named'}",
        )

    return of_call(lambda: vlmadapt.load_dataset(many_endings(place / "pets")), (), check)


@endings.by("ImageFolder")
def _endings_torchvision(place: Path) -> Verdict:
    root = many_endings(place / "pets")
    return of_call(
        lambda: peers.read_all(root), ("heic", "avif"), lambda seen: (seen[1] == 10, f"{seen[1]} of 10 pictures")
    )


@endings.by("CLIP_benchmark")
def _endings_clip(place: Path) -> Verdict:
    root = many_endings(place / "pets")
    return of_call(
        lambda: evaluated(place, root), ("heic", "avif"), lambda seen: (seen[1] == 10, f"{seen[1]} of 10 pictures")
    )


@endings.by("Tip-Adapter")
def _endings_tip(place: Path) -> Verdict:
    """Its data sets list every picture: so does the split file here."""
    root = many_endings(place / "oxford_pets" / "images")
    rows = [
        [str(path.relative_to(root)), int(path.parent.name == "dog"), path.parent.name]
        for path in sorted(root.rglob("*.*"))
    ]
    peers.tip_split(place, {"train": rows, "val": rows, "test": rows})
    dataset = peers.tip_dataset(place)
    from datasets.utils import DatasetWrapper

    return of_call(
        lambda: [DatasetWrapper(dataset.test, 32, transform=lambda x: x)[i] for i in range(len(rows))],
        ("heic",),
        lambda seen: (len(seen) >= 10, f"{len(seen)} pictures"),
    )


domains = case(
    NAME,
    "folders of domains that hold the same classes (`photo/dog`, `sketch/dog`)",
    "the classes of one domain can be read; the folder around them is not taken for four "
    "classes without a word where it may be given",
    "reading of folders",
    "data/test_layouts.py::test_domains_are_noticed",
    "data/test_layouts.py::test_one_domain_trains_and_tests",
)


def domain_folders(root: Path) -> Path:
    for number, name in enumerate(("photo", "art", "cartoon", "sketch")):
        class_folders(root / name, range(10 * number, 10 * number + 6), ("cat", "dog"))
    return root


@domains.by(OURS)
def _domains(place: Path) -> Verdict:
    import vlmadapt

    root = domain_folders(place / "pacs")

    def check(pair: Any) -> tuple[bool, str]:
        doubted = any("domain" in doubt for doubt in pair[0].doubts)
        return doubted and pair[1].class_names == ("cat", "dog"), f"doubted: {doubted}; photo: {pair[1].class_names}"

    return of_call(
        lambda: (vlmadapt.load_dataset(root), vlmadapt.load_dataset(root, domain="photo")), ("domain",), check
    )


@domains.by("ImageFolder")
def _domains_torchvision(place: Path) -> Verdict:
    root = domain_folders(place / "pacs")
    return of_call(lambda: peers.read_all(root / "photo"), (), lambda seen: (seen == (["cat", "dog"], 12), str(seen)))


@domains.by("CLIP_benchmark")
def _domains_clip(place: Path) -> Verdict:
    root = domain_folders(place / "pacs")
    return of_call(lambda: evaluated(place, root / "photo"), (), lambda seen: (seen == (["cat", "dog"], 12), str(seen)))


outside = case(
    NAME,
    "a fitted classifier evaluated on another folder, without splits",
    "all 54 pictures of it are evaluated",
    "evaluation of a folder",
    "cli/test_outside.py::test_data_without_splits_are_evaluated_whole",
)


@outside.by(OURS)
def _outside(place: Path) -> Verdict:
    run = ours.fit(place, class_folders(place / "pets"))
    said = ours.command(place, "eval", run, class_folders(place / "more", range(40, 58)), "--out", "out")
    count = lambda: ours.read(place / "out" / "results.json")["dataset"]["test"]
    return of_command(said, (), lambda: (count() == 54, f"{count()} pictures"))


@outside.by("CLIP_benchmark")
def _outside_clip(place: Path) -> Verdict:
    root = class_folders(place / "more", range(40, 58))
    return of_call(lambda: evaluated(place, root), (), lambda seen: (seen[1] == 54, f"{seen[1]} pictures"))


@outside.by("ImageFolder")
def _outside_torchvision(place: Path) -> Verdict:
    root = class_folders(place / "more", range(40, 58))
    return of_call(lambda: peers.read_all(root), (), lambda seen: (seen[1] == 54, f"{seen[1]} pictures"))
