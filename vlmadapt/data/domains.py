"""Domains above classes, as in photo/dog, sketch/dog: one domain trains, the same one or others test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vlmadapt.data.folder import read_folder
from vlmadapt.data.layout import unwrapped, with_pictures
from vlmadapt.data.names import class_name_of, ordered
from vlmadapt.data.types import SPLITS, Dataset, Parts
from vlmadapt.data.walk import LeftOut
from vlmadapt.errors import InputError, shown

OTHERS = "others"


def read_domain(root: str | Path, domain: str, test_domain: str | None = None, seed: int = 0) -> Dataset:
    """The folder ``root/<domain>`` as a data set of its own, split by ``seed`` as :func:`read_folder` does.

    Its classes are those of all domains together, so that labels and classifiers of one fit the others. With
    ``test_domain``, a folder's name or ``others``, all pictures of that domain, or of all others, are the test split;
    training and validation pictures stay those of ``domain`` alone. Raises :class:`InputError` for a folder without
    domains, or another name.
    """
    place = Path(root)
    if not place.is_dir():
        raise InputError(f"domain is {domain!r}, but {shown(place)} is no folder of domains: leave domain out.")
    place = unwrapped(place, LeftOut())
    folders = {path.name: path for path in with_pictures(place)}
    known = ", ".join(folders) or "none"
    for name, value in (("domain", domain), ("test_domain", test_domain)):
        if value is not None and value not in folders and (name, value) != ("test_domain", OTHERS):
            raise InputError(f"{name} is {value!r}, but the domains of {shown(place)} are {known}: use one of them.")
    sets = {name: read_folder(path, seed) for name, path in folders.items()}
    names = ordered(class_name_of(each) for one in sets.values() for each in one.class_names)
    own = _of_all(sets[domain], place, names)
    label = f"{place.resolve().name}-{domain}"
    if test_domain is None or test_domain == domain:
        return replace(own, name=label)
    others = [name for name in folders if name != domain] if test_domain == OTHERS else [test_domain]
    if not others:
        raise InputError(f"test_domain is {OTHERS!r}, but {shown(place)} holds only {domain}: leave test_domain out.")
    test = tuple(
        sample for name in others for split in SPLITS for sample in _of_all(sets[name], place, names).split(split)
    )
    return replace(own, name=f"{label}-to-{test_domain}", test=test, seeded=False)


def _of_all(one: Dataset, root: Path, names: list[str]) -> Dataset:
    """``one`` with labels among the classes of all domains, and paths that count from the folder of domains."""
    place = [names.index(each) for each in one.class_names]
    parts: Parts = {
        split: tuple(replace(sample, label=place[sample.label]) for sample in one.split(split)) for split in SPLITS
    }
    return replace(one, class_names=tuple(names), root=root, **parts)
