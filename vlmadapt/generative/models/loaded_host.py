"""Hosts that are loaded by name, with the processor beside them, and put to the tasks. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from vlmadapt.backbones.base import resolve_device
from vlmadapt.errors import FileError
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.family import LoadedFamily
from vlmadapt.generative.models.host import Host
from vlmadapt.generative.models.host_view import HostTransform, HostView
from vlmadapt.generative.models.host_words import HostTokenizer
from vlmadapt.generative.models.hub import Pretrained, public_name


class LoadedHost(Host, LoadedFamily):
    """view: the tasks' view of every class."""

    view: ClassVar[type[HostView]]

    @property
    def forms(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"{self.name}:FOLDER",)

    @property
    def views(self) -> Mapping[str, type[HostView]]:  # type: ignore[override]
        return dict.fromkeys(self.classes, self.view)

    def load(self, place: str, device: str | torch.device, allow_download: bool) -> GenerativeModel:
        """A folder with model and processor, or with ``allow_download`` a repository of the hub; weights in float32.

        Raises :class:`MissingDependency` without transformers or a package that it needs, :class:`FileError` for files
        that are missing, damaged, or too few or many for the model, :class:`InputError` for another architecture.
        """
        stored = Pretrained(self.name, place, allow_download)
        target = resolve_device(device)
        with stored.reading():
            model = stored.model(self.classes, dtype=torch.float32)
            processor = stored.transformers.AutoProcessor.from_pretrained(stored.source, **stored.options)
            for part in ("tokenizer", "image_processor"):
                if not hasattr(processor, part):
                    raise FileError(f"{place} has no processor with a {part}: save the model's own beside it.")
            ends = model.generation_config.eos_token_id
            end = next(iter(ends), None) if isinstance(ends, list) else ends
            words = HostTokenizer(processor, self.view.layout(place, processor), end)
        transform = HostTransform(processor.image_processor, self.view.options(), self.view.pixels)
        size = self.view.size(model.config, processor)
        return GenerativeModel(f"{self.name}:{place}", model.to(target), words, transform, size)

    def public_name(self, name: str) -> str:
        return public_name(self.name, super().public_name(name))
