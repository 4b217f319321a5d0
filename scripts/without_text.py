"""Methods that can do without class text, on published features that have none: docs/results.md, "Without class text".

    python scripts/without_text.py FILE ...

Each FILE (safetensors) holds ``train_1_features``, ``train_1_labels`` and so on for 4 and 16 shots, and the same of
``val`` and ``test``. ``min(shots, 4)`` validation rows a class are drawn by seed 0. Prints test accuracy in %, and
calibration error in %, at each number of shots.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vlmadapt.adapters import NoText, adapters_without_text, create_adapter
from vlmadapt.experiments.measures import measure
from vlmadapt.experiments.sources import LOGIT_SCALE

SHOTS = (1, 4, 16)
MOST_VALIDATION = 4


def drawn(labels: Tensor, count: int) -> Tensor:
    """Rows of ``count`` of each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rows = [order[labels[order] == label][:count] for label in labels.unique().tolist()]
    return torch.cat(rows)


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        file = {name: tensor.long() if "labels" in name else tensor.float() for name, tensor in load_file(path).items()}
        test, right = file["test_features"], file["test_labels"]
        nothing = NoText(int(right.max()) + 1, test.shape[1])
        for name in adapters_without_text():
            found = []
            for shots in SHOTS:
                rows = drawn(file["val_labels"], min(shots, MOST_VALIDATION))
                adapter = create_adapter(name, nothing, LOGIT_SCALE).fit(
                    file[f"train_{shots}_features"],
                    file[f"train_{shots}_labels"],
                    file["val_features"][rows],
                    file["val_labels"][rows],
                )
                values = measure(adapter.logits(test), right, adapter.temperature_).values
                found.append(f"{100 * values['accuracy']:.1f} ({100 * values['calibration_error']:.1f})")
            print(path.stem, name, *found, flush=True)


if __name__ == "__main__":
    main()
