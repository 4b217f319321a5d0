"""The p-adapter in the paper's form: its equations written out, its starts, its controls, and where degrees are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from tests.generative.tiny import in_training, pictures, texts, tiny_blip
from vlmadapt.errors import InputError
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.methods.p_config import RELEASED, PAdapterConfig
from vlmadapt.generative.methods.paper import PaperAdapter
from vlmadapt.generative.methods.registry import attach

WIDTH, HEADS, SIZE = 12, 3, 4
PAPER = {"form": "paper", "reduction": 2}


def made(decoder: bool = False, **fields: Any) -> PaperAdapter:
    """An adapter in the middle of its training."""
    generator = torch.Generator().manual_seed(3)
    config = PAdapterConfig(**{**PAPER, **fields})
    options: dict[str, Any] = {"decoder": decoder, "dtype": torch.float64, "generator": generator}
    adapter = PaperAdapter(WIDTH, HEADS, SIZE, config, **options)
    with torch.no_grad():
        for parameter in adapter.plain.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if adapter.theta is not None:
            adapter.theta.fill_(0.4)
    return adapter


def inputs(queries: int = 3, keys: int = 5, groups: int = HEADS) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(2, heads, length, SIZE, generator=generator, dtype=torch.float64)
        for heads, length in ((HEADS, queries), (groups, keys), (groups, keys))
    )
    torch.manual_seed(1)
    return {"query": query, "key": key, "value": value, "output": nn.Linear(WIDTH, WIDTH).double()}


def probabilities(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT * SIZE**-0.5).softmax(-1)


def written_out(attention: Tensor, x_query: Tensor, x_value: Tensor, p: float, mu: float) -> Tensor:
    """Equations 9 and 12 to 15 over all augmented nodes of one head, its query rows."""
    nodes = torch.cat([x_query, x_value])
    queries, total = len(x_query), len(nodes)
    graph = torch.zeros(total, total, dtype=torch.float64)
    graph[:queries, queries:], graph[queries:, :queries] = attention, attention.T
    degree = graph.sum(1)
    bar = torch.zeros_like(graph)
    for i in range(total):
        for j in range(total):
            if graph[i, j] > 0:
                apart = (graph[i, j] / degree[i]).sqrt() * nodes[i] - (graph[i, j] / degree[j]).sqrt() * nodes[j]
                bar[i, j] = graph[i, j] * apart.norm() ** (p - 2)
    alpha = 1 / (bar.sum(1) / degree + 2 * mu / p)
    root = degree.rsqrt()
    bar = alpha[:, None] * root[:, None] * bar * root
    return (bar @ nodes + (2 * mu / p * alpha)[:, None] * nodes)[:queries]


@pytest.mark.parametrize("p", [1.0, 1.25, 1.75, 2.0])
@torch.no_grad()
def test_equals_the_papers_equations(p: float) -> None:
    adapter, given = made(p=p, learn_p=False), inputs()
    edges = probabilities(given["query"], given["key"])
    mu, heads = float(adapter.mu()), []
    for head in range(HEADS):
        parts = [x[0, head] for x in (edges, given["query"], given["value"])]
        heads.append(written_out(parts[0], parts[1], parts[2], p, mu))
    hidden = given["output"](torch.cat(heads, -1))
    plain = adapter.plain
    wanted = plain.up(torch.relu(plain.down(hidden))) + hidden  # equation 16
    torch.testing.assert_close(adapter(**given)[0], wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_p_pull_and_degrees_it_is_a_plain_adapter() -> None:
    adapter, given = made(p=2, learn_p=False, residual="none", degree="none"), inputs()
    assert adapter.theta is None and adapter.mu() == 0
    scaled = nn.functional.scaled_dot_product_attention(given["query"], given["key"], given["value"])
    hidden = given["output"](scaled.transpose(1, 2).flatten(2))
    torch.testing.assert_close(adapter(**given), hidden + adapter.plain(hidden), rtol=0, atol=1e-12)


@pytest.mark.parametrize("nodes", ["projected", "zeros", "noise"])
@torch.no_grad()
def test_appnp_and_the_controls_of_query_nodes(nodes: str) -> None:
    """p = 2 with the query residual; nodes of zeros, or of noise that is the same for every adapter and call."""
    adapter, given = made(p=2, learn_p=False, degree="none", query_nodes=nodes), inputs()
    noise = torch.randn(1, HEADS, 1, SIZE, generator=torch.Generator().manual_seed(0)).double()
    home = {"projected": given["query"], "zeros": 0, "noise": noise}[nodes]
    mu = float(adapter.mu())
    wanted = (probabilities(given["query"], given["key"]) @ given["value"] + mu * home) / (1 + mu)
    found, _ = adapter.attend(**given)
    torch.testing.assert_close(found, wanted.transpose(1, 2).flatten(2), rtol=0, atol=1e-12)
    assert "noise" not in adapter.state_dict()


def test_from_frozen_it_can_leave() -> None:
    """p = 2 and mu = 0 exactly, with slopes that are not zero; both stay in their ranges."""
    adapter, given = made(), inputs()
    assert adapter.theta is not None and adapter.raw_p is not None
    with torch.no_grad():
        adapter.theta.zero_()
    assert float(adapter.p()) == 2 and float(adapter.mu()) == 0
    adapter(**given).square().sum().backward()
    assert adapter.raw_p.grad != 0 and adapter.theta.grad != 0
    for raw in (-7.3, 0.2, 1.0, 1.4, 2.0, 2.3, 3.7, 80.1):
        nn.init.constant_(adapter.raw_p, raw)
        nn.init.constant_(adapter.theta, raw)
        assert 1 <= float(adapter.p()) <= 2 and 0 <= float(adapter.mu()) <= 0.3 + 1e-9
    wide = made(p_range="above-one")
    assert wide.raw_p is not None
    nn.init.constant_(wide.raw_p, -1.5)
    assert float(made(p_range="above-one").p()) == 2 and float(wide.p()) == 3.5


@pytest.mark.parametrize("fields", [{}, {"p": 1.5}, {"p": 1.5, "residual": "none"}, {"query_nodes": "noise"}])
def test_gradients(fields: dict[str, Any]) -> None:
    adapter, given = made(**fields), inputs(2, 3)
    if adapter.config.from_frozen and adapter.raw_p is not None:
        nn.init.constant_(adapter.raw_p, 1.7)  # not where it is folded
    output = given.pop("output")
    parameters = dict(adapter.named_parameters())

    def run(*values: Tensor) -> Tensor:
        state = dict(zip(parameters, values[3:], strict=True))
        return torch.func.functional_call(adapter, state, (*values[:3], output))

    tensors = [tensor.requires_grad_() for tensor in given.values()]
    assert torch.autograd.gradcheck(run, [*tensors, *parameters.values()], fast_mode=True)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("masked", ["none", "row", "heads"])
@torch.no_grad()
def test_grouped_heads(groups: int, masked: str) -> None:
    """One query at a time reads the few heads as they lie; it is the same as all at once."""
    adapter, given = made(decoder=True), inputs(4, 4, groups)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    if masked == "heads":
        mask = mask.repeat(1, HEADS, 1, 1)
        mask[0, 1, :, 0] = False
        mask[:, :, 0, 0] = True
    options: dict[str, Any] = {"is_causal": True} if masked == "none" else {"mask": mask}
    whole, _ = adapter.attend(**given, **options)
    wide = {**given, **{name: given[name].repeat_interleave(HEADS // groups, 1) for name in ("key", "value")}}
    torch.testing.assert_close(adapter.attend(**wide, **options)[0], whole, rtol=0, atol=1e-12)
    for step in range(4):
        part: dict[str, Any] = {"query": given["query"][:, :, step : step + 1], "output": given["output"]}
        seen = {name: given[name][:, :, : step + 1] for name in ("key", "value")}
        one: dict[str, Any] = {} if masked == "none" else {"mask": mask[:, :, step : step + 1, : step + 1]}
        found, _ = adapter.attend(**part, **seen, **one)
        torch.testing.assert_close(found[:, 0], whole[:, step], rtol=0, atol=1e-12)


@torch.no_grad()
def test_degrees_and_one_query_at_a_time_contradict_each_other() -> None:
    """In a decoder they are left out, so that training and decoding agree; with them they would not."""
    given = inputs(4, 4)
    for decoder in (True, False):
        adapter = made(decoder, p=1.5)
        assert adapter.options["degree"] == ("none" if decoder else "paper")
        whole, _ = adapter.attend(**given, is_causal=True)
        last = {**given, "query": given["query"][:, :, -1:]}
        assert torch.allclose(adapter.attend(**last)[0][:, 0], whole[:, -1], rtol=0, atol=1e-9) == decoder


@torch.no_grad()
def test_dropout_drops_edges() -> None:
    adapter, given = made(p=1.5), inputs()
    torch.manual_seed(0)
    dropped, _ = adapter.attend(**given, dropout=0.4)
    torch.manual_seed(0)
    edges = nn.functional.dropout(probabilities(given["query"], given["key"]), 0.4)
    assert not torch.allclose(dropped, adapter.attend(**given)[0]) and (edges == 0).any()
    torch.testing.assert_close(adapter.attend(**given, dropout=1e-12)[0], adapter.attend(**given)[0])


# Configurations.


def test_what_a_form_leaves_to_itself() -> None:
    plain, paper = PAdapterConfig(), PAdapterConfig(form="paper")
    assert (paper.start, paper.degree, paper.initial_p) == ("frozen", "none", 2)
    given = PAdapterConfig(form="paper", p=1.5)
    assert (given.start, given.degree, given.initial_p) == ("paper", "paper", 1.5)
    assert PAdapterConfig(form="paper", start="paper", task="vqa").initial_p == 1.25
    released = PAdapterConfig(form="released")
    assert released == PAdapterConfig.released() and {name: getattr(released, name) for name in RELEASED} == RELEASED
    # Runs and files of 0.1.0 know no form.
    for config in (plain, released):
        assert not {"form", "degree", "start", "query_nodes", "tower"} & config.as_dict().keys()
        assert PAdapterConfig.make(config.as_dict()) == config
    for config in (paper, given):
        assert config.as_dict()["form"] == "paper" and PAdapterConfig.make(config.as_dict()) == config
    assert plain.of_form("paper") == paper and given.of_form("gated") is given
    # What a command line makes of the word none.
    assert PAdapterConfig(form="paper", residual=None).residual == "none"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"form": "ours"}, "form is 'ours'"),
        ({"form": "paper", "key_pooling": "mean"}, "key_pooling is 'mean', but form='paper' has 'none'"),
        ({"form": "paper", "residual": "self-only"}, "residual is 'self-only', which form='paper' has not"),
        ({"form": "paper", "start": "frozen", "p": 1.5}, "p is 1.5, but start='frozen' begins at 2"),
        ({"form": "paper", "start": "frozen", "degree": "paper"}, "degree is 'paper', with which no step is"),
        ({"form": "gated", "degree": "paper"}, "degree is 'paper', but form='gated' has 'none'"),
        ({"form": "released", "self_loops": "drop"}, "self_loops is 'drop', but form='released' has 'keep'"),
        ({"form": "gated", "query_nodes": "zeros"}, "query_nodes is 'zeros', but form='gated' has 'projected'"),
    ],
)
def test_contradictions_get_one_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        PAdapterConfig(**fields)
    assert str(caught.value).count(". ") == 0


# On BLIP.


@torch.no_grad()
def said(model: Any) -> Tensor:
    tokens, mask = texts()
    image = model.vision_model(pictures().double()).last_hidden_state
    if hasattr(model, "text_encoder"):
        image = model.text_encoder(tokens, mask, encoder_hidden_states=image).last_hidden_state
    return model.text_decoder(tokens, mask, encoder_hidden_states=image, use_cache=False).logits


@pytest.mark.parametrize("kind", ["BlipForConditionalGeneration", "BlipForQuestionAnswering"])
@pytest.mark.parametrize("fields", [{}, {"start": "paper"}])
def test_blip(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """Step 0, degrees in the encoder alone, the cache, files, and detaching."""
    model = tiny_blip(kind).double()
    before = said(model)
    attached = attach_p_adapter(model, {"form": "paper", "reduction": 4, **fields})
    assert torch.allclose(said(model), before, rtol=0, atol=1e-10) == (not fields)
    found = {name: module for name, module in model.named_modules() if isinstance(module, PaperAdapter)}
    with_degrees = {name for name, module in found.items() if module.options["degree"] == "paper"}
    assert with_degrees == {name for name in found if fields and name.startswith("text_encoder")} and len(found) >= 4
    in_training(attached)
    assert attached.check().cached
    after, folder = said(model), attached.save(tmp_path)
    attached.detach()
    assert torch.equal(said(model), before)
    again = attach_p_adapter(model, {"form": "paper", "reduction": 4, **fields})
    again.load(folder)
    torch.testing.assert_close(said(model), after, rtol=0, atol=0)
    again.detach()
    with pytest.raises(InputError, match="was saved with form='paper', not None"):
        attach_p_adapter(model, {"reduction": 4}).load(folder)


def test_the_plain_control_is_the_bottleneck_method() -> None:
    """The same numbers, trained the same way, say the same."""
    plain = {"form": "paper", "p": 2, "learn_p": False, "residual": "none", "degree": "none", "reduction": 4}
    results = []
    for method, settings in (("p-adapter", plain), ("bottleneck", {"width": 8})):
        model = tiny_blip("BlipForConditionalGeneration").double()
        in_training(attach(model, method, settings))
        results.append(said(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-10)
