"""Text and file names."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .. import ours, peers
from ..case import OURS, Verdict, case
from ..child import Said
from ..judge import of_call, of_command
from ..pictures import CLASSES, class_folders
from .s02_folders import evaluated

NAME = "Text and file names"
LATIN = os.fsdecode(b"caf\xe9")

latin = case(
    NAME,
    "a picture, or the folder of a class, whose name has a byte that is not UTF-8",
    "read like the others, or refused before any work with the name shown escaped",
    "reading of folders",
    "data/test_layouts.py::test_names_of_other_bytes_are_refused_and_shown",
)


def latin_folders(place: Path) -> dict[str, tuple[Path, int]]:
    """What: the data and how many pictures they have."""
    file, folder = class_folders(place / "file"), class_folders(place / "folder", classes=("cat", "dog", LATIN))
    (file / "cat" / "000.png").rename(file / "cat" / f"{LATIN}.png")
    return {"file": (file, 36), "folder": (folder, 36)}


@latin.by(OURS)
def _latin(place: Path) -> list[Verdict]:
    found = []
    for what, (data, _) in latin_folders(place).items():
        said = ours.command(place, "fit", data, *ours.FAST, "--out", f"run-{what}")
        found.append(of_command(said, ("caf\\xe9", "caf\\udce9"), lambda: (True, "fitted"), what))
    return found


@latin.by("ImageFolder")
def _latin_torchvision(place: Path) -> list[Verdict]:
    return [
        of_call(
            lambda: peers.read_all(data),
            (),
            lambda seen: (seen[1] == count and len(seen[0]) == 3, f"{seen[1]} pictures"),
            what,
        )
        for what, (data, count) in latin_folders(place).items()
    ]


@latin.by("CLIP_benchmark")
def _latin_clip(place: Path) -> list[Verdict]:
    found = []
    for what, (data, count) in latin_folders(place).items():
        work = place / f"work-{what}"
        work.mkdir()
        check = lambda seen, count=count: (seen[1] == count and len(seen[0]) == 3, f"{seen[1]} pictures")
        found.append(of_call(lambda: evaluated(work, data), ("caf\\xe9", "caf\\udce9"), check, what))
    return found


def rows_of(root: Path) -> dict[str, list[list[Any]]]:
    paths = sorted(root.rglob("*.png"))
    rows = [[str(path.relative_to(root)), CLASSES.index(path.parent.name), f"{path.parent.name} é"] for path in paths]
    return {"train": rows[::3], "val": rows[1::3], "test": rows[2::3]}


ENCODED = {
    "UTF-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "Latin-1": lambda text: text.encode("latin-1"),
}
encoded = case(
    NAME,
    "a split file in UTF-8 with a byte order mark, in UTF-16, in Latin-1",
    "read, class names whole, or refused with the file named",
    "split files",
    "data/test_text.py::test_every_unicode_encoding_is_read",
    "data/test_text.py::test_other_encodings_are_one_sentence",
)


@encoded.by(OURS)
def _encoded(place: Path) -> list[Verdict]:
    import vlmadapt

    root, found = class_folders(place / "pets"), []
    text = json.dumps(rows_of(root), ensure_ascii=False)
    for what, encode in ENCODED.items():
        path = root / "split_zhou_Pets.json"
        path.write_bytes(encode(text))
        check = lambda dataset: (
            dataset.class_names == tuple(f"{name} é" for name in CLASSES),
            str(dataset.class_names),
        )
        found.append(of_call(lambda: vlmadapt.load_dataset(path), (path.name,), check, what))
    return found


@encoded.by("Tip-Adapter")
def _encoded_tip(place: Path) -> list[Verdict]:
    """Naming the mark counts as naming what is at fault."""
    root, found = class_folders(place / "oxford_pets" / "images"), []
    text = json.dumps(rows_of(root), ensure_ascii=False)
    for what, encode in ENCODED.items():
        path = place / "oxford_pets" / "split_zhou_OxfordPets.json"
        path.write_bytes(encode(text))
        check = lambda names: (sorted(names) == [f"{name} é" for name in CLASSES], str(names))
        found.append(of_call(lambda: peers.tip_dataset(place).classnames, (path.name, "BOM"), check, what))
    return found


ascii_only = case(
    NAME,
    "results printed to an output that takes ASCII only (PYTHONIOENCODING=ascii), class names `café`, `naïf`",
    "printed with replacements, results files complete",
    "printed class names",
    "cli/test_console.py::test_a_table_is_printed_in_any_encoding_and_the_files_are_the_same",
)
WORDS = ("café", "naïf")


def ascii_process(place: Path, code: str) -> Said:
    folders = os.pathsep.join([*sys.path, str(Path(__file__).resolve().parents[3])])
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": folders, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=place, capture_output=True)
    return Said(done.returncode, *(part.decode(errors="backslashreplace") for part in (done.stdout, done.stderr)))


@ascii_only.by(OURS)
def _ascii_only(place: Path) -> Verdict:
    data = class_folders(place / "wörld", classes=WORDS)
    arguments = [
        "compare",
        str(data),
        "--adapters",
        f"zero-shot,{ours.QUICK}",
        "--shots",
        "1",
        "--seeds",
        "2",
        "--out",
        "out",
    ]
    said = ascii_process(place, f"import sys; sys.argv[1:] = {arguments!a}; from vlmadapt.cli import main; main()")
    check = lambda: (
        len(ours.read(place / "out" / "results.json")["cells"]) == 4 and "tip-adapter" in said.out,
        "printed and written",
    )
    return of_command(said, (), check)


@ascii_only.by("CLIP_benchmark")
def _ascii_only_clip(place: Path) -> Verdict:
    data = class_folders(place / "wörld", classes=WORDS)
    code = (
        "from pathlib import Path; from scripts.robustness import peers; "
        f"peers.clip_benchmark(peers.convert(Path({str(data)!a}), Path('w')), Path('m'), '--output', 'r.json')"
    )
    said = ascii_process(place, code)
    return of_command(said, (), lambda: ("acc1" in ours.read(place / "r.json")["metrics"], "written"))


turned = case(
    NAME,
    "a photo that its EXIF entry turns by a quarter",
    "read as people see it: upright",
    "reading of pictures",
    "pictures/test_read.py::test_exif_orientation_is_applied",
    "pictures/test_both_ways.py::test_a_path_and_an_opened_picture_are_read_as_a_person_sees_them",
)


def turned_photo(folder: Path) -> Path:
    """Upright it is 40 x 60: red above blue."""
    from PIL import Image

    folder.mkdir(parents=True)
    picture = Image.new("RGB", (40, 60), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 30, 40, 60))
    exif = picture.getexif()
    exif[274] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "photo.jpg", exif=exif, quality=95)
    return folder / "photo.jpg"


def upright(picture: Any) -> tuple[bool, str]:
    top, bottom = picture.getpixel((20, 10)), picture.getpixel((20, picture.height - 10))
    return picture.size == (40, 60) and top[0] > 200 > 50 > bottom[0], f"{picture.width} x {picture.height}"


@turned.by(OURS)
def _turned(place: Path) -> Verdict:
    from vlmadapt.pictures.read import read

    return of_call(lambda: read(turned_photo(place / "cat")), (), upright)


@turned.by("ImageFolder")
def _turned_torchvision(place: Path) -> Verdict:
    turned_photo(place / "pets" / "cat")
    return of_call(lambda: peers.image_folder(place / "pets")[0][0], (), upright)


@turned.by("CLIP_benchmark")
def _turned_clip(place: Path) -> Verdict:
    from clip_benchmark.datasets.builder import build_dataset

    turned_photo(place / "pets" / "cat")

    def first() -> Any:
        root = str(peers.convert(place / "pets", place / "w"))
        return next(
            iter(build_dataset("wds/pets", root, transform=lambda x: x, split="test", task="zeroshot_classification"))
        )[0]

    return of_call(first, (), upright)


@turned.by("Tip-Adapter")
def _turned_tip(place: Path) -> Verdict:
    peers.tip_adapter()
    from datasets.utils import read_image

    return of_call(lambda: read_image(str(turned_photo(place / "cat"))), (), upright)
