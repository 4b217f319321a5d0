"""The p-adapter on BLIP of transformers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.distributed
from torch import Tensor, nn

pytest.importorskip("transformers")

from tests.generative_models import in_training, texts, tiny_blip
from tests.generative_models import pictures as float_pictures
from vlmadapt.adapters.generative import Attached
from vlmadapt.adapters.p_adapter import PAdapter, PAdapterConfig, attach_p_adapter
from vlmadapt.errors import FileError, InputError

CAPTION, QUESTION, RETRIEVAL = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
SETTINGS: dict[str, Any] = {"reduction": 4, "task": "vqa"}


@pytest.fixture(scope="module")
def originals() -> dict[str, nn.Module]:
    return {name: tiny_blip(name).double() for name in (CAPTION, QUESTION, RETRIEVAL)}


@pytest.fixture
def models(originals: dict[str, nn.Module]) -> dict[str, Any]:
    return copy.deepcopy(originals)


def pictures() -> Tensor:
    return float_pictures().double()


def outputs(model: Any) -> Tensor:
    """What the model says of two pictures and two texts, one of them padded."""
    pixels, (tokens, mask) = pictures(), texts()
    name = type(model).__name__
    if name == CAPTION:
        return model(pixels, tokens, mask).logits
    if name == QUESTION:
        image = model.vision_model(pixels).last_hidden_state
        question = model.text_encoder(tokens, mask, encoder_hidden_states=image).last_hidden_state
        found = {"encoder_hidden_states": question, "encoder_attention_mask": mask}
        return model.text_decoder(tokens, mask, **found).logits
    return model(tokens, pixels, attention_mask=mask).itm_score


def loss(model: Any) -> Tensor:
    tokens, mask = texts()
    return model(pictures(), tokens, mask, labels=tokens.masked_fill(mask == 0, -100)).loss


@pytest.mark.parametrize("name", [CAPTION, QUESTION, RETRIEVAL])
@pytest.mark.parametrize("fields", [{}, {"key_pooling": "mean", "self_attention": "homogeneous"}])
def test_step_zero_and_detach(models: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
    model = models[name]
    next(model.parameters()).requires_grad_(False)
    before, state = outputs(model), {key: value.clone() for key, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    attached = attach_p_adapter(model, {**SETTINGS, **fields})
    assert attached.model is model
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=1e-10)
    in_training(attached)
    assert (outputs(model) - before).abs().max() > 1e-2

    assert attached.detach() is model
    assert torch.equal(outputs(model), before)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    with pytest.raises(InputError, match="not attached any more"):
        attached.detach()
    attach_p_adapter(model, SETTINGS).detach()


def test_only_text_adapters_train(models: dict[str, Any]) -> None:
    model = models[QUESTION]
    total = sum(parameter.numel() for parameter in model.parameters())
    attached = attach_p_adapter(model, SETTINGS)
    names = [name for name, _ in attached.named_parameters()]
    # Encoder and decoder have 2 layers each, with self-attention, cross-attention and a feed-forward layer.
    assert len(names) == 4 * (2 * 8 + 4)
    assert all((name.startswith("text_") and ".p_adapter." in name) or ".ffn_adapter." in name for name in names)
    attention, ffn = 2 * (32 * 8 + 8) + (8 * 32 + 32) + 2, 2 * 32 * 8 + 32 + 8
    assert attached.trainable_parameters() == 4 * (2 * attention + ffn)
    assert str(attached).startswith(f"p-adapter on {QUESTION}: {4 * (2 * attention + ffn):,} of ")
    loss_of = outputs(model).square().sum()
    loss_of.backward()
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    attached.detach()
    assert sum(parameter.numel() for parameter in model.parameters()) == total


@pytest.mark.parametrize(
    ("fields", "modules"),
    [
        ({"attentions": "cross", "ffn": False}, 4),
        ({"attentions": "self", "only": ("text_decoder",)}, 2),
        ({"only": ("text_decoder.bert.encoder.layer.1", "text_encoder.encoder.layer.1.attention")}, 3),
    ],
)
def test_where(models: dict[str, Any], fields: dict[str, Any], modules: int) -> None:
    attached = attach_p_adapter(models[QUESTION], {**SETTINGS, **fields})
    assert sum(isinstance(module, PAdapter) for module in attached.model.modules()) == modules
    attached.detach()
    with pytest.raises(InputError, match="has no both attention under"):
        attach_p_adapter(models[QUESTION], {**SETTINGS, "only": ("vision_model",)})
    assert all(parameter.requires_grad for parameter in models[QUESTION].parameters())


@pytest.mark.parametrize("name", [CAPTION, QUESTION])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("config", [PAdapterConfig(**SETTINGS), PAdapterConfig.released(**SETTINGS, pooled_keys=4)])
def test_the_cache_changes_nothing(models: dict[str, Any], name: str, beams: int, config: PAdapterConfig) -> None:
    model = models[name]
    in_training(attach_p_adapter(model, config))
    given: dict[str, Any] = {"pixel_values": pictures(), "max_new_tokens": 6, "num_beams": beams, "do_sample": False}
    if name == QUESTION:
        given["input_ids"], given["attention_mask"] = texts()
    asked = {"output_logits": True, "return_dict_in_generate": True}
    with_cache = model.generate(use_cache=True, **given, **asked)
    without = model.generate(use_cache=False, **given, **asked)
    assert torch.equal(with_cache.sequences, without.sequences)
    for row, other in zip(with_cache.logits, without.logits, strict=True):
        torch.testing.assert_close(row, other, rtol=1e-6, atol=1e-6)
    # One step at a time says what the whole text at once says.
    if name == CAPTION and beams == 1:
        whole = model(pictures(), with_cache.sequences[:, :-1]).logits
        torch.testing.assert_close(torch.stack(with_cache.logits, 1), whole.float(), rtol=1e-6, atol=1e-6)


def test_a_cache_filled_before_attaching_is_read(models: dict[str, Any]) -> None:
    """Its values carry no features: they are computed."""
    model, (tokens, _) = models[CAPTION], texts()
    image = model.vision_model(pictures()).last_hidden_state
    given = {"encoder_hidden_states": image, "use_cache": True}
    past = model.text_decoder(tokens[:, :4], **given).past_key_values
    attached = attach_p_adapter(model, {**SETTINGS, "attentions": "cross", "ffn": False})
    after = model.text_decoder(tokens[:, 4:5], past_key_values=past, **given).logits
    attached.detach()
    past = model.text_decoder(tokens[:, :4], **given).past_key_values
    torch.testing.assert_close(after, model.text_decoder(tokens[:, 4:5], past_key_values=past, **given).logits)


def test_training_learns_p_and_lowers_the_loss(models: dict[str, Any]) -> None:
    attached = attach_p_adapter(models[CAPTION].train(), SETTINGS)
    optimizer = torch.optim.AdamW(attached.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss(attached.model)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0] - 0.5
    moved = [abs(float(module.p()) - 1.25) for module in attached.model.modules() if isinstance(module, PAdapter)]
    assert len(moved) == 4 and min(moved) > 1e-4


def test_gradient_checkpointing_changes_nothing(models: dict[str, Any]) -> None:
    attached = in_training(attach_p_adapter(models[CAPTION].train(), SETTINGS))
    loss(attached.model).backward()
    plain = {name: parameter.grad for name, parameter in attached.named_parameters()}
    for parameter in attached.parameters():
        parameter.grad = None
    model = attached.model
    # transformers renamed it within version 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    loss(attached.model).backward()
    for name, parameter in attached.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, plain[name])


def test_distributed(models: dict[str, Any], tmp_path: Path) -> None:
    attached = in_training(attach_p_adapter(models[CAPTION].train(), SETTINGS))
    tokens, mask = texts()
    loss(attached.model).backward()
    plain = {name: parameter.grad.clone() for name, parameter in attached.named_parameters()}
    attached.model.zero_grad()
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(attached.model)
        parallel(pictures(), tokens, mask, labels=tokens.masked_fill(mask == 0, -100)).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, parameter in attached.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_a_layer_compiles_without_a_break(models: dict[str, Any]) -> None:
    attached = in_training(attach_p_adapter(models[CAPTION], SETTINGS))
    expected = outputs(attached.model)
    layer = attached.model.text_decoder.bert.encoder.layer[1]
    calls = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    layer.compile(fullgraph=True, backend=calls)
    result = outputs(attached.model)
    torch.testing.assert_close(result, expected)
    assert calls.frame_count == 1
    parameters = list(attached.parameters())
    gradients = torch.autograd.grad(result.square().sum(), parameters)
    for gradient, plain in zip(gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, plain)


def test_bfloat16(models: dict[str, Any]) -> None:
    model = models[CAPTION].bfloat16().train()
    attached = in_training(attach_p_adapter(model, SETTINGS))
    kinds = {name.rpartition(".")[2]: parameter.dtype for name, parameter in attached.named_parameters()}
    assert kinds["weight"] == torch.bfloat16 and kinds["raw_p"] == kinds["theta"] == torch.float32
    tokens, mask = texts()
    value = model(float_pictures().bfloat16(), tokens, mask, labels=tokens).loss
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(parameter.grad).all() for parameter in attached.parameters())
    model.eval()
    generated = model.generate(float_pictures().bfloat16(), max_new_tokens=4)
    assert generated.shape[0] == 2


def test_a_copy_is_independent(models: dict[str, Any]) -> None:
    attached = in_training(attach_p_adapter(models[CAPTION], SETTINGS))
    before = outputs(attached.model)
    twin = copy.deepcopy(attached.model)
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.zero_()
    assert torch.equal(outputs(twin), before)
    assert not torch.allclose(outputs(attached.model), before)


def test_save_and_load(models: dict[str, Any], originals: dict[str, nn.Module], tmp_path: Path) -> None:
    attached = in_training(attach_p_adapter(models[CAPTION], SETTINGS))
    expected = outputs(attached.model)
    folder = attached.save(tmp_path / "adapter")
    header = json.loads((folder / "adapter.json").read_text())
    assert header["adapter"] == "p-adapter" and header["trainable_parameters"] == attached.trainable_parameters()
    size = (folder / "adapter.safetensors").stat().st_size
    assert 8 * attached.trainable_parameters() < size < 8 * attached.trainable_parameters() + 10_000

    fresh = attach_p_adapter(copy.deepcopy(originals[CAPTION]), SETTINGS)
    fresh.load(folder)
    assert torch.equal(outputs(fresh.model), expected)

    other = attach_p_adapter(copy.deepcopy(originals[CAPTION]), {**SETTINGS, "task": "caption"})
    with pytest.raises(InputError, match="saved with task='vqa', not 'caption'"):
        other.load(folder)
    fresh.detach()
    with pytest.raises(InputError, match="was detached"):
        fresh.load(folder)


def test_refused_files(models: dict[str, Any], tmp_path: Path) -> None:
    attached = in_training(attach_p_adapter(models[CAPTION], SETTINGS))
    folder = attached.save(tmp_path / "adapter")
    tensors = folder / "adapter.safetensors"
    content = tensors.read_bytes()

    with torch.no_grad():
        attached.model.vision_model.post_layernorm.weight.add_(1)
    changed = outputs(attached.model)
    with pytest.raises(InputError, match="trained on other frozen weights"):
        attached.load(folder)
    attached.load(folder, check_backbone=False)
    assert torch.equal(outputs(attached.model), changed)

    tensors.write_bytes(content[:-1])
    with pytest.raises(FileError, match=r"adapter\.safetensors is not the file"):
        attached.load(folder)
    tensors.unlink()
    with pytest.raises(FileError, match=r"adapter\.safetensors"):
        attached.load(folder)
    small = attach_p_adapter(tiny_blip(CAPTION, layers=1).double(), SETTINGS)
    attached.save(folder)
    with pytest.raises(FileError, match="does not fit this model at"):
        small.load(folder)


def test_unknown_models_get_one_sentence() -> None:
    with pytest.raises(InputError) as caught:
        attach_p_adapter(nn.Sequential(nn.Linear(3, 3)))
    said = str(caught.value)
    assert said.startswith("model is a Sequential") and "BlipForConditionalGeneration" in said and "CoCa" in said
    assert said.count(". ") == 0 and said.endswith(".")


def test_a_second_method_is_refused(models: dict[str, Any]) -> None:
    attach_p_adapter(models[CAPTION], SETTINGS)
    with pytest.raises(InputError, match="already carries the method 'p-adapter'"):
        attach_p_adapter(models[CAPTION], SETTINGS)


def test_a_failure_while_attaching_leaves_no_trace(models: dict[str, Any]) -> None:
    model = models[CAPTION]
    before, state = outputs(model), list(model.state_dict())
    with pytest.raises(InputError, match="reduction is 16"):
        attach_p_adapter(model, {"reduction": 16})
    attached = Attached(model, "test", PAdapterConfig())
    with pytest.raises(RuntimeError, match="stop"), attached.building():
        attached.add_module(model.text_decoder, "extra", nn.Linear(2, 2))
        attached.replace_forward(model.text_decoder, lambda module: None)
        attached.train_backbone(["vision_model.post_layernorm.weight"])
        with torch.no_grad():
            model.vision_model.post_layernorm.weight.zero_()
        raise RuntimeError("stop")
    assert list(model.state_dict()) == state and torch.equal(outputs(model), before)
    assert all(parameter.requires_grad for parameter in model.parameters())
