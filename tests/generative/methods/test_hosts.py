"""One battery over every family that is reached through transformers' AttentionInterface."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

pytest.importorskip("transformers")

from tests.generative.tiny import in_training
from tests.generative.tiny_hosts import HOSTS, PICTURE
from vlmadapt.errors import FileError, IncompatibleLibrary, InputError
from vlmadapt.generative.methods import interface_sites
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.paper import PaperAdapter
from vlmadapt.generative.methods.registry import attach
from vlmadapt.generative.models import interface
from vlmadapt.generative.models.load import family_of, find_probe, find_sites

SETTINGS: dict[str, Any] = {"reduction": 4}


@pytest.fixture(scope="module")
def originals() -> dict[str, nn.Module]:
    return {}


def fresh(originals: dict[str, nn.Module], name: str) -> Any:
    if name not in originals:
        originals[name] = HOSTS[name]()
    model = copy.deepcopy(originals[name])
    if name.endswith("T5"):
        try:
            find_sites(model)
        except InputError as error:
            pytest.skip(str(error))
    return model


@pytest.fixture(params=HOSTS)
def model(request: Any, originals: dict[str, nn.Module]) -> Any:
    return fresh(originals, request.param)


def asked(model: Any, pad: str = "", short: int = 3) -> dict[str, Tensor]:
    """Two pictures, each with a text; with ``pad`` the second text is ``short`` tokens shorter, filled up there."""
    one: dict[str, Any] = find_probe(model).inputs()  # type: ignore[union-attr]
    both = {name: torch.cat([value, value]) for name, value in one.items()}
    both["pixel_values"] = torch.cat([one["pixel_values"], one["pixel_values"].flip(-1)])
    if pad:
        for name in (name for name in both if name in ("input_ids", "mm_token_type_ids", "token_type_ids")):
            row = both[name][1]
            kept, filler = row[: len(row) - short], row.new_zeros(short)
            both[name] = torch.stack([both[name][0], torch.cat([filler, kept] if pad == "left" else [kept, filler])])
        mask = torch.ones_like(both["input_ids"])
        mask[1, slice(None, short) if pad == "left" else slice(mask.shape[1] - short, None)] = 0
        both["attention_mask"] = mask
    return both


def text(model: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a loss is to learn: the text after the picture."""
    labels = given["input_ids"].masked_fill((given["attention_mask"] == 0) | (given["input_ids"] == PICTURE), -100)
    learnt = {"labels": labels[:, -4:].contiguous() if decoder(model) else labels}
    if "token_type_ids" in given:  # PaliGemma: the suffix, which is learnt, is not seen by what is before it
        return {**learnt, "token_type_ids": (labels != -100).int()}
    return learnt


def decoder(model: Any) -> bool:
    """Whether the language model has an encoder and a decoder."""
    return bool(model.config.get_text_config().is_encoder_decoder)


def logits(model: Any, given: dict[str, Tensor]) -> Tensor:
    more = {"decoder_input_ids": given["input_ids"][:, -3:].clamp(min=1)} if decoder(model) else {}
    return model(**given, **more, use_cache=False).logits


def loss(model: Any, pad: str = "right") -> Tensor:
    given = asked(model, pad)
    return model(**{**given, **text(model, given)}, use_cache=False).loss


def attached(model: Any, **fields: Any) -> Any:
    return attach_p_adapter(model, {**SETTINGS, **fields})


def implementations(model: Any) -> list[str]:
    found: dict[int, Any] = {}
    for module in model.modules():
        interface._collect(getattr(module, "config", None), found)
    return [config._attn_implementation for config in found.values()]


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_step_zero_and_detach(model: Any, before: str) -> None:
    try:
        model.set_attn_implementation(before)
    except ValueError as error:  # a Q-Former of transformers 5.0
        pytest.skip(f"{type(model).__name__} has no {before} attention here: {error}")
    given = asked(model, "left")
    with torch.no_grad():
        plain = logits(model, given)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    told, slots = implementations(model), [set(module.__dict__) for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    put = attached(model)
    seen = given["attention_mask"].bool() if not decoder(model) else slice(None)
    torch.testing.assert_close(logits(model, given)[seen], plain[seen], rtol=1e-4, atol=1e-4)
    in_training(put)
    assert (logits(model, given) - plain).abs().max() > 0.05
    put.detach()
    with torch.no_grad():
        assert torch.equal(logits(model, given), plain)
    assert implementations(model) == told and [set(module.__dict__) for module in model.modules()] == slots
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_a_training_step(model: Any) -> None:
    """Adapters alone have gradients, and the loss falls."""
    put = attached(model.train(), p=1.5)
    optimizer = torch.optim.AdamW(put.parameters(), lr=0.02)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0] - 0.05
    trained = {name for name, _ in put.named_parameters()}
    assert trained == {name for name in dict(model.named_parameters()) if "p_adapter" in name or "ffn_adapter" in name}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    adapters = [module for module in model.modules() if isinstance(module, PaperAdapter)]
    assert all(1 <= float(adapter.p()) <= 2 and abs(float(adapter.p()) - 1.5) > 1e-4 for adapter in adapters)


