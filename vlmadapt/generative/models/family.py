"""A family of generative models: everything the rest of the package asks about a kind of model. Ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from vlmadapt.errors import InputError
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.probe import Probe
from vlmadapt.generative.models.sites import Sites
from vlmadapt.generative.models.view import TaskModel
from vlmadapt.provenance import versions


class Family(ABC):
    """One file of this folder a family, and one line in :data:`vlmadapt.generative.models.load.FAMILIES`.

    classes: names of the model classes whose output can be asked with ``probe``; supported: them in words.
    tower: prefix of the image tower's parameters.
    """

    classes: ClassVar[tuple[str, ...]]
    supported: ClassVar[str]
    tower: ClassVar[str]
    probe: ClassVar[type[Probe]]

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether ``model`` has text layers of this family; loads no library."""

    @abstractmethod
    def sites(self, model: nn.Module) -> Sites:
        """Attentions and feed-forward layers of the text side of ``model``, which :meth:`matches`."""

    def tower_sites(self, model: nn.Module) -> Sites:
        """Attentions and feed-forward layers of the image tower. Raises :class:`InputError` where there is no way."""
        raise InputError(f"tower is yes, but the tower of a {type(model).__name__} is not adapted here: leave it out.")

    def part_of(self, name: str) -> str:
        """``"image"`` or ``"text"``: which side of a model its module ``name`` is on."""
        return "image" if f"{name}.".startswith(self.tower) else "text"

    @abstractmethod
    def lora_targets(self, model: nn.Module) -> list[nn.Module]:
        """The linear maps of ``model`` that low-rank updates go to."""

    def public_name(self, name: str) -> str:
        """``name`` without folders of the machine."""
        return versions.public_name(name)


class LoadedFamily(Family):
    """A family whose models are loaded by name and put to the tasks.

    name: what its models' names begin with, before the colon. forms: how such names are written, for sentences.
    views: the tasks' view of each model class that a task uses.
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[str, ...]]
    views: ClassVar[Mapping[str, type[TaskModel]]]

    @abstractmethod
    def load(self, place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
        """The model whose name is ``name:place``."""
