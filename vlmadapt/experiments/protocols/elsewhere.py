"""Fitted on one data set, tested on others too: of other classes (cross), or of the same ones (shift)."""

from __future__ import annotations

from collections import Counter

from vlmadapt.data import Dataset
from vlmadapt.data.names import class_name_of
from vlmadapt.errors import InputError
from vlmadapt.experiments.protocols.base import Protocol, TestSet


class _Elsewhere(Protocol):
    fits_one = False
    takes_others = True
    note = "hyper-parameters and epochs chosen on validation pictures of the first set only, tests read once"

    def check(self, dataset: Dataset) -> None:
        """Raises :class:`InputError` for data named twice or without test pictures."""
        super().check(dataset)
        counts = Counter(each.name for each in (dataset, *self.others))
        for name, count in counts.items():
            if count > 1:
                raise InputError(f"test_on names {name!r} twice, or what is fitted on: name other data (--test-on).")
        for other in self.others:
            if not other.test:
                raise InputError(f"data set {other.name!r} has no test pictures: add some to its test split.")


class Cross(_Elsewhere):
    """The test splits of other data sets, among their own classes."""

    name = "cross"
    tested = (
        "Fitted on the first data set, tested on its test split and on those of others among their own classes; there "
        "a method whose learned part is bound to its classes leaves them to zero-shot. Each is read once, after every "
        "method has been fitted."
    )

    def check(self, dataset: Dataset) -> None:
        """Raises :class:`InputError` without other data, and for data of the same classes."""
        super().check(dataset)
        if not self.others:
            raise InputError("protocol is 'cross' without test_on: name the other data sets (--test-on).")
        for other in self.others:
            if set(map(class_name_of, other.class_names)) == set(map(class_name_of, dataset.class_names)):
                raise InputError(f"{other.name!r} has the classes of {dataset.name!r}: use protocol shift for them.")

    def tests(self, dataset: Dataset) -> tuple[TestSet, ...]:
        return (TestSet(dataset.name, dataset), *(TestSet(other.name, other) for other in self.others))


class Shift(_Elsewhere):
    """Other data of the same classes, as domains above class folders are."""

    name = "shift"
    tested = (
        "Fitted on the first domain, tested on its test split and on the images of the other domains. Each is read "
        "once, after every method has been fitted."
    )

    def check(self, dataset: Dataset) -> None:
        """Raises :class:`InputError` without other data, and for data of other classes."""
        super().check(dataset)
        if not self.others:
            raise InputError(
                "protocol is 'shift' without other data of the same classes: give a folder of domains and the one that "
                "is fitted (--domain), or name the others (--test-on)."
            )
        for other in self.others:
            if other.with_classes(dataset.class_names) is None:
                raise InputError(
                    f"{other.name!r} has classes that {dataset.name!r} has not: use protocol cross, or rename them."
                )

    def tests(self, dataset: Dataset) -> tuple[TestSet, ...]:
        aligned = [(other.name, other.with_classes(dataset.class_names)) for other in self.others]
        return (TestSet(dataset.name, dataset), *(TestSet(name, other) for name, other in aligned if other is not None))
