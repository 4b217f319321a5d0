"""Protocols that differ in what chooses hyper-parameters: pictures on top of the shots, none, one of the shots, or all
labelled pictures in turn."""

from __future__ import annotations

from dataclasses import replace

from vlmadapt.data import Dataset, FewShotSplit
from vlmadapt.data.splitting import by_label
from vlmadapt.data.types import Sample, hash_splits
from vlmadapt.experiments.protocols.base import OnShort, Protocol


class FewVal(Protocol):
    """``min(shots, 4)`` validation pictures a class on top of the shots."""

    name = "few-val"


class KFold(Protocol):
    """All labelled pictures choose in turn and are fitted on in the end: those of few-val (``Adapter.fit_on_all``)."""

    name = "k-fold"
    chosen = (
        "The shots and min(shots, 4) further images a class are all trained on; hyper-parameters are the middle of "
        "what folds of them choose, and the number of epochs is as configured."
    )
    note = "hyper-parameters chosen by cross-validation of all labelled pictures, all fitted on, test read once"
    trains_on_all = True


class NoVal(Protocol):
    """No validation pictures, also where the data have some: the documented defaults stand."""

    name = "no-val"
    chosen = "There are no validation images: the methods' defaults stand."
    holds_out = False
    note = "no validation pictures, defaults stand, test read once"

    def draw(self, dataset: Dataset, shots: int, seed: int, on_short: OnShort = "error") -> FewShotSplit:
        split = super().draw(dataset, shots, seed, on_short)
        return replace(split, val=(), split_hash=split.train_hash)


class HeldOutShot(Protocol):
    """One of the shots of each class chooses, the others train; of a class with one picture none is held out.

    Kin to HOSO (arXiv 2603.04341), which also learns how to blend on the shot it holds out; here it only chooses.
    """

    name = "held-out-shot"
    chosen = (
        "One of the shots of each class is held out of training, and hyper-parameters and the number of epochs are "
        "chosen on it; at 1 shot none is, and the methods' defaults stand as in no-val."
    )
    note = "hyper-parameters and epochs chosen on one shot of each class, held out of training, test read once"

    def draw(self, dataset: Dataset, shots: int, seed: int, on_short: OnShort = "error") -> FewShotSplit:
        split = super().draw(dataset, shots, seed, on_short)
        train: list[Sample] = []
        held: list[Sample] = []
        for group in by_label(split.train).values():
            kept = max(len(group) - 1, 1)  # the draw is an order by lot: its last picture is as good as any
            train += group[:kept]
            held += group[kept:]
        return replace(
            split,
            train=tuple(train),
            val=tuple(held),
            split_hash=hash_splits(dataset.root, {"train": train, "val": held}),
            train_hash=hash_splits(dataset.root, {"train": train}),
        )

    def remarks(self, shots: tuple[int, ...]) -> list[str]:
        if 1 not in shots:
            return []
        return ["1 shot: nothing can be held out of one picture a class, so that held-out-shot is no-val there"]
