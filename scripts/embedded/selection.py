"""Choosing the heads' settings on emoji alone: unseen names drawn by an unseen set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from embedded.evaluation import held_out_accuracy
from embedded.features import PairFeatures
from embedded.training import HeadConfig, ImageNetPrior, train_heads
from torch import Tensor

# Drawn unlike the others: shaded 3D, and outlines. Every fourth name is held out as well.
HELD_OUT_SETS = ("fluent-emoji", "streamline-emojis")
HELD_OUT_NAMES = 0.25

VARIANTS: dict[str, dict[str, float]] = {
    "chosen": {},
    "no training of A": {"steps": 0},
    "steps 100": {"steps": 100},
    "steps 400": {"steps": 400},
    "lr 1e-3": {"lr": 1e-3},
    "keep_prototypes 0": {"keep_prototypes": 0.0},
    "keep_conse 0": {"keep_conse": 0.0},
    "keep_conse 3": {"keep_conse": 3.0},
    "dropout .5": {"dropout": 0.5},
    "image_hidden 512": {"image_hidden": 512},
    "text_hidden 1024": {"text_hidden": 1024},
    "keep_prototypes_b 0": {"keep_prototypes_b": 0.0},
    "keep_prototypes_b 2": {"keep_prototypes_b": 2.0},
    "steps_b 150": {"steps_b": 150},
    "steps_b 600": {"steps_b": 600},
}


def folds(data: PairFeatures, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(keep [n], held [n]) a held-out set: training sees neither that set nor the held-out names."""
    generator = torch.Generator().manual_seed(seed)
    for set_name in HELD_OUT_SETS:
        unseen_name = (torch.rand(len(data.names), generator=generator) < HELD_OUT_NAMES)[data.label]
        unseen_set = torch.tensor([name == set_name for name in data.sets])
        yield ~unseen_set & ~unseen_name, unseen_set & unseen_name


def compare(data: PairFeatures, prior: ImageNetPrior, seed: int) -> dict[str, dict[str, float]]:
    """Mean held-out accuracy of each variant, printed as it comes; two seeds of training a fold."""
    table: dict[str, dict[str, float]] = {}
    for title, changes in VARIANTS.items():
        scores = []
        for keep, held in folds(data, seed):
            for repeat in range(2):
                config = replace(HeadConfig(seed=seed + repeat), **changes)  # type: ignore[arg-type]
                scores.append(held_out_accuracy(train_heads(data, keep, prior, config), data, held))
        table[title] = {space: sum(score[space] for score in scores) / len(scores) for space in scores[0]}
        print(f"{title:20}", "  ".join(f"{space} {value:.3f}" for space, value in table[title].items()), flush=True)
    return table
