"""The eleven few-shot benchmarks in the folder layout published with CoOp (arXiv 2109.01134), as one table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vlmadapt.data.coop import read_coop_split
from vlmadapt.data.listing import require_files
from vlmadapt.data.names import class_name_of
from vlmadapt.data.splitting import carve_val
from vlmadapt.data.templates import templates_for
from vlmadapt.data.types import Dataset, Parts, Sample
from vlmadapt.data.walk import list_images
from vlmadapt.errors import FileError
from vlmadapt.files import read_text


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's files lie below ``root``; ``layout`` says which reader they need."""

    title: str
    folder: str
    images: str
    split_file: str | None = None
    layout: str = "coop"
    aliases: tuple[str, ...] = ()

    def required(self) -> list[str]:
        """Files and folders that must exist, relative to the data root."""
        own = {
            "coop": [self.split_file or ""],
            "aircraft": ["variants.txt", *(f"images_variant_{split}.txt" for split in ("train", "val", "test"))],
            "imagenet": ["classnames.txt", "images/train", "images/val"],
        }[self.layout]
        images = [] if self.layout == "imagenet" else [self.images]
        return [str(Path(self.folder, entry)) for entry in [*images, *own]]


BENCHMARKS: dict[str, Benchmark] = {
    "imagenet": Benchmark("ImageNet", "imagenet", "images", layout="imagenet"),
    "caltech101": Benchmark(
        "Caltech101", "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", aliases=("caltech",)
    ),
    "oxfordpets": Benchmark("OxfordPets", "oxford_pets", "images", "split_zhou_OxfordPets.json", aliases=("pets",)),
    "stanfordcars": Benchmark("StanfordCars", "stanford_cars", ".", "split_zhou_StanfordCars.json", aliases=("cars",)),
    "flowers102": Benchmark(
        "Flowers102", "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", aliases=("oxfordflowers", "flowers")
    ),
    "food101": Benchmark("Food101", "food-101", "images", "split_zhou_Food101.json", aliases=("food",)),
    "fgvcaircraft": Benchmark(
        "FGVCAircraft", "fgvc_aircraft", "images", layout="aircraft", aliases=("aircraft", "fgvc")
    ),
    "sun397": Benchmark("SUN397", "sun397", "SUN397", "split_zhou_SUN397.json", aliases=("sun",)),
    "dtd": Benchmark("DTD", "dtd", "images", "split_zhou_DescribableTextures.json", aliases=("describabletextures",)),
    "eurosat": Benchmark("EuroSAT", "eurosat", "2750", "split_zhou_EuroSAT.json"),
    "ucf101": Benchmark("UCF101", "ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", aliases=("ucf",)),
}


def find_benchmark(name: str) -> str | None:
    """The table's key for ``name`` (case, hyphens and underscores do not matter; aliases count), or None."""
    plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    for key, benchmark in BENCHMARKS.items():
        if plain == key or plain in benchmark.aliases:
            return key
    return None


def missing_files(name: str, root: str | Path) -> list[Path]:
    """What of a benchmark's layout is not below ``root``."""
    return [path for entry in BENCHMARKS[name].required() if not (path := Path(root) / entry).exists()]


def load_benchmark(name: str, root: str | Path, seed: int = 0, check_files: bool = True) -> Dataset:
    """Load one of ``BENCHMARKS`` from the folder that holds all of them.

    Class names, splits and label order are those of the published files. ImageNet has no validation split of its
    own: a fifth of each training class (by ``seed``) becomes one, and its 50,000 ``val`` pictures are the test
    split. Raises :class:`FileError` naming what is missing.
    """
    benchmark = BENCHMARKS[name]
    missing = missing_files(name, root)
    if missing:
        others = "" if len(missing) == 1 else f" (and {len(missing) - 1} more: see `vlmadapt data check`)"
        raise FileError(
            f"{benchmark.title} needs {missing[0]}{others}, which is not there: put it there or correct root."
        )
    folder = Path(root) / benchmark.folder
    if benchmark.layout == "imagenet":
        return _imagenet(name, folder, seed)
    if benchmark.layout == "aircraft":
        return _aircraft(name, folder, check_files)
    return read_coop_split(
        folder / str(benchmark.split_file),
        folder / benchmark.images,
        name=name,
        templates=templates_for(name),
        seed=seed,
        check_files=check_files,
    )


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _aircraft(name: str, folder: Path, check_files: bool) -> Dataset:
    """``images_variant_<split>.txt`` holds lines ``<picture number> <variant>``; the order is that of variants.txt."""
    variants = _lines(folder / "variants.txt")
    index = {variant: label for label, variant in enumerate(variants)}
    parts: Parts = {}
    for split in ("train", "val", "test"):
        listing = folder / f"images_variant_{split}.txt"
        samples = []
        for number, line in enumerate(_lines(listing), start=1):
            picture, _, variant = line.partition(" ")
            if variant not in index:
                raise FileError(f"{listing} line {number} names the variant {variant!r}, which variants.txt lacks.")
            samples.append(Sample(folder / "images" / f"{picture}.jpg", index[variant]))
        parts[split] = tuple(samples)
        if check_files:
            require_files(listing, samples)
    return Dataset(
        name=name,
        class_names=tuple(class_name_of(variant) for variant in variants),
        templates=templates_for(name),
        root=folder,
        **parts,
    )


def _imagenet(name: str, folder: Path, seed: int) -> Dataset:
    """``classnames.txt`` holds lines ``<wnid> <class name>``; labels follow the sorted wnids."""
    entries = sorted(line.partition(" ")[::2] for line in _lines(folder / "classnames.txt"))
    parts: Parts = {}
    for split, source in (("train", "train"), ("test", "val")):
        samples: list[Sample] = []
        for label, (wnid, _) in enumerate(entries):
            class_folder = folder / "images" / source / wnid
            if class_folder.is_dir():
                samples += [Sample(path, label) for path in list_images(class_folder)]
        parts[split] = tuple(samples)
    parts["train"], parts["val"] = carve_val(parts["train"], folder, seed)
    return Dataset(
        name=name,
        class_names=_told_apart(entries),
        templates=templates_for(name),
        root=folder,
        **parts,
    )


def _told_apart(entries: list[tuple[str, str]]) -> tuple[str, ...]:
    """Class names of (wnid, class name); a name that several classes share is followed by the wnid of each."""
    names = [class_name_of(class_name) for _, class_name in entries]
    count = Counter(names)
    return tuple(
        f"{name} ({wnid})" if count[name] > 1 else name for name, (wnid, _) in zip(names, entries, strict=True)
    )
