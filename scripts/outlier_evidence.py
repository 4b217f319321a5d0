"""How many wrong labels `vlmadapt data check --outliers` finds: some are planted in files of features.

python scripts/outlier_evidence.py FOLDER [--share 0.03] [--each 8 20 60]

FOLDER holds .safetensors or .npz files as docs/data.md describes them. Of each class so many rows are drawn, and the
share of them gets another label by lot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn.functional import normalize

from vlmadapt.data import Row, load_dataset
from vlmadapt.experiments.outliers import far_from_their_class


def rows_of(path: Path) -> tuple[torch.Tensor, torch.Tensor, int]:
    dataset = load_dataset(path)
    rows = [row for row in (*dataset.train, *dataset.val, *dataset.test) if isinstance(row, Row)]
    features = normalize(torch.stack([row.feature for row in rows]).float(), dim=-1)
    return features, torch.tensor([row.label for row in rows]), len(dataset.class_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--each", type=int, nargs="+", default=[8, 20, 60])
    options = parser.parse_args()
    print(
        "| features | a class | named without wrong labels, % | planted | of these named, % | of the named planted, % |"
    )
    print("|:--|--:|--:|--:|--:|--:|")
    for path in sorted((*options.folder.rglob("*.safetensors"), *options.folder.rglob("*.npz"))):
        features, labels, classes = rows_of(path)
        for each in options.each:
            random = torch.Generator().manual_seed(0)
            order = torch.randperm(len(labels), generator=random)
            rows = torch.cat([order[labels[order] == label][:each] for label in range(classes)])
            own, true = features[rows], labels[rows]
            planted = torch.rand(len(true), generator=random) < options.share
            other = (true + torch.randint(1, classes, true.shape, generator=random)) % classes
            clean = far_from_their_class(own, true, classes)
            named = [one.row for one in far_from_their_class(own, torch.where(planted, other, true), classes)]
            hits, number = int(planted[named].sum()), int(planted.sum())
            print(
                f"| {path.stem} | {each} | {100 * len(clean) / len(true):.1f} | {number} | "
                f"{100 * hits / max(number, 1):.0f} | {100 * hits / max(len(named), 1):.0f} |"
            )


if __name__ == "__main__":
    main()
