"""The options of ``export`` (:mod:`vlmadapt.options`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlmadapt.options import OptionSet, says


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OptionSet):
    out: Path = field(metadata=says("Folder to write.", type=Path))
    format: Literal["onnx", "torch"] = field(
        default="onnx", metadata=says("onnx, for any runtime, or torch, a program of torch.export.")
    )
    with_encoder: bool = field(
        default=False, metadata=says("Take pixels and not features: the backbone's picture tower goes along.")
    )
    overwrite: bool = field(default=False, metadata=says("Replace an export in the folder."))
