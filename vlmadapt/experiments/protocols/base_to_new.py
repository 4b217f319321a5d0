"""Base to new: fitted on one half of the classes, tested on both halves apart (CoCoOp, arXiv 2203.05557)."""

from __future__ import annotations

from vlmadapt.data import Dataset
from vlmadapt.errors import InputError
from vlmadapt.experiments.protocols.base import Protocol, TestSet

BASE, NEW = "base", "new"
LEAST = 4  # classes: a half needs two


class BaseToNew(Protocol):
    """The first half of the classes, in their order, is base: the larger half where their number is odd."""

    name = "base-to-new"
    tested = (
        "Fitted on the first half of the classes. Base: test images of these among these. New: test images of the "
        "other classes among those; a method whose learned part is bound to its classes leaves them to zero-shot. Both "
        "are read once, after every method has been fitted."
    )
    note = "hyper-parameters and epochs chosen on validation pictures of base classes only, tests read once"
    fits_one = False

    def check(self, dataset: Dataset) -> None:
        """Raises :class:`InputError` for too few classes, and what :meth:`Protocol.check` raises."""
        super().check(dataset)
        if len(dataset.class_names) < LEAST:
            raise InputError(
                f"protocol is {self.name!r}, but {dataset.name!r} has {len(dataset.class_names)} classes, too few for "
                f"two halves: give data of at least {LEAST}."
            )

    def fitted(self, dataset: Dataset) -> Dataset:
        return dataset.only(dataset.class_names[: _half(dataset)])

    def tests(self, dataset: Dataset) -> tuple[TestSet, ...]:
        half = _half(dataset)
        return (
            TestSet(BASE, dataset.only(dataset.class_names[:half])),
            TestSet(NEW, dataset.only(dataset.class_names[half:])),
        )


def _half(dataset: Dataset) -> int:
    return -(-len(dataset.class_names) // 2)