def test_labels_are_shifted_once(model: Any) -> None:
    in_training(attached(model))
    given = asked(model, "right")
    learnt = {**given, **text(model, given)}
    labels = learnt.pop("labels")
    if decoder(model):  # those are shifted on their way into the decoder
        start = model.config.get_text_config().decoder_start_token_id
        inputs = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1].clamp(min=0)], 1)
        said = model(**learnt, decoder_input_ids=inputs, use_cache=False).logits
    else:
        said, labels = model(**learnt, use_cache=False).logits[:, :-1], labels[:, 1:]
    truth = nn.functional.cross_entropy(said.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(loss(model), truth, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cache_changes_nothing(model: Any) -> None:
    in_training(attached(model))
    given = asked(model, "left")
    words = {"max_new_tokens": 5, "min_new_tokens": 5, "suppress_tokens": [PICTURE], "do_sample": False}
    asks: dict[str, Any] = {**words, "output_logits": True, "return_dict_in_generate": True}
    with_cache = model.generate(**given, use_cache=True, **asks)
    without = model.generate(**given, use_cache=False, **asks)
    probe = find_probe(model)
    assert probe is not None
    for row, other in zip(probe.text(True).logits, probe.text(False).logits, strict=True):
        torch.testing.assert_close(row, other, rtol=0, atol=1e-5)
    for step, (row, other) in enumerate(zip(with_cache.logits, without.logits, strict=True)):
        if step and old_generate(model) and not torch.allclose(row, other, rtol=0, atol=1e-5):
            pytest.skip("generate of this transformers says another text than whole forwards without a cache")
        torch.testing.assert_close(row, other, rtol=0, atol=1e-5)


def old_generate(model: Any) -> bool:
    """Whether generate without a cache is other than whole forwards, in versions before that of these tests."""
    import transformers

    old = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24)
    return old and type(model).__name__.startswith(("SmolVLM", "Idefics3", "PaliGemma"))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model: Any, side: str) -> None:
    in_training(attached(model))
    given = asked(model, side)
    alone = {name: value for name, value in asked(model).items()}
    short = {name: value[1:] for name, value in alone.items() if name not in ("pixel_values", "image_grid_thw")}
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in short:
            short[name] = short[name][:, :-3]
    pixels = alone["pixel_values"]
    short["pixel_values"] = pixels[len(pixels) // 2 :]
    if "image_grid_thw" in alone:
        short["image_grid_thw"] = alone["image_grid_thw"][1:]
    if decoder(model):
        steps = {"decoder_input_ids": torch.tensor([[0, 7, 9]])}
        once = model(**short, **steps).logits
        found = model(**given, decoder_input_ids=steps["decoder_input_ids"].expand(2, -1)).logits[1:]
    else:
        once, found = logits(model, short), logits(model, given)[1:]
        found = found[:, 3:] if side == "left" else found[:, :-3]
    torch.testing.assert_close(found, once, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bfloat16(model: Any) -> None:
    wide = copy.deepcopy(model)
    put = [in_training(attached(each)) for each in (wide, model.bfloat16())]
    kinds = {name.rpartition(".")[2]: parameter.dtype for name, parameter in put[1].named_parameters()}
    assert kinds["weight"] == torch.bfloat16 and kinds["raw_p"] == kinds["theta"] == torch.float32
    given = asked(model, "left")
    narrow = {name: value.bfloat16() if value.is_floating_point() else value for name, value in given.items()}
    found, truth = logits(model, narrow).float(), logits(wide, given)
    assert (found - truth).norm() < 0.1 * truth.norm()
    with torch.enable_grad():
        value = model(**{**narrow, **text(model, narrow)}).loss
        value.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in put[1].parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(model: Any, reentrant: bool) -> None:
    put = in_training(attached(model.train()))
    loss(model).backward()
    plain = {name: parameter.grad.clone() for name, parameter in put.named_parameters()}
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": reentrant})
    except TypeError:
        enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    loss(model).backward()
    for name, parameter in put.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-5)


def test_it_compiles(model: Any) -> None:
    """Every adapted attention in one graph."""
    torch._dynamo.reset()
    put = in_training(attached(model, ffn=False))
    given = asked(model, "left")
    expected = logits(model, given)
    calls = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for site in find_sites(model).attentions:
        site.owner.compile(fullgraph=True, backend=calls)
    found = logits(model, given)
    assert calls.frame_count <= len(find_sites(model).attentions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    parameters = list(put.parameters())
    gradients = [torch.autograd.grad(said.square().mean(), parameters) for said in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_save_and_load(model: Any, originals: dict[str, nn.Module], tmp_path: Path, request: Any) -> None:
    put = in_training(attached(model))
    given = asked(model)
    expected, folder = logits(model, given), put.save(tmp_path / "adapter")
    header = json.loads((folder / "adapter.json").read_text())
    assert header["config"]["form"] == "paper" and header["trainable_parameters"] == put.trainable_parameters()
    again = attached(fresh(originals, request.node.callspec.params["model"]))
    assert not torch.allclose(logits(again.model, given), expected)
    again.load(folder)
    assert torch.equal(logits(again.model, given), expected)


def test_loading_is_strict_both_ways(model: Any, tmp_path: Path) -> None:
    whole = in_training(attached(model))
    whole.save(tmp_path / "whole")
    whole.detach()
    part = attached(model, ffn=False)
    part.save(tmp_path / "part")
    part.config = whole.config  # so that the tensors alone disagree
    with pytest.raises(FileError, match=r"whole does not fit this model at .*ffn_adapter"):
        part.load(tmp_path / "whole")
    part.detach()
    whole = attached(model, ffn=False)
    whole.save(tmp_path / "part")
    whole.detach()
    whole = attached(model)
    whole.config = part.config = attached_config(ffn=False)
    with pytest.raises(FileError, match=r"part does not fit this model at .*ffn_adapter"):
        whole.load(tmp_path / "part")


def attached_config(**fields: Any) -> PAdapterConfig:
    return PAdapterConfig(**SETTINGS, **fields).of_form("paper")


def test_show_lists_every_adapted_module(model: Any) -> None:
    family, put = family_of(model), attached(model, tower=True)
    assert family is not None
    sites = family.sites(model), family.tower_sites(model)
    lines = put.show().splitlines()
    names = [line.split()[0] for line in lines[:-1]]
    assert lines[-1] == str(put) and len(set(names)) == len(names)
    for number, part in enumerate(("text", "image")):
        wanted = {f"{site.name}.p_adapter" for site in sites[number].attentions}
        wanted |= {f"{site.name}.ffn_adapter" for site in sites[number].feed_forwards}
        assert wanted == {line.split()[0] for line in lines[:-1] if line.split()[1] == part}
    assert sum(int(line.split()[2].replace(",", "")) for line in lines[:-1]) == put.trainable_parameters()


def test_the_tower_on_request(model: Any) -> None:
    """It is reached, step 0 is the frozen model, and texts come out the same with a cache."""
    given = asked(model)
    plain = logits(model, given)
    text_only = attached(model)
    assert not any(name.startswith(family_of(model).tower) for name, _ in text_only.named_parameters())  # type: ignore[union-attr]
    text_only.detach()
    put = attached(model, tower=True)
    torch.testing.assert_close(logits(model, given), plain, rtol=1e-4, atol=1e-4)
    assert put.check().modules > 2 * len(find_sites(model).attentions)


def test_where_the_papers_start_has_degrees(model: Any) -> None:
    """Nowhere in what decodes; texts come out the same with a cache."""
    put = attached(model, start="paper", tower=True)
    adapters = {name: module for name, module in model.named_modules() if isinstance(module, PaperAdapter)}
    degrees = {name for name, adapter in adapters.items() if adapter.options["degree"] == "paper"}
    family = family_of(model)
    assert family is not None
    image = {name for name in adapters if family.part_of(name) == "image"}
    assert image and degrees - image == {name for name in adapters if name.startswith("language_model.encoder")}
    assert image <= degrees and put.check().cached
    assert in_training(put) and put.check().cached


def test_attentions_that_are_left_out_are_the_models_own(model: Any) -> None:
    site = find_sites(model).attentions[-1]
    given = asked(model, "left")
    put = attached(model, only=(site.name,))
    assert [name for name, module in model.named_modules() if isinstance(module, PaperAdapter)] == [
        f"{site.name}.p_adapter"
    ]
    in_training(put)
    said = logits(model, given)
    put.detach()
    assert not torch.allclose(logits(model, given), said)


def test_a_copy_is_independent(model: Any) -> None:
    put = in_training(attached(model))
    given = asked(model)
    before = logits(model, given)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in put.parameters():
            parameter.zero_()
    assert torch.equal(logits(twin, given), before) and not torch.allclose(logits(model, given), before)


def test_other_forms_get_one_sentence(model: Any) -> None:
    for form in ("gated", "released"):
        with pytest.raises(
            InputError, match=f"form is '{form}', which keeps node features beside the values"
        ) as caught:
            attached(model, form=form)
        assert str(caught.value).count(". ") == 0 and "use form='paper'" in str(caught.value)
    assert attached(model).config.form == "paper"


RIVALS: dict[str, dict[str, Any]] = {"bottleneck": {"width": 4}, "prefix": {"length": 3}, "lora": {"rank": 2}}


@pytest.mark.parametrize("method", RIVALS)
def test_rivals_of_the_same_size(model: Any, method: str) -> None:
    check = attach(model, method, RIVALS[method]).check()
    assert check.cached and check.modules and check.at_start


# The whole of it in two processes.


def of_process(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        model = HOSTS["Qwen2VL"]().train()
        put = in_training(attached(model))
        parallel = nn.parallel.DistributedDataParallel(model)
        given = asked(model)
        half = {name: value[rank * len(value) // 2 : (rank + 1) * len(value) // 2] for name, value in given.items()}
        parallel(**half, labels=half["input_ids"], use_cache=False).loss.backward()
        if rank == 0:
            torch.save({name: parameter.grad for name, parameter in put.named_parameters()}, folder)
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_see_the_same_gradients(tmp_path: Path) -> None:
    found = tmp_path / "gradients"
    torch.multiprocessing.spawn(of_process, (f"file://{tmp_path / 'store'}", str(found)), nprocs=2)
    model = HOSTS["Qwen2VL"]().train()
    put = in_training(attached(model))
    given = asked(model)
    model(**given, labels=given["input_ids"], use_cache=False).loss.backward()
    for name, gradient in torch.load(found, weights_only=True).items():
        torch.testing.assert_close(gradient, put.model.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


# What the interface hands over.


@pytest.fixture
def attention(originals: dict[str, nn.Module]) -> Any:
    model = fresh(originals, "Llava")
    in_training(attached(model))
    owner = find_sites(model).attentions[0].owner
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, heads, 6, 8, generator=generator) for heads in (4, 2, 2))

    def run(**options: Any) -> Tensor:
        owner.q_proj.__dict__[interface.PROJECTED] = query.transpose(1, 2).flatten(2)
        return interface.attend(owner, query, key, value, options.pop("mask", None), **options)[0]

    return run


@pytest.mark.parametrize("name", interface.ATTENTION.no_effect)
def test_what_is_said_to_be_without_effect_is(attention: Any, name: str) -> None:
    assert torch.equal(attention(**{name: 7}), attention())


@pytest.mark.parametrize("name", interface.ATTENTION.refuses)
def test_what_is_refused_is(attention: Any, name: str) -> None:
    attention(**{name: None})
    with pytest.raises(InputError, match=rf"The attention was given {name}: "):
        attention(**{name: 1.5})


def test_an_unknown_argument_is_not_swallowed(attention: Any) -> None:
    with pytest.raises(IncompatibleLibrary, match="was given 'sinks', which is not known here"):
        attention(sinks=1)


def test_what_is_used_is(attention: Any) -> None:
    plain = attention()
    for options in ({"scaling": 1.0}, {"is_causal": False}, {"position_bias": torch.randn(1, 4, 6, 6)}):
        assert not torch.allclose(attention(**options), plain), options
    torch.manual_seed(0)
    assert not torch.allclose(attention(dropout=0.5), plain)
    torch.testing.assert_close(attention(sliding_window=6), plain)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(attention(mask=causal, sliding_window=2), plain)
    torch.testing.assert_close(attention(mask=torch.zeros(1, 1, 6, 6).masked_fill(~causal, -torch.inf)), plain)
    torch.testing.assert_close(attention(position_bias=torch.zeros(1, 4, 6, 6)), plain)
    torch.testing.assert_close(attention(mask=causal, position_bias=torch.zeros(1, 4, 6, 6)), plain)


def test_masks_that_are_not_there_get_one_sentence(attention: Any) -> None:
    with pytest.raises(InputError, match="given sliding_window=3 without a mask that has it"):
        attention(sliding_window=3)
    with pytest.raises(InputError, match=r"attention_mask is .*\[2, 6\].* but must be \[B, 1 or H, Lq, Lk\]"):
        attention(mask=torch.ones(2, 6))


@torch.no_grad()
def test_a_sliding_window_reaches_the_adapter() -> None:
    """Texts beyond the window: step 0 is the frozen model still."""
    transformers = pytest.importorskip("transformers")
    from tests.generative.tiny_hosts import TEXT, widened

    model: Any = widened(transformers.MistralForCausalLM(transformers.MistralConfig(**TEXT, sliding_window=4)))
    numbers = torch.arange(12)[None] + 6
    plain = model(numbers).logits
    attach_p_adapter(model, SETTINGS, sites=interface_sites(model, "model"))
    torch.testing.assert_close(model(numbers).logits, plain, rtol=1e-4, atol=1e-4)
    steps = model.generate(numbers, max_new_tokens=4, min_new_tokens=4, output_logits=True,
                           return_dict_in_generate=True)  # fmt: skip
    whole = model(steps.sequences).logits[:, -5:-1]
    torch.testing.assert_close(torch.stack(steps.logits, 1), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_soft_caps_get_one_sentence() -> None:
    transformers = pytest.importorskip("transformers")
    from tests.generative.tiny_hosts import TEXT, widened

    model: Any = widened(transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**TEXT, head_dim=8)))
    attach_p_adapter(model, SETTINGS, sites=interface_sites(model))
    with pytest.raises(InputError, match="given softcap: soft caps on the scores are not known here"):
        model(torch.arange(6)[None] + 6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["Llava", "Qwen2VL"])
def test_a_cache_of_fixed_size(originals: dict[str, nn.Module], name: str) -> None:
    model = fresh(originals, name)
    in_training(attached(model))
    given = asked(model)
    words: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [PICTURE]}
    words |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    growing = model.generate(**given, **words)
    fixed = model.generate(**given, **words, cache_implementation="static", disable_compile=True)
    for row, other in zip(fixed.logits, growing.logits, strict=True):
        torch.testing.assert_close(row, other, rtol=0, atol=1e-5)


@torch.no_grad()
def test_paligemma_without_its_types_does_not_see_the_future(originals: dict[str, nn.Module]) -> None:
    """Then transformers' own scaled dot-product attention does, and its eager one does not."""
    model = fresh(originals, "PaliGemma")
    given = asked(model)
    given.pop("token_type_ids", None)
    model.set_attn_implementation("eager")
    plain = logits(model, given)
    attached(model)
    torch.testing.assert_close(logits(model, given), plain, rtol=1e-4, atol=1e-4)


def test_unknown_models_get_one_sentence() -> None:
    with pytest.raises(InputError) as caught:
        attach_p_adapter(nn.Sequential(nn.Linear(3, 3)))
    said = str(caught.value)
    assert "Qwen2VLForConditionalGeneration" in said and "interface_sites(model, NAME)" in said
    assert said.count(". ") == 0 and said.endswith(".")
    with pytest.raises(InputError, match=r"without an attention under \['0'\] that asks AttentionInterface"):
        interface_sites(nn.Sequential(nn.Linear(3, 3)), "0")
