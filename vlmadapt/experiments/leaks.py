"""Pictures that are fitted on and tested on too: told by content wherever a result is made.

Data that hold a picture in two splits are warned of: the splits are theirs. Other data that hold a picture of the fit
are refused: their result would say nothing. Ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vlmadapt.data.same import found_again, identities
from vlmadapt.errors import FileError, InputError, shown
from vlmadapt.pictures import Identity, identify

if TYPE_CHECKING:
    from vlmadapt.classifier import Run
    from vlmadapt.data import Dataset, FewShotSplit, Sample

IN_TEST, IN_VALIDATION = "test pictures were used to fit", "validation pictures are training pictures too"


def contents_of(split: FewShotSplit) -> tuple[tuple[str, str], ...]:
    """The identity of each training, then of each validation picture; warns where one is in both.

    Raises :class:`FileError` naming a picture that cannot be read.
    """
    train = identities(split.train)
    names = [str(sample.path) for sample in split.train]
    _warn_of(found_again(zip(train, names, strict=True), split.val), IN_VALIDATION)
    val = identities(split.val)
    return tuple(identity.keys for identity in (*train, *val))


def refuse(run: Run, dataset: Dataset) -> None:
    """Warns where the data of the fit hold a picture twice.

    Raises :class:`InputError` where ``dataset`` is of other pictures or splits, and a test picture is one of the fit.
    """
    leaked = found_again(_fitted(run), dataset.test)
    if not leaked:
        return
    if dataset.split_hash == run.data.split_hash:
        _warn_of(leaked, IN_TEST)
        return
    raise InputError(
        f"{len(leaked)} {IN_TEST} this classifier, of {len(dataset.test)} ({_first(leaked)}): evaluate on the data it "
        "was fitted on, on pictures it has not seen, or fit again."
    )


def unseen(run: Run, dataset: Dataset) -> tuple[Sample, ...] | None:
    """All pictures of data that come without splits, where none of them is one of the fit; else None.

    A part of them drawn by seed would be an evaluation on less than was asked for. Raises :class:`FileError` naming a
    picture that cannot be read.
    """
    # Rows of another file have the same numbers; to look at all of them costs nothing.
    same = dataset.given is None and dataset.split_hash == run.data.split_hash
    if not dataset.seeded or same:
        return None
    every = (*dataset.train, *dataset.val, *dataset.test)
    return None if found_again(_fitted(run), every) else every


def warn(tested: Iterable[Dataset], splits: Iterable[FewShotSplit]) -> None:
    """Warns of pictures of a test split that are in what is fitted on, and of those in both parts of that.

    Raises :class:`FileError` naming a picture that cannot be read.
    """
    train = {sample.path: sample for split in splits for sample in split.train}
    val = {sample.path: sample for split in splits for sample in split.val}
    fitted = {**train, **val}
    known = dict(zip(fitted, identities(list(fitted.values())), strict=True))
    _warn_of(found_again(((known[path], str(path)) for path in train), list(val.values())), IN_VALIDATION)
    for dataset in tested:
        _warn_of(found_again(((known[path], str(path)) for path in known), dataset.test), IN_TEST)


def require_test(dataset: Dataset) -> None:
    """Warns of classes without test pictures. Raises :class:`InputError` where there is none at all."""
    if not dataset.test:
        raise InputError(f"data set {dataset.name!r} has no test pictures: add some to its test split.")
    counts = zip(dataset.class_names, dataset.counts("test"), strict=True)
    missing = [name for name, count in counts if count == 0]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        warnings.warn(
            f"{', '.join(map(repr, missing[:3]))}{more} of {len(dataset.class_names)} classes have no test pictures: "
            "the test accuracy is that of the others.",
            stacklevel=3,
        )


def _fitted(run: Run) -> Iterator[tuple[Identity, str]]:
    """The pictures of the fit, by content; those of 0.1.0, which noted none, as far as they are still there."""
    names = [name for name, _ in (*run.support, *run.validation)]
    if run.contents:
        yield from ((Identity(*keys), name) for keys, name in zip(run.contents, names, strict=False))
        return
    for name in names:
        with suppress(FileError):
            yield identify(Path(run.data.root) / name), name


def _warn_of(leaked: list[tuple[Path, str]], what: str) -> None:
    if leaked:
        warnings.warn(f"{len(leaked)} {what}: {_first(leaked)}. Run vlmadapt data check for all.", stacklevel=3)


def _first(leaked: list[tuple[Path, str]]) -> str:
    path, name = leaked[0]
    same = "" if str(path) == name else f" is {shown(name)}"
    return f"{shown(path)}{same}"
