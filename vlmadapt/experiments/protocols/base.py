"""What a protocol decides: which pictures choose, on which classes a method is fitted, and on what it is tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vlmadapt.data import Dataset, FewShotSplit, sample_shots
from vlmadapt.data.sampling import OnShort
from vlmadapt.errors import InputError


@dataclass(frozen=True)
class TestSet:
    """A test split, read once after all fits; its classes may be others than those that were fitted.

    name: None where it is the test split of the data alone.
    """

    __test__: ClassVar[bool] = False  # no test of pytest's

    name: str | None
    dataset: Dataset


@dataclass(frozen=True)
class Protocol:
    """Validation pictures on top of the shots choose, one data set is fitted and tested, where a protocol does not say
    otherwise.

    others: further data to test on, for protocols that take them.
    """

    name: ClassVar[str]
    chosen: ClassVar[str] = (  # what chooses hyper-parameters, in words
        "Hyper-parameters and the number of epochs are chosen on validation images only, min(shots, 4) a class, which "
        "come on top of the shots."
    )
    tested: ClassVar[str] = "The test split is read once, after every method has been fitted."
    note: ClassVar[str] = "hyper-parameters and epochs chosen on validation pictures only, test read once"
    holds_out: ClassVar[bool] = True  # pictures that choose
    trains_on_all: ClassVar[bool] = False  # on those that choose, too, in the end
    fits_one: ClassVar[bool] = True  # a single classifier can be fitted so
    takes_others: ClassVar[bool] = False

    others: tuple[Dataset, ...] = ()

    def check(self, dataset: Dataset) -> None:
        """Raise :class:`InputError` where ``dataset`` and ``others`` do not suit, before any work."""
        if self.others and not self.takes_others:
            raise InputError(
                f"test_on is given, but protocol {self.name!r} tests on the data themselves: leave it out (--test-on), "
                "or use cross or shift."
            )

    def fitted(self, dataset: Dataset) -> Dataset:
        """What methods are fitted on: ``dataset`` with all its classes, or with some."""
        return dataset

    def tests(self, dataset: Dataset) -> tuple[TestSet, ...]:
        """What they are tested on, in the order of tables."""
        return (TestSet(None, dataset),)

    def draw(self, dataset: Dataset, shots: int, seed: int, on_short: OnShort = "error") -> FewShotSplit:
        """The pictures of one fit; raises what :func:`vlmadapt.data.sample_shots` raises."""
        return sample_shots(dataset, shots, seed, on_short)

    def remarks(self, shots: tuple[int, ...]) -> list[str]:
        """Sentences about a run at these numbers of shots."""
        return []

    def about(self, dataset: Dataset) -> dict[str, Any]:
        """Plain JSON by which an output folder tells one run from another."""
        tests = {test.name: test.dataset.split_hash for test in self.tests(dataset) if test.name is not None}
        return {"protocol": self.name, **({"tests": tests} if tests else {})}

    @property
    def words(self) -> str:
        """All of it in words, for files."""
        return (
            f"Few-shot protocol {self.name}: every method sees the same sampled images. {self.chosen} {self.tested} "
            "Mean and sample standard deviation over the seeds."
        )
