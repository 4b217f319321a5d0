"""Few-shot sampling: the same pictures for every method."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

from vlmadapt.data.splitting import by_label, ranked
from vlmadapt.data.types import Dataset, Sample, hash_splits
from vlmadapt.errors import InputError
from vlmadapt.kinds import of_kinds

MOST_VAL_SHOTS = 4


@dataclass(frozen=True)
class FewShotSplit:
    """``shots`` training and up to four validation pictures a class, ordered by class; see :func:`sample_shots`.

    ``train_hash`` is that of the training pictures alone.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    split_hash: str
    train_hash: str
    shots: int
    seed: int


OnShort = Literal["error", "all", "every"]


@of_kinds
def sample_shots(dataset: Dataset, shots: int, seed: int, on_short: OnShort = "error") -> FewShotSplit:
    """Draw ``shots`` training pictures of each class, and ``min(shots, 4)`` validation pictures.

    Each class's pictures are ordered by sha256 of (split, seed, relative path) and the first ones are taken. So the
    draw depends on no random generator, file order or other class, and is nested: the pictures of 4 shots are among
    those of 8. Validation pictures come from the validation split only; a class with fewer there gives all it has.

    ``on_short`` says what happens to a class with fewer than ``shots`` training pictures: ``"error"`` raises
    :class:`InputError` naming it, ``"all"`` takes all there are and warns once, ``"every"`` takes them without a
    word. A class without any training picture is an error in all cases. ``split_hash`` is sha256 over split, label and
    relative path of the draw.
    """
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise InputError(f"shots is {shots!r}: give a whole number of training pictures a class, at least 1.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed is {seed!r}: give a whole number.")
    if on_short not in get_args(OnShort):
        raise InputError(f"on_short is {on_short!r}: it must be 'error', 'all' or 'every'.")

    counts = dataset.counts("train")
    empty = next((label for label, count in enumerate(counts) if count == 0), None)
    if empty is not None:
        raise InputError(
            f"class {dataset.class_names[empty]!r} has no training pictures: add some or leave the class out."
        )
    short = [label for label, count in enumerate(counts) if count < shots]
    if short:
        shown = f"class {dataset.class_names[short[0]]!r} has {counts[short[0]]} training pictures"
        if on_short == "error":
            raise InputError(
                f"shots is {shots}, but {shown}: ask for at most {min(counts)} shots, or pass on_short='all' "
                "(--allow-short) to take all there are."
            )
        if on_short == "all":
            others = f" ({len(short) - 1} more classes are short too)" if len(short) > 1 else ""
            warnings.warn(f"shots is {shots}, but {shown}{others}: taking all there are.", stacklevel=2)

    train = _draw(dataset, "train", shots, seed)
    val = _draw(dataset, "val", min(shots, MOST_VAL_SHOTS), seed)
    return FewShotSplit(
        train,
        val,
        hash_splits(dataset.root, {"train": train, "val": val}),
        hash_splits(dataset.root, {"train": train}),
        shots,
        seed,
    )


def _draw(dataset: Dataset, split: str, count: int, seed: int) -> tuple[Sample, ...]:
    return tuple(
        sample
        for group in by_label(dataset.split(split)).values()
        for sample in ranked(group, dataset.root, seed, f"shots-{split}")[:count]
    )
