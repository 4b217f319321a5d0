"""Picture and name pairs from permissively licensed emoji sets (npm packages ``@iconify-json/*``)."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image

from vlmadapt.files import read_json
from vlmadapt.pictures import decode
from vlmadapt.progress import track

# Pinned, so that the same seed gives the same heads; licences are read from the packages and checked.
SETS = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "fxemoji": "1.2.2",
    "streamline-emojis": "1.2.4",
}
PERMISSIVE = {"Apache-2.0", "MIT", "CC-BY-4.0"}
PIXELS = 256
TONES = r"-(?:(?:light|medium-light|medium|medium-dark|dark)(?:-skin-tone)?|tone\d)\b"
# Variants of one picture whose names tell nothing more about what is drawn.
CROWDED = ("family-", "couple-with-heart-", "kiss-", "men-holding-hands-", "women-holding-hands-", "letter-")


@dataclass(frozen=True)
class Pair:
    set_name: str
    name: str
    svg: str


@dataclass(frozen=True)
class Picture:
    set_name: str
    name: str
    image: Image.Image


def install(folder: Path) -> None:
    """Fetch the pinned sets with npm into ``folder``; does nothing when they are there."""
    if all((folder / "node_modules" / "@iconify-json" / name / "icons.json").is_file() for name in SETS):
        return
    folder.mkdir(parents=True, exist_ok=True)
    packages = [f"@iconify-json/{name}@{version}" for name, version in SETS.items()]
    subprocess.run(
        ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", *packages],
        check=True,
    )


def read_pairs(folder: Path) -> tuple[list[Pair], dict[str, dict[str, str]]]:
    """All pairs of the sets in ``folder`` (skin tones and crowd variants dropped), and each set's licence record."""
    raw: list[tuple[str, str, str]] = []
    record: dict[str, dict[str, str]] = {}
    for set_name in SETS:
        source = folder / "node_modules" / "@iconify-json" / set_name
        info, icons = read_json(source / "info.json"), read_json(source / "icons.json")
        licence = info["license"]["spdx"]
        if licence not in PERMISSIVE:
            raise SystemExit(f"{set_name} is licensed {licence}, which is not among {sorted(PERMISSIVE)}.")
        record[set_name] = {
            "version": read_json(source / "package.json")["version"],
            "licence": licence,
            "author": info["author"]["name"],
        }
        for key, icon in sorted(icons["icons"].items()):
            base = re.sub(TONES, "", key)
            if (base != key and base in icons["icons"]) or "skin-tone" in key or key.startswith(CROWDED):
                continue
            width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
            raw.append((set_name, key, svg))
    return _with_names(raw), record


def _with_names(raw: list[tuple[str, str, str]]) -> list[Pair]:
    """Icon keys to plain names. ``fxemoji`` writes names as one word: only those known to other sets are kept."""
    keys = {key for set_name, key, _ in raw if set_name != "fxemoji"}
    spelled = {key.replace("-", ""): key for key in sorted(keys)}
    pairs = []
    for set_name, key, svg in raw:
        if set_name == "fxemoji":
            if key not in spelled:
                continue
            key = spelled[key]
        if set_name == "streamline-emojis":  # numbered variants of one name
            key = re.sub(r"-\d$", "", key)
        name = re.sub(r"^flag-(?!in-hole)(?:for-)?(?:flag-)?(.*?)(-flag)?$", r"flag-of-\1\2", key)
        name = re.sub(r"^flag-of-(.*-flag)$", r"\1", name)
        pairs.append(Pair(set_name, name.replace("-", " "), svg))
    return pairs


def render(pairs: list[Pair]) -> list[Picture]:
    """Draw every pair on white, ``PIXELS`` wide; undrawable icons and pictures seen before are left out."""
    pictures, seen, dropped = [], set(), Counter[str]()
    for pair in track(pairs, "drawing emoji"):
        try:
            png = resvg_py.svg_to_bytes(svg_string=pair.svg, width=PIXELS, height=PIXELS, dpi=96)
        except ValueError:
            dropped["undrawable"] += 1
            continue
        image = decode(bytes(png), pair.name)
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        if digest in seen:
            dropped["repeated"] += 1
            continue
        seen.add(digest)
        pictures.append(Picture(pair.set_name, pair.name, image))
    print(f"{len(pictures)} pictures, {len({p.name for p in pictures})} names; left out: {dict(dropped)}")
    return pictures
