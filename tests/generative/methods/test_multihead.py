"""The p-adapter on CoCa of open_clip, on nn.MultiheadAttention, and on a module of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.generative.tiny import in_training, pictures, texts, tiny_coca
from vlmadapt.errors import InputError
from vlmadapt.generative.methods import AttentionSite, Sites, attention_adapter, multihead_site, multihead_sites
from vlmadapt.generative.methods.p_adapter import PAdapter, attach_p_adapter
from vlmadapt.generative.models.multihead import multihead_forward

SETTINGS = {"reduction": 4, "ffn": False}


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 4, dtype=torch.float64, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def sequences(batch_first: bool = True, width: int = 16, key_width: int = 16, value_width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = ((2, 3, width), (2, 5, key_width), (2, 5, value_width))
    made = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return made if batch_first else [x.transpose(0, 1) for x in made]


PADDING = torch.tensor([[False, False, False, True, True], [False] * 5])
CAUSAL = torch.ones(3, 5, dtype=torch.bool).triu(1)
FLOATS = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 6, "vdim": 10}])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": CAUSAL},
        {"attn_mask": FLOATS},
        {"attn_mask": FLOATS.expand(8, 3, 5)},
        {"key_padding_mask": PADDING},
        {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
        {
            "key_padding_mask": torch.zeros(2, 5, dtype=torch.float64).masked_fill(PADDING, -torch.inf),
            "attn_mask": FLOATS,
        },
        {"attn_mask": FLOATS, "need_weights": True},
        {"attn_mask": CAUSAL, "need_weights": True, "average_attn_weights": False},
    ],
)
def test_spelt_out_attention_is_torchs(options: dict[str, Any], masks: dict[str, Any]) -> None:
    module = attention(**options)
    given = sequences(options.get("batch_first", False), 16, options.get("kdim", 16), options.get("vdim", 16))
    masks = {"need_weights": False, **masks}
    expected, weights = module(*given, **masks)
    query, key, value = given
    result, ours = multihead_forward()(module, query, key, value, **masks)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    assert (ours is None) == (weights is None)
    if ours is not None:
        torch.testing.assert_close(ours, weights, rtol=0, atol=1e-12)


def test_without_a_batch() -> None:
    module = attention()
    query, key, value = (x[0] for x in sequences())
    ours, theirs = multihead_forward()(module, query, key, value), module(query, key, value)
    for result, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_attached_to_one_attention() -> None:
    attn = attention(batch_first=True)
    module = nn.ModuleDict({"attn": attn})
    given = sequences()
    before, _ = module["attn"](*given)
    sites = Sites([multihead_site("attn", attn, "cross")])
    attached = attach_p_adapter(module, SETTINGS, sites=sites)
    torch.testing.assert_close(module["attn"](*given)[0], before, rtol=0, atol=1e-12)
    in_training(attached)
    assert not torch.allclose(module["attn"](*given)[0], before)
    attached.detach()
    assert torch.equal(module["attn"](*given)[0], before)
    assert not module["attn"]._forward_pre_hooks


def test_options_that_are_not_known_are_refused() -> None:
    for option in ("add_bias_kv", "add_zero_attn"):
        module = nn.Sequential(nn.MultiheadAttention(16, 4, **{option: True}))
        with pytest.raises(InputError, match=f"0 was made with {option}"):
            multihead_sites(module)


@pytest.mark.parametrize("padding", [False, True])
def test_torchs_encoder_has_no_way_around_the_adapter(padding: bool) -> None:
    """Its fused evaluation does not call the attention."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    model.use_nested_tensor = False
    x = sequences()[1].float()
    given = {"src_key_padding_mask": PADDING} if padding else {}
    with torch.no_grad():
        before = model(x, **given)[:, :3]
        attached = in_training(attach_p_adapter(model, SETTINGS, sites=multihead_sites(model)))
        after = model(x, **given)[:, :3]
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        slow = model(x, **given)[:, :3]
        attached.detach()
        torch.testing.assert_close(model.eval()(x, **given)[:, :3], before, rtol=1e-5, atol=1e-6)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, slow, rtol=1e-5, atol=1e-6)
    if padding:
        model.use_nested_tensor = True
        attach_p_adapter(model, SETTINGS, sites=multihead_sites(model))
        with torch.no_grad(), pytest.raises(InputError, match="set use_nested_tensor = False"):
            model(x, **given)


