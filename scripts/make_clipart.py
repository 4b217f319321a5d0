"""Render the built-in clip-art set from the Debian package ``openclipart-svg``.

    apt-get download openclipart-svg && dpkg -x openclipart-svg_*.deb unpacked
    pip install resvg-py
    python scripts/make_clipart.py unpacked/usr/share/openclipart/svg

Only drawings whose own metadata says "public domain" are used. A folder of the package is a class; links between
folders are resolved, and a drawing that two classes claim goes to the one whose folder holds the real file, or to
neither. Of drawings that look the same in one class one is kept; copies in two classes stay in the smaller class.
The order within a class is a hash of the drawing's path: the output is reproducible.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from vlmadapt.files import write_csv, write_json
from vlmadapt.pictures import decode

OUTPUT = Path(__file__).resolve().parents[1] / "vlmadapt" / "data" / "clipart"
SIDE = 128
MARGIN = 4
QUALITY = 75
MOST_PER_CLASS = 120
TRAIN = 16
VAL = 4
# Two drawings of a class count as the same one when their 32 x 32 thumbnails differ by less than this share of the ink.
SAME_DRAWING = 0.04

# class name -> (folders, "/**" when their subfolders belong to the class too)
CLASSES = {
    "arrow": ["shapes/arrows"],
    "bird": ["animals/birds/**"],
    "boat": ["transportation/boating"],
    "body part": ["people/bodypart"],
    "book": ["education/books"],
    "bread": ["food/breads_and_carbs"],
    "car": ["transportation/vehicles/**"],
    "clock": ["signs_and_symbols/clocks"],
    "clothing": ["people/clothing/**"],
    "computer hardware": ["computer/hardware"],
    "dessert": ["food/desserts"],
    "drink": ["food/beverages/**"],
    "fish": ["animals/fish"],
    "flag": ["signs_and_symbols/flags/**"],
    "flower": ["plants/flowers"],
    "fruit": ["food/fruit"],
    "house": ["buildings/homes"],
    "insect": ["animals/bugs"],
    "jigsaw piece": ["shapes/jigsaw"],
    "mammal": ["animals/mammals/**"],
    "meat": ["food/meats_and_eggs"],
    "musical instrument": ["recreation/music"],
    "office supplies": ["office"],
    "playing card": ["recreation/games/cards/**"],
    "road sign": ["transportation/roadsigns"],
    "smiley": ["people/smilies"],
    "sports equipment": ["recreation/sports"],
    "star": ["shapes/stars"],
    "stick figure": ["people/stickmen"],
    "toy": ["recreation/toys"],
    "weapon": ["tools/weapons"],
    "weather symbol": ["signs_and_symbols/weather"],
}

# Names in folders that hold more than their class. The rest of the folders' own labels is left as it is.
ELSEWHERE = {
    "fish": re.compile("grenade"),
    "fruit": re.compile("grenade"),
    "car": re.compile(
        "air(craft|plane)|plane|wing|rocket|bicicletta|bicycle|cycle|crossroads|curve|vtt|lighthouse|tank|parking|quay"
        "|sledge|ship|trawler|trattore|road_runner"
    ),
}


@dataclass(frozen=True)
class Drawing:
    source: str  # path inside the package, links resolved
    title: str
    author: str
    licence: str
    picture: bytes  # WebP


def list_class(root: Path, folders: list[str]) -> set[Path]:
    found: set[Path] = set()
    for folder in folders:
        base = root / folder.removesuffix("/**")
        found.update(base.rglob("*.svg") if folder.endswith("/**") else base.glob("*.svg"))
    return found


def assign(root: Path) -> dict[str, list[Path]]:
    """Real files of each class, none in two classes."""
    claims: dict[Path, set[str]] = {}
    owners: dict[Path, str] = {}
    for name, folders in CLASSES.items():
        for path in list_class(root, folders):
            if name in ELSEWHERE and ELSEWHERE[name].search(path.name):
                continue
            real = path.resolve()
            claims.setdefault(real, set()).add(name)
            if not path.is_symlink():
                owners[real] = name
    classes: dict[str, list[Path]] = {name: [] for name in CLASSES}
    for real, names in claims.items():
        if real.is_relative_to(root) and (real in owners or len(names) == 1):
            classes[owners.get(real) or next(iter(names))].append(real)
    return {name: sorted(paths) for name, paths in classes.items()}


def local_name(tag: str) -> str:
    return tag.rpartition("}")[2]


def metadata(text: str) -> tuple[str, str, str] | None:
    """(title, author, licence URI) of a drawing, or None where it does not declare the public domain."""
    licences = re.findall(r'<(?:cc:)?license\s+rdf:resource="([^"]*)"', text)
    licence = next((one for one in licences if "publicdomain" in one.lower().replace(" ", "")), None)
    if licence is None or any(one != licence for one in licences):
        return None
    try:
        tree = ET.fromstring(text)
    except ET.ParseError:
        return None
    work = next((node for node in tree.iter() if local_name(node.tag) == "Work"), None)
    if work is None:
        return None

    def first_title(node: ET.Element | None) -> str:
        titles = [] if node is None else [one.text or "" for one in node.iter() if local_name(one.tag) == "title"]
        return " ".join(titles[0].split()) if titles else ""

    children = {local_name(node.tag): node for node in work}
    title = first_title(children.get("title"))
    author = next(
        (found for key in ("creator", "rights", "publisher") if (found := first_title(children.get(key)))), ""
    )
    return title, author or "unknown", licence


def render(path: Path) -> bytes | None:
    """The drawing trimmed, centred on a white square and encoded as WebP; None where it cannot be drawn."""
    import resvg_py

    try:
        # Some drawings give sizes in points or millimetres; without dpi the renderer refuses them.
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), dpi=96, width=2 * SIDE))
    except (ValueError, RuntimeError):
        return None
    page = decode(png, path)
    box = ImageChops.difference(page, Image.new("RGB", page.size, "white")).getbbox()
    if box is None:
        return None
    page = page.crop(box)
    page.thumbnail((SIDE - 2 * MARGIN, SIDE - 2 * MARGIN), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(page, ((SIDE - page.width) // 2, (SIDE - page.height) // 2))
    stream = io.BytesIO()
    square.save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()


def thumbnail_ink(picture: bytes) -> np.ndarray:
    small = decode(picture, "a rendered drawing").resize((32, 32), Image.Resampling.BOX)
    return 255 - np.asarray(small, dtype=np.float32)


def is_same(ink: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(ink - other).sum() < SAME_DRAWING * max(ink.sum(), other.sum()))


def draw_class(root: Path, paths: list[Path]) -> list[Drawing]:
    """Distinct public-domain drawings in an order that depends on nothing but their paths."""
    ordered = sorted(paths, key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    drawings: list[Drawing] = []
    seen: list[np.ndarray] = []
    for path in ordered:
        if len(drawings) == MOST_PER_CLASS:
            break
        declared = metadata(path.read_text(encoding="utf-8", errors="replace"))
        picture = render(path) if declared else None
        if declared is None or picture is None:
            continue
        ink = thumbnail_ink(picture)
        if any(is_same(ink, other) for other in seen):
            continue
        seen.append(ink)
        drawings.append(Drawing(path.relative_to(root).as_posix(), *declared, picture))
    return drawings


def keep_in_smaller_class(classes: dict[str, list[Drawing]]) -> dict[str, list[Drawing]]:
    """Each picture in one class only: of the classes that hold a copy, the one with the fewest drawings."""
    by_size = sorted(classes, key=lambda name: (len(classes[name]), name))
    holder: dict[bytes, str] = {}
    for name in by_size:
        for drawing in classes[name]:
            holder.setdefault(drawing.picture, name)
    return {name: [one for one in drawings if holder[one.picture] == name] for name, drawings in classes.items()}


def split_class(count: int) -> tuple[int, int]:
    """How many of ``count`` drawings go to train and to validation; the rest is the test split."""
    if count < TRAIN + 3:
        raise SystemExit(f"a class has {count} drawings, but {TRAIN} for training and 3 for the rest are needed")
    return TRAIN, min(VAL, (count - TRAIN) // 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("svg_folder", type=Path, help="usr/share/openclipart/svg of the unpacked package")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    root = options.svg_folder.resolve()
    images = options.output / "images"
    shutil.rmtree(images, ignore_errors=True)

    split: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    authors = []
    classes = keep_in_smaller_class({name: draw_class(root, paths) for name, paths in assign(root).items()})
    for label, (name, drawings) in enumerate(classes.items()):
        train, val = split_class(len(drawings))
        folder = images / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for position, drawing in enumerate(drawings):
            part = "train" if position < train else "val" if position < train + val else "test"
            stem = re.sub(r"[^a-z0-9]+", "_", Path(drawing.source).stem.lower()).strip("_")
            file = folder / f"{stem}.webp"
            suffix = 2
            while file.exists():
                file = folder / f"{stem}_{suffix}.webp"
                suffix += 1
            file.write_bytes(drawing.picture)
            relative = file.relative_to(images).as_posix()
            split[part].append((relative, label, name))
            authors.append((relative, drawing.title, drawing.author, drawing.licence, drawing.source))
        print(f"{name:20} {len(drawings):4} drawings: {train} train, {val} val")
    write_json(options.output / "split.json", {part: sorted(rows) for part, rows in split.items()})
    write_csv(options.output / "AUTHORS.csv", ["file", "title", "author", "licence", "source"], sorted(authors))
    size = sum(file.stat().st_size for file in images.rglob("*.webp"))
    print(f"{len(authors)} drawings, {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
