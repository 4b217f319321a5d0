"""Domains above classes, as in photo/dog, sketch/dog: one domain trains, the same one or others test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vlmadapt.data.folder import read_folder
from vlmadapt.data.layout import unwrapped, with_pictures
from vlmadapt.data.names import class_name_of, ordered
from vlmadapt.data.types import SPLITS, Dataset, Parts, Sample
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
    domains = _read(root, seed, domain, test_domain)
    own = domains.of(domain)
    if test_domain is None or test_domain == domain:
        return own
    others = domains.other_than(domain, "test_domain is 'others'") if test_domain == OTHERS else [test_domain]
    test = tuple(sample for name in others for sample in domains.pictures(name))
    return replace(own, name=f"{own.name}-to-{test_domain}", test=test, seeded=False)


def read_domains(root: str | Path, domain: str, seed: int = 0) -> tuple[Dataset, ...]:
    """:func:`read_domain` of ``domain``, then each other domain of the folder, all of whose pictures test.

    Raises :class:`InputError` for a folder without other domains, or another name.
    """
    domains = _read(root, seed, domain)
    others = domains.other_than(domain, "protocol is 'shift'")
    return (
        domains.of(domain),
        *(replace(domains.of(each), train=(), val=(), test=domains.pictures(each), seeded=False) for each in others),
    )


@dataclass(frozen=True)
class _Domains:
    """``sets``: the folders of ``place``, each read as a data set. ``names``: the classes of all."""

    place: Path
    sets: dict[str, Dataset]
    names: list[str]

    def of(self, name: str) -> Dataset:
        """One domain with the splits of its folder, labels among the classes of all."""
        label = f"{self.place.resolve().name}-{name}"
        return replace(_of_all(self.sets[name], self.place, self.names), name=label)

    def pictures(self, name: str) -> tuple[Sample, ...]:
        own = self.of(name)
        return tuple(sample for split in SPLITS for sample in own.split(split))

    def other_than(self, domain: str, asked: str) -> list[str]:
        others = [name for name in self.sets if name != domain]
        if not others:
            raise InputError(f"{asked}, but {shown(self.place)} holds only {domain}: leave it out.")
        return others


def _read(root: str | Path, seed: int, domain: str, test_domain: str | None = None) -> _Domains:
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
    return _Domains(place, sets, ordered(class_name_of(each) for one in sets.values() for each in one.class_names))


def _of_all(one: Dataset, root: Path, names: list[str]) -> Dataset:
    """``one`` with labels among the classes of all domains, and paths that count from the folder of domains."""
    place = [names.index(each) for each in one.class_names]
    parts: Parts = {
        split: tuple(replace(sample, label=place[sample.label]) for sample in one.split(split)) for split in SPLITS
    }
    return replace(one, class_names=tuple(names), root=root, **parts)