def test_torchs_decoder() -> None:
    layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerDecoder(layer, 1).eval()
    sites = multihead_sites(model, cross=("multihead_attn",))
    assert [(site.name, site.kind) for site in sites.attentions] == [
        ("layers.0.self_attn", "self"),
        ("layers.0.multihead_attn", "cross"),
    ]
    x, memory, _ = (tensor.float() for tensor in sequences())
    before = model(x, memory)
    attached = attach_p_adapter(model, SETTINGS, sites=sites)
    torch.testing.assert_close(model(x, memory), before)
    model(x, memory).square().sum().backward()
    assert all(parameter.grad is not None for parameter in attached.parameters())


class Own(nn.Module):
    """A user's attention with one key and value head for all query heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 16)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
        key, value = (y.unsqueeze(1).expand(-1, 4, -1, -1) for y in self.kv(x).chunk(2, -1))
        return query, key, value

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.projected(x)
        context = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(context.transpose(1, 2).flatten(2))


def own_forward(self: Any, x: Tensor) -> Tensor:
    adapter: Any = attention_adapter(self)
    return adapter(*self.projected(x), self.out, is_causal=True)


def test_a_module_of_the_users_own() -> None:
    """As docs/p_adapter.md shows it."""
    owns = [Own(), Own()]
    model = nn.Sequential(*owns)
    x = torch.randn(2, 5, 16)
    before = model(x)
    sites = Sites([AttentionSite(str(i), "self", own, 4, own.out, [(own, own_forward)]) for i, own in enumerate(owns)])
    attached = attach_p_adapter(model, SETTINGS, sites=sites)
    torch.testing.assert_close(model(x), before)
    in_training(attached)
    assert not torch.allclose(model(x), before)
    attached.detach()
    assert torch.equal(model(x), before)


def logits(model: Any) -> Tensor:
    tokens, _ = texts(2, 9)
    return model(pictures().double(), tokens)["logits"]


@pytest.fixture
def coca() -> Any:
    return tiny_coca().double()


def test_coca_step_zero_detach_and_reload(coca: Any, tmp_path: Any) -> None:
    before, state = logits(coca), {key: value.clone() for key, value in coca.state_dict().items()}
    attached = attach_p_adapter(coca, {"reduction": 4})
    torch.testing.assert_close(logits(coca), before, rtol=0, atol=1e-10)
    in_training(attached)
    trained = logits(coca)
    assert (trained - before).abs().max() > 1e-2
    folder = attached.save(tmp_path)
    attached.detach()
    assert torch.equal(logits(coca), before)
    assert coca.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in coca.state_dict().items())
    attached = attach_p_adapter(coca, {"reduction": 4})
    attached.load(folder)
    assert torch.equal(logits(coca), trained)


def test_coca_adapts_both_halves_of_the_text_decoder(coca: Any) -> None:
    attached = attach_p_adapter(coca, {"reduction": 4})
    adapters = {name for name, module in coca.named_modules() if isinstance(module, PAdapter)}
    assert adapters == {
        f"{prefix}.{number}.attn.p_adapter"
        for prefix in ("text.transformer.resblocks", "text_decoder.resblocks", "text_decoder.cross_attn")
        for number in range(2)
    }
    assert not any(name.startswith("visual") for name, _ in attached.named_parameters())
    attached.detach()
    decoder = attach_p_adapter(coca, {"reduction": 4, "only": ("text_decoder",)})
    assert all(name.startswith("text_decoder.") for name, _ in decoder.named_parameters())


def test_coca_gradient_checkpointing(coca: Any) -> None:
    attached = in_training(attach_p_adapter(coca.train(), {"reduction": 4}))
    logits(coca).square().sum().backward()
    plain = {name: parameter.grad for name, parameter in attached.named_parameters()}
    coca.zero_grad()
    coca.set_grad_checkpointing(True)
    logits(coca).square().sum().backward()
    for name, parameter in attached.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_coca_in_bfloat16(coca: Any) -> None:
    coca.bfloat16().train()
    attached = in_training(attach_p_adapter(coca, {"reduction": 4}))
    tokens, _ = texts(2, 9)
    value = coca(pictures().bfloat16(), tokens)["logits"].float().square().mean()
    value.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in attached.parameters())
