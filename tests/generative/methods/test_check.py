"""``Attached.check``: what it finds, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from tests.generative.tiny import in_training, text_parameters, tiny, tiny_blip, tiny_coca
from vlmadapt.doors import PROVEN
from vlmadapt.errors import IncompatibleLibrary, InputError
from vlmadapt.generative.methods.p_adapter import PAdapter, attach_p_adapter
from vlmadapt.generative.methods.registry import METHODS, attach
from vlmadapt.generative.models import blip_attention
from vlmadapt.generative.models.host import Host
from vlmadapt.generative.models.load import FAMILIES

CAPTION, QUESTION, RETRIEVAL = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
SETTINGS = {"reduction": 4}
HOSTED = {kind for family in FAMILIES if isinstance(family, Host) for kind in family.classes} | {"AssembledModel"}
SIZES: dict[str, dict[str, Any]] = {
    "bottleneck": {"width": 4},
    "prefix": {"length": 3},
    "lora": {"rank": 2},
    "rslora": {"rank": 2},
}


@pytest.mark.parametrize("kind", [kind for family in FAMILIES for kind in family.classes])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_reaches_every_model(kind: str, method: str) -> None:
    model = tiny(kind)
    if kind in HOSTED and method == "p-adapter-released":
        with pytest.raises(InputError, match="use form='paper'"):
            attach(model, method, SETTINGS)
        return
    if method == "bitfit" and not any(name.endswith("bias") for name in text_parameters(model)):
        with pytest.raises(InputError, match="model has no bias to train"):
            attach(model, method)
        return
    attached = attach(model, method, SETTINGS if method.startswith("p-") else SIZES.get(method))
    check = attached.check()
    added = method not in ("frozen", "full", "bitfit")
    assert check.probed and bool(check.modules) == added and check.cached == (kind != RETRIEVAL)
    assert check.at_start and ("still at its start" in str(check)) == added
    if added:
        in_training(attached)
        assert not attached.check().at_start and "start" not in str(attached.check())


def test_an_adapter_that_is_passed_by_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PAdapter, "combine", lambda self, hidden, messages: hidden)
    with pytest.raises(IncompatibleLibrary, match=r"p_adapter changes nothing in what BlipForConditionalGeneration"):
        attach_p_adapter(tiny_blip(CAPTION), SETTINGS).check()


@pytest.mark.parametrize("double", [False, True])
def test_a_cache_that_is_not_read_is_found(monkeypatch: pytest.MonkeyPatch, double: bool) -> None:
    original = blip_attention._keys_and_values
    monkeypatch.setattr(
        blip_attention, "_keys_and_values", lambda owner, states, cross, *_: original(owner, states, cross, None, None)
    )
    model = tiny_blip(CAPTION)
    attached = attach_p_adapter(model.double() if double else model, SETTINGS)
    # Where the mask of all tokens meets the keys of one, older versions of transformers fail before texts are compared.
    with pytest.raises((IncompatibleLibrary, InputError), match=r"another text with a cache than without: tr|mask is"):
        attached.check()


def test_features_that_the_cache_mixes_up_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention itself is right then: only the messages are wrong."""
    original = PAdapter.pack

    def mixed(self: PAdapter, value: torch.Tensor, output: nn.Module) -> torch.Tensor:
        packed = original(self, value, output)
        return torch.cat([value, packed[..., value.shape[-1] :].flip(-1)], -1)

    monkeypatch.setattr(PAdapter, "pack", mixed)
    with pytest.raises(IncompatibleLibrary, match="says another text with a cache than without"):
        attach_p_adapter(tiny_blip(CAPTION), SETTINGS).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_model_is_left_as_it_was(dtype: torch.dtype) -> None:
    model = tiny_blip(QUESTION).to(dtype).train()
    model.vision_model.eval()
    attached = attach_p_adapter(model, SETTINGS)
    next(iter(attached.parameters())).requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    values = {name: (tensor, tensor.clone(), tensor._version) for name, tensor in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    keys = [set(module.__dict__) for module in model.modules()]
    before = torch.get_rng_state()
    attached.check()
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert [module.training for module in model.modules()] == modes
    assert [set(module.__dict__) for module in model.modules()] == keys
    for name, parameter in model.named_parameters():
        tensor, value, version = values[name]
        assert parameter is tensor and torch.equal(parameter, value) and parameter._version == version
        assert parameter.grad is None


def test_load_checks_first_and_changes_nothing_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_training(attach_p_adapter(tiny_blip(CAPTION), SETTINGS)).save(tmp_path)
    attached = attach_p_adapter(tiny_blip(CAPTION), SETTINGS)
    before = [parameter.clone() for parameter in attached.parameters()]
    monkeypatch.setattr(PAdapter, "combine", lambda self, hidden, messages: hidden)
    with pytest.raises(IncompatibleLibrary, match="changes nothing"):
        attached.load(tmp_path)
    assert all(torch.equal(*pair) for pair in zip(before, attached.parameters(), strict=True))
    attached.load(tmp_path, check=False)


def test_another_model_needs_a_probe() -> None:
    from vlmadapt.generative.methods import multihead_sites

    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, batch_first=True), 1, enable_nested_tensor=False)
    attached = attach_p_adapter(model.eval(), SETTINGS, sites=multihead_sites(model))
    assert not attached.check().probed and "pass a probe" in str(attached.check())


