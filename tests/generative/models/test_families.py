"""What the rest of the package asks a family of models: each answers for its own models only, and for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from tests.generative.tiny import text_parameters, tiny, tiny_blip
from vlmadapt.errors import InputError
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.models.family import Family
from vlmadapt.generative.models.load import FAMILIES, LOADED, family_named, family_of, find_probe, find_sites
from vlmadapt.generative.models.sites import ATTENTION_SLOT, FEED_FORWARD_SLOT, attention_adapter

KINDS = [(family, kind) for family in FAMILIES for kind in family.classes]


@pytest.mark.parametrize(("wanted", "kind"), KINDS)
def test_a_model_has_one_family_which_knows_all_of_it(wanted: Family, kind: str) -> None:
    model = tiny(kind)
    [family] = [each for each in FAMILIES if each.matches(model)]
    assert family is wanted and family_of(model) is family
    assert isinstance(find_probe(model), family.probe)
    modules = dict(model.named_modules())
    sites: Any = family.sites(model)
    assert all(modules[site.name] is site.owner for site in sites.attentions)
    tower = [parameter for parameter, _ in model.named_parameters() if parameter.startswith(family.tower)]
    places = [*sites.attentions, *sites.feed_forwards]
    assert tower and not any(site.name.startswith(family.tower) for site in places)
    assert {family.part_of(site.name) for site in places} == {"text"} and family.part_of(tower[0]) == "image"
    chosen = family.lora_targets(model)
    assert chosen and all(isinstance(module, nn.Linear) for module in chosen)
    assert {id(module) for module in chosen} <= {id(module) for module in modules.values()}


def test_names_are_told_apart_before_anything_is_loaded() -> None:
    for family in LOADED:
        for form in family.forms:
            assert family_named(form) == (family, form.partition(":")[2])
    with pytest.raises(InputError, match="use blip:FOLDER, coca:ARCH@CHECKPOINT"):
        family_named("blip:")


def test_public_names_hold_no_folder() -> None:
    blip, coca = (family_named(f"{name}:x")[0] for name in ("blip", "coca"))
    assert blip.public_name("blip:/home/me/model/") == "blip:model"
    assert blip.public_name("small-blip-1a2b:vqa") == "small-blip-1a2b:vqa"
    assert coca.public_name("coca:coca_ViT-B-32@/home/me/w.pt") == "coca:coca_ViT-B-32@w.pt"


def test_another_model_is_of_no_family() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert family_of(model) is None and find_probe(model) is None
    with pytest.raises(
        InputError,
        match=r"text attentions are not known here: transformers' Blip.* open_clip's CoCa, transformers' Qwen2VL",
    ):
        find_sites(model)


@pytest.mark.parametrize("method", ["full", "bitfit"])
@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_the_image_tower_is_left_out_by_its_familys_prefix(method: str, family: Family, kind: str) -> None:
    model = tiny(kind)
    if method == "bitfit" and not any(name.endswith("bias") for name in text_parameters(model)):
        pytest.skip("no bias there")
    trained = {parameter for parameter, _ in attach(model, method, {"tower": False}).named_parameters()}
    assert trained and not any(parameter.startswith(family.tower) for parameter in trained)


@pytest.mark.parametrize("kind", ["BlipForConditionalGeneration", "CoCa"])
def test_a_tower_that_is_not_adapted_gets_one_sentence(kind: str) -> None:
    with pytest.raises(InputError, match=f"the tower of a {kind} is not adapted here: leave it out"):
        attach_p_adapter(tiny(kind), {"reduction": 4, "tower": True})


def test_an_attached_adapter_is_found_whatever_its_name_and_gone_after() -> None:
    model = tiny_blip("BlipForQuestionAnswering")
    owners = [site.owner for site in find_sites(model).attentions]
    attached = attach_p_adapter(model, {"reduction": 4})
    assert all(any(attention_adapter(owner) is child for child in owner.children()) for owner in owners)
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names)) and not any(ATTENTION_SLOT in name for name in names)
    attached.detach()
    left = {name for module in model.modules() for name in module.__dict__}
    assert not left & {ATTENTION_SLOT, FEED_FORWARD_SLOT}
