"""Rivals of the p-adapter behind the same interface: full fine-tuning, BitFit, bottleneck adapters, prefixes and LoRA.

Where a size is not given, bottleneck, prefix and LoRA take the one whose parameter count is nearest to the p-adapter's,
so that tables compare methods at equal cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.config import MOST_WIDTH, AdapterConfig
from vlmadapt.doors import import_lora
from vlmadapt.errors import InputError
from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.methods.bottleneck import Bottleneck, put_behind
from vlmadapt.generative.methods.prefix import Prefix
from vlmadapt.generative.models.load import family_of, find_sites, known_family
from vlmadapt.generative.models.wrappers import named_parameters
from vlmadapt.training import check_range

BOTTLENECK = "bottleneck"


@dataclass(frozen=True)
class FrozenConfig(AdapterConfig):
    """Nothing trains: what the model does before it is adapted. No paper's, ours."""


@dataclass(frozen=True)
class FullConfig(AdapterConfig):
    """Full fine-tuning; no paper's, ours."""

    tower: bool = field(default=True, metadata={"help": "train the image tower too"})


@dataclass(frozen=True)
class BitFitConfig(AdapterConfig):
    """BitFit (arXiv 2106.10199)."""

    tower: bool = field(default=False, metadata={"help": "train the biases of the image tower too"})


@dataclass(frozen=True)
class BottleneckConfig(AdapterConfig):
    """Bottleneck adapters (arXiv 1902.00751)."""

    width: int | None = field(
        default=None, metadata={"help": "of the bottleneck; none: as many numbers as the p-adapter"}
    )

    def __post_init__(self) -> None:
        _check_size(self, "width")


