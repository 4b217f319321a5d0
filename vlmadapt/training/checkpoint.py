"""One file that resumes a run exactly: parameters, best parameters, optimiser, random state, history.

The file is safetensors; its JSON part lies in the safetensors header, so that tensors and JSON can only change
together. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmadapt.errors import FileError, InputError
from vlmadapt.files import check_format, parse_json, read_tensors, write_tensors
from vlmadapt.provenance.identity import difference

FORMAT_VERSION = 1


@dataclass
class Checkpoint:
    """State after ``epoch`` finished epochs. ``identity`` says which run it belongs to."""

    epoch: int
    identity: dict[str, Any]
    progress: dict[str, Any]
    current: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    generator: Tensor

    def save(self, path: Path) -> None:
        """Write atomically; raises :class:`FileError` naming ``path`` and leaves the previous file."""
        tensors = {"generator": self.generator}
        for part in ("current", "best", "optimizer"):
            tensors.update({f"{part}/{name}": tensor for name, tensor in getattr(self, part).items()})
        header = {
            "format_version": FORMAT_VERSION,
            "epoch": self.epoch,
            "identity": self.identity,
            "progress": self.progress,
        }
        write_tensors(path, tensors, {"vlmadapt": json.dumps(header)})

    @classmethod
    def load(cls, path: Path, identity: Mapping[str, Any]) -> Checkpoint:
        """Read ``path``.

        Raises :class:`FileError` when it is no checkpoint of this version, :class:`InputError` when it is of
        another run than ``identity``.
        """
        tensors, metadata = read_tensors(path)
        try:
            header = parse_json(metadata["vlmadapt"], path)
            version = header["format_version"]
        except (KeyError, TypeError, FileError) as error:
            raise FileError(f"{path} is not a training checkpoint of vlmadapt: delete it to start again.") from error
        check_format(path, version, FORMAT_VERSION, "delete it and give the command that was interrupted once more")
        other = difference(header["identity"], json.loads(json.dumps(identity)))
        if other is not None:
            raise InputError(
                f"checkpoint {path} belongs to a different run ({other}): delete it or give another checkpoint_dir."
            )
        parts: dict[str, dict[str, Tensor]] = {"current": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part in parts:
                parts[part][rest] = tensor
        return cls(
            epoch=header["epoch"],
            identity=header["identity"],
            progress=header["progress"],
            generator=tensors["generator"],
            **parts,
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``"<parameter number>.<entry>"`` tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{entry}": tensor for number, entries in state.items() for entry, tensor in entries.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave, in the memory order of the parameters.

    Files know one order, and the fused AdamW of a CPU takes for granted that moments lie as their parameter does.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, entry = name.split(".")
        like = parameters[int(number)]
        if tensor.shape == like.shape:
            tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
