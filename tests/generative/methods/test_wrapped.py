"""Methods on models as people have them: compiled, parallel, checkpointed, quantised."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.generative.tasks import world
from tests.generative.tiny import in_training, pictures, texts, tiny_blip, tiny_coca
from vlmadapt import generative
from vlmadapt.errors import InputError
from vlmadapt.files import read_json, read_tensors, write_json, write_tensors
from vlmadapt.files import sha256_of_file as sha256
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.methods.registry import METHODS, attach
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.load import task_model
from vlmadapt.seals import without_seal
from vlmadapt.training import fingerprint_tensors

CAPTION, QUESTION, RETRIEVAL = "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"
SETTINGS: dict[str, dict[str, Any]] = {
    "p-adapter": {"reduction": 4},
    "lora": {"rank": 2},
    "bottleneck": {"width": 4},
    "prefix": {"length": 3},
}


def method(model: nn.Module, name: str) -> Any:
    return attach(model, name, SETTINGS.get(name))


def logits(model: Any) -> Tensor:
    tokens, mask = texts()
    return model(pictures(), tokens, mask).logits


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return tiny_blip(CAPTION)


def compiled(model: Any) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def decoder_compiled(model: Any) -> nn.Module:
    model.text_decoder = compiled(model.text_decoder)
    return model


def layer_checkpointed(model: Any) -> nn.Module:
    layers = model.text_decoder.bert.encoder.layer
    layers[1] = checkpoint_wrapper(layers[1])
    return model


WRAPPED: list[Callable[[Any], nn.Module]] = [
    compiled,
    nn.DataParallel,
    lambda model: compiled(nn.DataParallel(model)),
    lambda model: nn.DataParallel(compiled(model)),
    decoder_compiled,
    lambda model: compiled(decoder_compiled(model)),
    layer_checkpointed,
]


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("name", ["p-adapter", "lora", "bitfit"])
def test_a_wrapped_model_and_a_plain_one_share_their_files(
    original: nn.Module, wrap: Callable[[Any], nn.Module], name: str, tmp_path: Path
) -> None:
    plain = copy.deepcopy(original)
    wrapped = wrap(copy.deepcopy(original))
    one, other = method(plain, name), method(wrapped, name)
    assert [key for key, _ in one.named_parameters()] == [key for key, _ in other.named_parameters()]
    assert one.backbone_fingerprint() == other.backbone_fingerprint() and str(one) == str(other)
    in_training(other).save(tmp_path / "wrapped")
    one.load(tmp_path / "wrapped")
    torch.testing.assert_close(logits(plain), logits(other.model))
    for parameter in one.parameters():
        parameter.data.add_(0.1)
    one.save(tmp_path / "plain")
    other.load(tmp_path / "plain")
    torch.testing.assert_close(logits(plain), logits(other.model))
    assert "probed=True" in repr(other.check())
    for each in (one, other):
        each.detach()
    assert torch.equal(logits(plain), logits(original))


def test_what_is_compiled_runs_what_was_attached(original: nn.Module) -> None:
    """Compiled and called before: its graphs are made anew."""
    model = copy.deepcopy(original)
    faster: Any = compiled(model)
    before = logits(faster)
    attached = in_training(method(faster, "p-adapter"))
    assert attached.model is model and (logits(faster) - before).abs().max() > 1e-2
    torch.testing.assert_close(logits(faster), logits(model))
    with pytest.raises(InputError, match="already carries the method 'p-adapter'"):
        method(model, "bitfit")
    attached.detach()
    torch.testing.assert_close(logits(faster), before)


def test_wrapped_after_attaching(original: nn.Module, tmp_path: Path) -> None:
    model: Any = copy.deepcopy(original)
    attached = in_training(method(model, "p-adapter"))
    decoder_compiled(model)
    attached.save(tmp_path)
    fresh = method(copy.deepcopy(original), "p-adapter")
    fresh.load(tmp_path)
    torch.testing.assert_close(logits(fresh.model), logits(model))
    assert attached.detach() is model


@pytest.mark.parametrize("wrap", WRAPPED[:3])
def test_places_are_named_as_in_the_plain_model(original: nn.Module, wrap: Callable[[Any], nn.Module]) -> None:
    model = wrap(copy.deepcopy(original))
    attached = attach_p_adapter(model, {"reduction": 4, "only": ("text_decoder.bert.encoder.layer.1",)})
    assert {name.split(".")[4] for name, _ in attached.named_parameters()} == {"1"}
    attached.detach()
    biases = [name for name, _ in method(model, "bitfit").named_parameters()]
    assert biases and all(name.startswith("text_decoder.") for name in biases)  # the image tower is left alone


def test_a_file_that_0_1_0_wrote_for_a_compiled_model_is_read(original: nn.Module, tmp_path: Path) -> None:
    """Its names, and those its fingerprint is of, begin with those of the wrappers."""
    attached = in_training(method(copy.deepcopy(original), "p-adapter"))
    attached.save(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    place, prefix = tmp_path / "old", "_orig_mod.module."
    state, _ = read_tensors(place / "adapter.safetensors")
    write_tensors(place / "adapter.safetensors", {prefix + name: tensor for name, tensor in state.items()})
    frozen = {prefix + name: tensor for name, tensor in original.state_dict().items()}
    header = without_seal(read_json(place / "adapter.json"))  # which 0.1.0 did not write
    header |= {"tensors_sha256": sha256(place / "adapter.safetensors"), "model": "OptimizedModule"}
    write_json(place / "adapter.json", header | {"backbone_sha256": fingerprint_tensors(**frozen)})
    for model in (copy.deepcopy(original), compiled(copy.deepcopy(original))):
        fresh = method(model, "p-adapter")
        fresh.load(place)
        torch.testing.assert_close(logits(fresh.model), logits(attached.model))


def test_coca_and_tasks(tmp_path: Path) -> None:
    coca = tiny_coca()
    coca.text_decoder = compiled(coca.text_decoder)
    names = [name for name, _ in attach(compiled(coca), "p-adapter", {"reduction": 4}).named_parameters()]
    plain = attach(tiny_coca(), "p-adapter", {"reduction": 4})
    assert names == [name for name, _ in plain.named_parameters()]
    loaded = world.model("caption")
    view = task_model(GenerativeModel(loaded.name, compiled(loaded.model), *list(vars(loaded).values())[2:]))
    assert view.module is loaded.model


# Reentrant gradient checkpointing.


def loss(model: Any) -> Tensor:
    torch.manual_seed(4)  # of dropout
    tokens, mask = texts()
    if type(model).__name__ == RETRIEVAL:
        return model(tokens, pictures().double(), attention_mask=mask).itm_score.square().sum()
    return model(pictures().double(), tokens, mask, labels=tokens.masked_fill(mask == 0, -100)).loss


def gradients(attached: Any) -> dict[str, Tensor | None]:
    attached.model.zero_grad(set_to_none=True)
    run = loss if type(attached.model).__name__ != QUESTION else question_loss
    run(attached.model).backward()
    return {name: parameter.grad for name, parameter in attached.named_parameters()}


def question_loss(model: Any) -> Tensor:
    torch.manual_seed(4)
    tokens, mask = texts()
    return model(tokens, pictures().double(), labels=tokens, attention_mask=mask, decoder_attention_mask=mask).loss


@pytest.mark.parametrize("model_name", [CAPTION, QUESTION, RETRIEVAL])
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("frozen", "p-adapter-p2")])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # those of the frozen image tower
def test_checkpointing_changes_no_gradient(model_name: str, name: str, reentrant: bool) -> None:
    model = tiny_blip(model_name).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2  # of attentions too
    attached = in_training(attach(model, name, {**SETTINGS.get(name.removesuffix("-released"), {})}))
    attached.model.double()
    plain = gradients(attached)
    assert any(gradient is not None for gradient in plain.values())
    # transformers renamed it within version 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    found = gradients(attached)
    for key, gradient in plain.items():
        assert (found[key] is None) == (gradient is None), key
        if gradient is not None:
            torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-9)
    attached.detach()
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert not any(isinstance(hook, functools.partial) for hook in hooks)  # transformers' own may be left


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_before_attaching(reentrant: bool) -> None:
    found = []
    for checkpointed in (True, False):
        model = tiny_blip(QUESTION).double().train()
        if checkpointed:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        found.append(gradients(in_training(method(model, "p-adapter"))))
    for key, gradient in found[1].items():
        torch.testing.assert_close(found[0][key], gradient, rtol=1e-6, atol=1e-9)


def test_without_checkpoints_embeddings_ask_for_nothing() -> None:
    model = tiny_blip(CAPTION).train()
    method(model, "p-adapter")
    embedding: Any = model.text_decoder.bert.embeddings.word_embeddings
    assert not embedding(texts()[0]).requires_grad


# Quantised weights.


class Packed(nn.Linear):
    """As bitsandbytes keeps a layer: a linear layer of integers."""

    def __init__(self, of: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(of.in_features, of.out_features)
        self.weight = nn.Parameter(of.weight.detach().to(dtype), requires_grad=False)


class Grouped(nn.Module):
    """As GPTQ keeps one: no weight, a buffer of packed integers."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = of.in_features, of.out_features
        self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))