# A library that renames a keyword, planted.


def renamed(function: Any, old: str, new: str) -> Any:
    """``function`` as the next version of its library might have it."""
    signature = inspect.signature(function)
    parameters = [one.replace(name=new) if one.name == old else one for one in signature.parameters.values()]

    def version(self: Any, *args: Any, **kwargs: Any) -> Any:
        if new in kwargs:
            kwargs[old] = kwargs.pop(new)
        return function(self, *args, **kwargs)

    version.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return version


def cache_name() -> str:
    from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

    return "cache" if "cache" in inspect.signature(BlipTextSelfAttention.forward).parameters else "past_key_values"


def test_a_renamed_keyword_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.blip import modeling_blip_text as code

    theirs = code.BlipTextSelfAttention.forward
    monkeypatch.setattr(code.BlipTextSelfAttention, "forward", renamed(theirs, cache_name(), "kv_store"))
    oldest, newest = PROVEN["transformers"]
    with pytest.raises(IncompatibleLibrary) as caught:
        attach_p_adapter(tiny_blip(CAPTION), SETTINGS)
    said = str(caught.value)
    assert "BlipTextSelfAttention.forward takes an argument 'kv_store', which is not known here" in said
    assert f"use one of {oldest} to {newest}" in said and said.count(". ") == 0


def test_a_keyword_renamed_behind_our_back_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller says another name than the signature did."""
    from transformers.models.blip import modeling_blip_text as code

    attached = attach_p_adapter(tiny_blip(CAPTION), SETTINGS)
    theirs, name = code.BlipTextAttention.forward, cache_name()

    def newer(self: Any, *args: Any, **kwargs: Any) -> Any:
        attention = self.self.forward
        self.self.forward = lambda *a, **k: attention(*a, **{("kv_store" if n == name else n): v for n, v in k.items()})
        try:
            return theirs(self, *args, **kwargs)
        finally:
            self.self.forward = attention

    monkeypatch.setattr(code.BlipTextAttention, "forward", newer)
    with pytest.raises(IncompatibleLibrary, match="was given 'kv_store', which is not known here: transformers"):
        attached.check()


def test_a_renamed_keyword_of_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GenerationMixin

    from vlmadapt.generative.models import generation, search

    search.decoder_class.cache_clear()
    theirs = GenerationMixin.prepare_inputs_for_generation
    name = "cache" if "cache" in inspect.signature(theirs).parameters else "past_key_values"
    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", renamed(theirs, name, "kv_store"))
    with pytest.raises(IncompatibleLibrary, match=r"prepare_inputs_for_generation takes an argument 'kv_store'"):
        generation.generate(tiny_coca(), torch.zeros(1, 3, 32, 32), start_token=1, end_token=39, max_length=9)


def test_a_renamed_keyword_of_torchs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmadapt.generative.models.multihead import multihead_forward

    multihead_forward.cache_clear()
    monkeypatch.setattr(nn.MultiheadAttention, "forward", renamed(nn.MultiheadAttention.forward, "attn_mask", "mask"))
    try:
        with pytest.raises(IncompatibleLibrary, match=r"MultiheadAttention\.forward takes an argument 'mask'"):
            multihead_forward()
    finally:
        multihead_forward.cache_clear()


def first_attention() -> Any:
    model: Any = attach_p_adapter(tiny_blip(CAPTION), SETTINGS).model
    return model.text_decoder.bert.encoder.layer[0].attention.self


@pytest.mark.parametrize("name", blip_attention.ATTENTION.no_effect)
def test_what_is_said_to_be_without_effect_is(name: str) -> None:
    attention, hidden = first_attention(), torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(3))
    for given, plain in zip(attention(hidden, **{name: 7})[0], attention(hidden)[0], strict=True):
        assert torch.equal(given, plain)


@pytest.mark.parametrize("name", blip_attention.ATTENTION.refuses)
def test_what_is_refused_is(name: str) -> None:
    attention, hidden = first_attention(), torch.zeros(1, 4, 32)
    attention(hidden, **{name: False})
    with pytest.raises(InputError, match=rf"BlipTextSelfAttention\.forward was given {name}: "):
        attention(hidden, **{name: True})
