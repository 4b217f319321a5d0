"""The trained part of the assembled model: picture features to vectors that a language model reads as words. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmadapt.errors import FileError
from vlmadapt.files import check_format, read_tensors, write_tensors

PROJECTOR_FILE = Path(__file__).with_name("assembled_projector.safetensors")
FORMAT = "2"  # of the first the vectors were learnt in another chat, each by itself


class Projector(nn.Module):
    """``[B, N, E]`` -> ``[B, N, D]``: ``centre + length * normalize(linear(x) + MLP(x) + place)``.

    ``x = (f - mean) / spread``. The words of a language model lie at about one distance from their ``centre``, so the
    vectors are put there too; what is learnt is their direction. ``linear`` takes each feature vector by itself; the
    MLP of ``hidden`` units takes all N at once, of those behind the first ``summary`` numbers each. ``mean`` [E] and
    ``spread`` are those of the features of training pictures, ``place`` [N, D] and ``length`` [N, 1] are learnt.
    """

    mean: Tensor
    spread: Tensor
    centre: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, centre: Tensor, places: int, hidden: int, summary: int) -> None:
        super().__init__()
        width, words = len(mean), len(centre)
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.register_buffer("centre", centre)
        self.linear = nn.Linear(width, words)
        self.first = nn.Linear(width, hidden)
        self.others = nn.Linear(width, summary)
        self.inner = nn.Linear((places - 1) * summary, hidden)
        self.outer = nn.Linear(hidden, places * words)
        self.place = nn.Parameter(torch.zeros(places, words))
        self.length = nn.Parameter(torch.ones(places, 1))

    @property
    def places(self) -> int:
        """How many vectors a picture becomes."""
        return len(self.place)

    def directions(self, features: Tensor) -> Tensor:
        """Unit vectors ``[B, N, D]``."""
        x = (features - self.mean) / self.spread
        inner = F.gelu(self.first(x[:, 0]) + self.inner(self.others(x[:, 1:]).flatten(1)))
        return F.normalize(self.linear(x) + self.outer(inner).unflatten(1, self.place.shape) + self.place, dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        return self.centre + self.length * self.directions(features)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write it as float16 safetensors; ``metadata`` is kept beside it."""
        tensors = {name: value.half() for name, value in self.state_dict().items()}
        write_tensors(path, tensors, {**metadata, "format": FORMAT})


def load_projector(path: Path = PROJECTOR_FILE) -> tuple[Projector, dict[str, str]]:
    """What :meth:`Projector.save` wrote, in float32, and its metadata; raises :class:`FileError` naming the file."""
    tensors, metadata = read_tensors(path)
    again = "make it again with scripts/train_assembled.py"
    check_format(path, metadata.get("format"), FORMAT, again)
    try:
        floats = {name: value.float() for name, value in tensors.items()}
        projector = Projector(
            floats["mean"],
            floats["spread"],
            floats["centre"],
            places=len(floats["place"]),
            hidden=len(floats["inner.bias"]),
            summary=len(floats["others.bias"]),
        )
        projector.load_state_dict(floats)
    except (KeyError, RuntimeError, TypeError) as error:
        raise FileError(f"{path} does not hold a projector of an assembled model: {again}.") from error
    return projector.eval().requires_grad_(False), metadata