def dynamic(model: Any) -> None:
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def replaced(made: Callable[[nn.Linear], nn.Module]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        owner = model.text_decoder.bert.encoder.layer[0].attention.output
        owner.dense = made(owner.dense)

    return change


QUANTISED = {
    "packed weights": dynamic,
    "torch.int8 weights": replaced(lambda of: Packed(of, torch.int8)),
    "torch.uint8 weights": replaced(lambda of: Packed(of, torch.uint8)),
    "torch.float8_e4m3fn weights": replaced(lambda of: Packed(of, torch.float8_e4m3fn)),
    "torch.int32 weights": replaced(Grouped),
}


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("what", QUANTISED)
@pytest.mark.parametrize("name", METHODS)
def test_quantised_weights_are_refused_in_one_sentence(original: nn.Module, what: str, name: str) -> None:
    model = copy.deepcopy(original)
    QUANTISED[what](model)
    before = list(model.state_dict())
    with pytest.raises(
        InputError, match=rf"^model has {what} in [\w.]+ \(\w+\): load it with weights in float32, float16"
    ):
        method(model, name)
    assert list(model.state_dict()) == before and "_vlmadapt_method" not in model.__dict__


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_site_of_ones_own_is_looked_at_too(original: nn.Module) -> None:
    model: Any = copy.deepcopy(original)
    dynamic(model)
    with pytest.raises(InputError, match="model has packed weights"):
        attach_p_adapter(model, {"reduction": 4})


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_quantised_model_is_not_tuned(tmp_path: Path) -> None:
    loaded = world.model()
    dynamic(loaded.model)
    with pytest.raises(InputError, match="model has packed weights"):
        generative.tune(task="vqa", data=world.records("vqa", tmp_path), model=loaded, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
