"""One battery over every method that attaches to a generative model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from vlmadapt.errors import FileError, InputError
from vlmadapt.generative.methods.bottleneck import Bottleneck
from vlmadapt.generative.methods.registry import METHODS, attach, make_config
from vlmadapt.generative.models.small import SmallBlipConfig, build_small

TINY = SmallBlipConfig(width=32, heads=2, vision_layers=1, text_layers=1, image_size=16, patch_size=8, max_length=12)
WORDS = 20
TRAINED = [name for name in METHODS if name != "frozen"]


@pytest.fixture(params=["vqa", "caption"])
def kind(request):
    return request.param


def build(kind: Any) -> nn.Module:
    if kind == "coca":
        return build_coca()
    torch.manual_seed(3)
    return build_small(kind, WORDS, TINY)


def build_coca() -> nn.Module:
    open_clip = pytest.importorskip("open_clip")
    from open_clip.coca_model import CoCa

    assert open_clip
    torch.manual_seed(3)
    text = {"context_length": 12, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 1, "embed_cls": True,
            "output_tokens": True}  # fmt: skip
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "attentional_pool": True,
              "attn_pooler_heads": 2, "output_tokens": True}  # fmt: skip
    multimodal = {"context_length": 12, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 1}
    model = CoCa(32, multimodal, text, vision).eval()
    for name, parameter in model.named_parameters():  # open_clip leaves some of them as memory was
        nn.init.constant_(parameter, 1.0) if "ln" in name and "weight" in name else nn.init.normal_(parameter, std=0.1)
    return model


def logits(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 16, 16, generator=generator)
    words = torch.randint(5, WORDS, (2, 6), generator=generator)
    if type(model).__name__ == "CoCa":
        return model(pixels, words)["logits"]
    features = model.vision_model(pixel_values=pixels).last_hidden_state
    if hasattr(model, "text_encoder"):
        features = model.text_encoder(input_ids=words, encoder_hidden_states=features).last_hidden_state
    return model.text_decoder(input_ids=words, encoder_hidden_states=features, use_cache=False).logits


def train(attached, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(attached.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        logits(attached.model).square().mean().backward()
        optimizer.step()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def settings(method: str):
    """Reduction 4 leaves the tiny model's heads something to work with."""
    return {"reduction": 4} if method.startswith("p-adapter") else None


def made(kind: str, method: str, seed: int = 0):
    model = build(kind)
    return attach(model, method, make_config(method, "vqa", settings(method)), seed)


@pytest.fixture(autouse=True)
def reduction(monkeypatch):
    """The sizes that match a p-adapter ask for one of default reduction, which the tiny model is too narrow for."""
    from vlmadapt.generative.methods import p_adapter

    original = p_adapter.attach_p_adapter
    monkeypatch.setattr(
        p_adapter,
        "attach_p_adapter",
        lambda model, config=None, **more: original(model, config or {"reduction": 4}, **more),
    )


@pytest.mark.parametrize("method", METHODS)
def test_step_zero_is_the_frozen_model(kind, method):
    before, now = logits(build(kind)), logits(made(kind, method).model)
    if method == "prefix":  # attended to from the start
        assert not torch.allclose(now, before, rtol=1e-2, atol=1e-3)
        return
    if method == "p-adapter-paper":
        assert not torch.allclose(now, before, rtol=1e-2, atol=1e-3)
        model = build(kind)
        attach(model, method, {"reduction": 4, "start": "frozen"})
        now = logits(model)
    torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", TRAINED)
def test_training_moves_what_trains_and_nothing_else(kind, method):
    attached = made(kind, method)
    trained = {name for name, _ in attached.named_parameters()}
    before, frozen_print = state(attached.model), attached.backbone_fingerprint()
    train(attached)
    after = state(attached.model)
    tied = {"text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.decoder.weight"}
    changed = {name for name in before if not torch.equal(before[name], after[name])} - tied
    assert changed and changed <= trained
    assert attached.backbone_fingerprint() == frozen_print
    assert not torch.equal(logits(attached.model), logits(build(kind)))


