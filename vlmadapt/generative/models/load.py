"""The families of generative models, and what is asked of a model of any of them."""

from __future__ import annotations

import torch
from torch import nn

from vlmadapt.errors import InputError
from vlmadapt.generative.models.assembled import Assembled
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.blip import Blip
from vlmadapt.generative.models.blip2 import Blip2
from vlmadapt.generative.models.coca import Coca
from vlmadapt.generative.models.family import Family, LoadedFamily
from vlmadapt.generative.models.llava import Llava
from vlmadapt.generative.models.paligemma import PaliGemma
from vlmadapt.generative.models.probe import Probe
from vlmadapt.generative.models.qwen_vl import QwenVL
from vlmadapt.generative.models.sites import Sites
from vlmadapt.generative.models.smolvlm import SmolVLM
from vlmadapt.generative.models.view import TaskModel
from vlmadapt.generative.models.wrappers import unwrapped
from vlmadapt.modes import usual

FAMILIES: tuple[Family, ...] = (
    Blip(),
    Coca(),
    QwenVL(),
    Llava(),
    SmolVLM(),
    PaliGemma(),
    Blip2(),
    Assembled(),
)
LOADED = tuple(family for family in FAMILIES if isinstance(family, LoadedFamily))


@usual(grad=True)
def load_generative(name: str, device: str | torch.device = "cpu", allow_download: bool = False) -> GenerativeModel:
    """Load a generative model by name.

    ``"blip:/path/to/folder"``
        a BLIP of ``transformers`` for captioning, question answering or retrieval, as ``save_pretrained`` writes it;
        with ``allow_download`` also a repository of the Hugging Face hub, ``"blip:OWNER/NAME"``;
    ``"coca:coca_ViT-B-32@/path/to/file.safetensors"``
        an open_clip CoCa with a local checkpoint (``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` read with
        ``weights_only=True``);
    ``"coca:coca_ViT-B-32/laion2b_s13b_b90k"``
        one by pretrained tag, from the local hub cache;
    ``"coca:coca_ViT-B-32@random"``
        the architecture with seeded random weights, for tests;
    ``"llava:/path/to/folder"``, ``"qwen-vl:..."``, ``"smolvlm:..."``, ``"paligemma:..."``
        a model of ``transformers`` and its processor, as ``save_pretrained`` writes them, or a repository as above;
        weights become float32, and none may be missing or left over;
    ``"assembled:smollm2"``
        the embedded image tower before SmolLM2-135M, from ordinary packages, and the projector that comes with us
        between them; ``"assembled:smollm2@/path/to/file.safetensors"`` with a projector of your own.

    Nothing is fetched from a network unless ``allow_download`` is true and ``HF_HUB_OFFLINE`` is not set. Raises
    :class:`InputError` for an unknown name, :class:`MissingDependency` for an absent package or weight file and
    :class:`FileError` for a folder or checkpoint that cannot be read.
    """
    family, place = family_named(name)
    return family.load(place, device, allow_download)


def family_named(name: str) -> tuple[LoadedFamily, str]:
    """The family of a name of :func:`load_generative`, and what follows the colon; loads nothing.

    Raises :class:`InputError` for a name of no family.
    """
    prefix, _, place = name.partition(":")
    for family in LOADED:
        if prefix == family.name and place:
            return family, place
    raise InputError(f"name is {name!r}, which is no generative model: use {name_forms()}.")


def name_forms() -> str:
    """How names of models are written: ``blip:FOLDER, ... or coca:ARCH/TAG``."""
    *forms, last = (form for family in LOADED for form in family.forms)
    return f"{', '.join(forms)} or {last}"


def family_of(model: nn.Module) -> Family | None:
    """The family of ``model``; None for another kind."""
    model = unwrapped(model)
    return next((family for family in FAMILIES if family.matches(model)), None)


def known_family(model: nn.Module) -> Family:
    """:func:`family_of`, where there is one. Raises :class:`InputError` for another model."""
    family = family_of(model)
    if family is None:
        known = ", ".join(each.supported for each in FAMILIES)
        raise InputError(
            f"model is a {type(model).__name__}, whose text attentions are not known here: {known} are supported, any "
            "model of transformers through interface_sites(model, NAME) of its language model, and any other whose "
            "attentions are passed as sites= (docs/p_adapter.md)."
        )
    return family


def find_sites(model: nn.Module, tower: bool = False) -> Sites:
    """The text attentions and feed-forward layers of a known model, with ``tower`` those of its image tower too.

    Raises :class:`InputError` for another model, and for a tower that is not adapted here.
    """
    family, model = known_family(model), unwrapped(model)
    text = family.sites(model)
    if not tower:
        return text
    image = family.tower_sites(model)
    return Sites([*text.attentions, *image.attentions], [*text.feed_forwards, *image.feed_forwards])


def find_probe(model: nn.Module) -> Probe | None:
    """The probe of a known model; None for another."""
    kind = type(model).__name__
    return next((family.probe(model) for family in FAMILIES if kind in family.classes), None)


def task_model(loaded: GenerativeModel) -> TaskModel:
    """The view of a loaded model that fits its class. Raises :class:`InputError` for one that no task here uses."""
    views = {name: view for family in LOADED for name, view in family.views.items()}
    kind = type(unwrapped(loaded.model)).__name__
    if kind not in views:
        raise InputError(f"model {loaded.name} is a {kind}, which no task here uses: give one of {', '.join(views)}.")
    return views[kind](loaded)