@dataclass(frozen=True)
class PrefixConfig(AdapterConfig):
    """Prefix tuning (arXiv 2101.00190)."""

    length: int | None = field(
        default=None, metadata={"help": "keys and values a head; none: as many numbers as the p-adapter"}
    )

    def __post_init__(self) -> None:
        _check_size(self, "length")


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """LoRA (arXiv 2106.09685), or its rank-stabilised form (arXiv 2312.03732)."""

    rank: int | None = field(default=None, metadata={"help": "of the updates; none: as many numbers as the p-adapter"})
    alpha: float | None = field(
        default=None,
        metadata={
            "help": "scale alpha / rank of the update, alpha / root of rank with rank_stabilized; none: alpha = rank"
        },
    )
    rank_stabilized: bool = field(
        default=False, metadata={"help": "divide alpha by the root of the rank (rsLoRA)", "later": True}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size(self, "rank")
        if self.alpha is not None:
            check_range(self, "alpha", low=0.0, low_allowed=False)


def _check_size(config: AdapterConfig, name: str) -> None:
    value = getattr(config, name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_WIDTH):
        raise InputError(
            f"{type(config).__name__}.{name} is {value!r}: give a whole number from 1 to {MOST_WIDTH}, or none."
        )


def attach_frozen(model: nn.Module, config: FrozenConfig, method: str, seed: int) -> Attached:
    return Attached(model, method, config)


def attach_full(model: nn.Module, config: FullConfig, method: str, seed: int) -> Attached:
    """Every parameter trains; detaching puts the old values back, at the cost of a copy."""
    attached = Attached(model, method, config)
    with attached.building():
        attached.train_backbone(_names(model, config.tower))
    return attached


def attach_bitfit(model: nn.Module, config: BitFitConfig, method: str, seed: int) -> Attached:
    """The bias terms train, those of normalisation layers and of the output words included."""
    attached = Attached(model, method, config)
    with attached.building():
        attached.train_backbone(name for name in _names(model, config.tower) if name.endswith("bias"))
        _require_trainable(attached, "no bias")
    return attached


def attach_bottleneck(model: nn.Module, config: BottleneckConfig, method: str, seed: int) -> Attached:
    """``h <- h + Up(ReLU(Down(h)))`` behind every attention's and feed-forward layer's output, before the residual.

    ``Up`` starts at zero (ours; the paper starts near it), so that step 0 equals the frozen model.
    """
    points = _points(model)
    width = config.width or _matched(model, lambda size: sum(2 * d * size + size + d for *_, d, _ in points))
    generator = torch.Generator().manual_seed(seed)
    attached = Attached(model, method, config)
    with attached.building():
        for owner, module, outputs, weight in points:
            adapter = Bottleneck(outputs, width, weight.dtype, generator).to(weight.device)
            put_behind(attached, owner, module, BOTTLENECK, adapter)
    return attached


def _points(model: nn.Module) -> list[tuple[nn.Module, nn.Module, int, Tensor]]:
    """Where bottlenecks go: the module they become a child of, that whose output they change, its width, and a weight
    that tells dtype and device."""
    sites = find_sites(model)
    found: list[tuple[nn.Module, nn.Module, int, Tensor]] = []
    for site in sites.attentions:
        module = site.output if site.result is None else site.result
        found.append((module, module, site.output.out_features, site.output.weight))
    for layer in sites.feed_forwards:
        found.append((layer.place, layer.result, layer.width, layer.weight))
    return found


def attach_prefix(model: nn.Module, config: PrefixConfig, method: str, seed: int) -> Attached:
    """Trained keys and values before those of every attention."""
    sites = find_sites(model).attentions
    length = config.length or _matched(model, lambda size: sum(2 * size * site.output.in_features for site in sites))
    generator = torch.Generator().manual_seed(seed)
    attached = Attached(model, method, config)
    with attached.building():
        for site in sites:
            weight = site.output.weight
            prefix = Prefix(length, site.heads, site.output.in_features // site.heads, weight.dtype, generator)
            site.attach(attached, "prefix", prefix.to(weight.device))
    return attached


def attach_lora(model: nn.Module, config: LoRAConfig, method: str, seed: int) -> Attached:
    """Low-rank updates by ``peft`` of the linear maps that the model's family names.

    Raises :class:`MissingDependency` without peft, and :class:`IncompatibleLibrary` where the installed one cannot be
    imported.
    """
    settings_class, inject, layer = import_lora("generative")
    names = _lora_targets(model)
    modules = dict(model.named_modules())
    rank = config.rank or _matched(model, lambda size: sum(_lora_numbers(modules[name], size) for name in names))
    scaled = {"lora_alpha": config.alpha or rank, "use_rslora": config.rank_stabilized}
    settings = settings_class(r=rank, target_modules=names, **scaled)
    attached = Attached(model, method, config)
    with attached.building(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attached.on_detach(lambda: _remove_lora(model, layer))
        inject(settings, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return attached


def _lora_targets(model: nn.Module) -> list[str]:
    wanted = {id(module) for module in known_family(model).lora_targets(model)}
    return [name for name, module in model.named_modules() if id(module) in wanted]


def _lora_numbers(module: Any, rank: int) -> int:
    return rank * (module.in_features + module.out_features)


def _remove_lora(model: nn.Module, layer: Any) -> None:
    found: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in found:
        if isinstance(module, layer):
            owner, _, child = name.rpartition(".")
            setattr(model.get_submodule(owner), child, module.base_layer)
    model.__dict__.pop("peft_config", None)


def _matched(model: nn.Module, numbers: Callable[[int], int]) -> int:
    """The size whose ``numbers`` come nearest to the trained parameters of a p-adapter of default size."""
    from vlmadapt.generative.methods.p_adapter import attach_p_adapter

    probe = attach_p_adapter(model)
    wanted = probe.trainable_parameters()
    probe.detach()
    one, two = numbers(1), numbers(2)
    guess = max(1, round((wanted - one) / (two - one)) + 1)
    return min((guess, max(1, guess - 1), guess + 1), key=lambda size: abs(numbers(size) - wanted))


def _names(model: nn.Module, tower: bool) -> Iterable[str]:
    family = None if tower else family_of(model)
    left_out = () if family is None else (family.tower,)
    return [name for name, _ in named_parameters(model) if not name.startswith(left_out)]


def _require_trainable(attached: Attached, what: str) -> None:
    if attached.trainable_parameters() == 0:
        raise InputError(f"model has {what} to train: choose another method.")