@pytest.mark.parametrize("method", METHODS)
def test_detach_restores_everything(kind, method):
    attached = made(kind, method)
    if method != "frozen":
        train(attached)
    model = attached.detach()
    original = build(kind)
    assert state(model).keys() == state(original).keys()
    assert all(torch.equal(tensor, state(original)[name]) for name, tensor in state(model).items())
    assert torch.equal(logits(model), logits(original))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert dict(model.__dict__).keys() == dict(original.__dict__).keys()
    attach(model, "bitfit").detach()


@pytest.mark.parametrize("method", TRAINED)
def test_save_and_load_round_trip(kind, method, tmp_path):
    attached = made(kind, method)
    train(attached)
    attached.save(tmp_path)
    other = made(kind, method, seed=5)
    other.load(tmp_path)
    assert torch.equal(logits(other.model), logits(attached.model))
    assert other.trainable_parameters() == attached.trainable_parameters()
    if method != "full":
        size = (tmp_path / "adapter.safetensors").stat().st_size
        assert size < 4 * attached.trainable_parameters() + 20_000  # nothing of the backbone is in it


@pytest.mark.parametrize("method", TRAINED)
def test_the_seed_decides_the_start_and_the_global_generator_is_left_alone(method):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = dict(made("vqa", method, 1).named_parameters())
    torch.manual_seed(11)
    model = build("vqa")
    torch.set_rng_state(before)
    second = dict(attach(model, method, make_config(method, "vqa", settings(method)), 1).named_parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if method not in ("full", "bitfit"):
        third = dict(made("vqa", method, 2).named_parameters())
        assert any(not torch.equal(first[name], third[name]) for name in first)


def test_sizes_match_the_p_adapter():
    wanted = made("vqa", "p-adapter").trainable_parameters()
    for method in ("bottleneck", "prefix", "lora", "rslora"):
        assert abs(made("vqa", method).trainable_parameters() / wanted - 1) < 0.1
    assert abs(made("vqa", "p-adapter-p2").trainable_parameters() - wanted) <= 4  # its p does not train
    assert made("vqa", "bitfit").trainable_parameters() < wanted < made("vqa", "full").trainable_parameters()


@pytest.mark.parametrize("kind", ["vqa", "caption", "coca"])
def test_every_bottleneck_is_applied_once_to_its_layer(kind):
    """Not a second time as the child of a sequence."""
    attached = made(kind, "bottleneck")
    calls: list[Bottleneck] = []
    for module in attached.model.modules():
        if isinstance(module, Bottleneck):
            module.register_forward_hook(lambda module, inputs, output: calls.append(module))
    logits(attached.model)
    assert len(calls) == len(set(map(id, calls))) == sum(isinstance(m, Bottleneck) for m in attached.model.modules())


@pytest.mark.parametrize("method", ["bottleneck", "prefix", "lora", "bitfit", "full", "p-adapter"])
def test_coca_is_adapted_too(method, tmp_path):
    original = logits(build("coca"))
    attached = made("coca", method)
    if method != "prefix":
        torch.testing.assert_close(logits(attached.model), original, rtol=1e-4, atol=1e-5)
    train(attached)
    trained = logits(attached.model)
    assert not torch.equal(trained, original)
    attached.save(tmp_path)
    other = made("coca", method, seed=5)
    other.load(tmp_path)
    torch.testing.assert_close(logits(other.model), trained)
    model = attached.detach()
    assert state(model).keys() == state(build("coca")).keys()
    assert torch.equal(logits(model), original)


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(InputError, match="method is 'adapters'"):
        attach(build("vqa"), "adapters")
    with pytest.raises(InputError, match=r"LoRAConfig\.rank is 0"):
        attach(build("vqa"), "lora", {"rank": 0})
    with pytest.raises(InputError, match="has no field 'width'"):
        make_config("lora", "vqa", {"width": 3})
    with pytest.raises(InputError, match="not known here"):
        attach(nn.Linear(2, 2), "bottleneck")
    attached = made("vqa", "lora")
    with pytest.raises(InputError, match="already carries the method 'lora'"):
        attach(attached.model, "bitfit")
    attached.save(tmp_path)
    with pytest.raises(InputError, match="holds the method 'lora'"):
        made("vqa", "bottleneck").load(tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(FileError):
        made("vqa", "lora").load(tmp_path)
