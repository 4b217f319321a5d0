"""The few-shot protocol on features that somebody else has extracted: a file in place of pictures and an encoder.

The file has ``image_features [n, D]``, ``labels [n]`` and perhaps ``text_features [C, D]``, as are published for many
data sets (:mod:`vlmadapt.data.feature_file`). Splits in it are not looked at: every class gives its first ``POOL``
pictures, in an order drawn once, to training and validation, and the others to the test split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters import ADAPTERS, NoText, create_adapter
from vlmadapt.data.feature_file import FeatureFile
from vlmadapt.data.given import Given
from vlmadapt.errors import InputError
from vlmadapt.experiments.features import FewShotFeatures
from vlmadapt.experiments.fit import fit, measure_adapter
from vlmadapt.experiments.protocols import FewVal
from vlmadapt.experiments.results import Cell, ProtocolResults, selection
from vlmadapt.experiments.rights import pack
from vlmadapt.experiments.sources import LOGIT_SCALE
from vlmadapt.files import read_versioned, sha256_of_file, write_versioned
from vlmadapt.provenance.settings import Method, plain
from vlmadapt.provenance.versions import versions
from vlmadapt.training import Samples

POOL = 24  # pictures of a class that are not tested on: 16 shots, 4 of validation, and some to draw from
VALIDATION = 4
AGAIN = "remove it and run again"
FORMAT = 1


@dataclass(frozen=True)
class GivenFeatures:
    """``images`` of all pictures, and what the file says of their classes."""

    name: str
    encoder: str
    sha256: str
    images: Samples
    given: Given

    @classmethod
    def read(cls, path: Path, name: str, encoder: str) -> GivenFeatures:
        """Raises :class:`FileError` naming a file that lacks a tensor, or whose tensors do not belong together."""
        file = FeatureFile.open(path)
        given = file.given()
        features, labels = file.table(given)
        normal = torch.nn.functional.normalize(features, dim=-1)
        return cls(name, encoder, sha256_of_file(path), Samples.of(normal, labels), given)

    @property
    def text(self) -> Tensor | NoText:
        """``[C, D]``."""
        return NoText(self.classes, self.given.width) if self.given.text is None else self.given.text

    @property
    def negatives(self) -> Tensor | None:
        """``[C, D]``; of a file without any: ours, the mean text of the other classes. None without text."""
        return self.given.negatives

    @property
    def classes(self) -> int:
        """C."""
        return len(self.given.class_names)

    def _rows(self, split_seed: int = 0) -> tuple[list[Tensor], Tensor]:
        """Rows of each class that may be trained on, and those that are tested on."""
        generator = torch.Generator().manual_seed(split_seed)
        pools, tests = [], []
        for label in range(self.classes):
            rows = torch.nonzero(self.images.labels == label).squeeze(-1)
            if len(rows) <= POOL:
                raise InputError(f"{self.name} has {len(rows)} pictures of class {label}: more than {POOL} are needed.")
            rows = rows[torch.randperm(len(rows), generator=generator)]
            pools.append(rows[:POOL])
            tests.append(rows[POOL:])
        return pools, torch.cat(tests)

    def draw(self, shots: int, seed: int) -> FewShotFeatures:
        """``shots`` training and ``min(shots, 4)`` validation pictures of each class."""
        generator = torch.Generator().manual_seed(1000 + seed)
        train, val = [], []
        for rows in self._rows()[0]:
            order = rows[torch.randperm(len(rows), generator=generator)]
            # Validation comes from the end, so that the pictures of 4 shots are among those of 8.
            train.append(order[:shots])
            val.append(order[-VALIDATION:][: min(shots, VALIDATION)])
        return FewShotFeatures(self._at(torch.cat(train)), self._at(torch.cat(val)))

    def test(self) -> Samples:
        return self._at(self._rows()[1])

    def _at(self, rows: Tensor) -> Samples:
        return Samples.of(self.images.features[rows], self.images.labels[rows])


def run_given(
    given: GivenFeatures,
    methods: Sequence[Method],
    shots: Sequence[int],
    seeds: Sequence[int],
    folder: Path,
    report: Callable[[str], None] | None = None,
) -> ProtocolResults:
    """Every method on every draw; a cell that lies finished in ``folder`` is not run again.

    Raises :class:`FileError` for a damaged cell.
    """
    configs = {method.label: plain(_create(given, method).config.as_dict()) for method in methods}
    test = given.test()
    cells = []
    for count in shots:
        for seed in seeds:
            data = given.draw(count, seed)
            split_hash, train_hash = _hash_of(data.train, data.val), _hash_of(data.train)
            for method in methods:
                plan = {"features": given.sha256, "split": split_hash, "config": configs[method.label]}
                path = folder / f"{_file_name(method.label)}-{count}-{seed}.json"
                cell = _known(path, plan)
                if cell is None:
                    adapter = _create(given, method)
                    measures = fit(adapter, data, seed)
                    tested = measure_adapter(adapter, test)
                    cell = Cell(
                        method=method.label,
                        adapter=method.adapter,
                        shots=count,
                        seed=seed,
                        split_hash=split_hash,
                        train_hash=train_hash,
                        values=tested.values,
                        right=pack(tested.right),
                        reliability=tested.bins,
                        **asdict(measures),
                    )
                    write_versioned(path, {"plan": plan, "cell": cell.as_json()}, FORMAT)
                    if report is not None:
                        report(f"{method.label}, {count} shots, seed {seed}: {cell.fit_seconds:.1f} s")
                cells.append(cell)
    return ProtocolResults(
        dataset={"name": given.name, "classes": given.classes, "test": len(test), "features_sha256": given.sha256},
        encoder={"name": given.encoder, "fingerprint": given.sha256},
        protocol={
            "shots": list(shots),
            "seeds": list(seeds),
            "views": 1,
            "precision": "as given",
            "protocol": FewVal.name,
            "selection": selection(FewVal(), (method.adapter for method in methods)),
        },
        versions=versions(),
        methods=configs,
        cells=tuple(cells),
    )


def _create(given: GivenFeatures, method: Method) -> Any:
    negatives = given.negatives if ADAPTERS[method.adapter].needs_negatives else None
    return create_adapter(
        method.adapter, given.text, LOGIT_SCALE, dict(method.settings), negative_text_features=negatives
    )


def _hash_of(*parts: Samples | None) -> str:
    digest = hashlib.sha256()
    for samples in parts:
        if samples is not None:
            digest.update(samples.features.contiguous().numpy().data)
            digest.update(samples.labels.contiguous().numpy().data)
    return digest.hexdigest()


def _file_name(label: str) -> str:
    return "".join(each if each.isalnum() or each in "-+" else "_" for each in label)


def _known(path: Path, plan: dict[str, Any]) -> Cell | None:
    if not path.exists():
        return None
    value = read_versioned(path, FORMAT, AGAIN)
    cell = Cell.from_json(value["cell"])
    return cell if value["plan"] == plan and cell.right is not None else None
