"""Every method that attaches to a generative model, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.generative.methods import peers
from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.methods.p_config import RELEASED, PAdapterConfig
from vlmadapt.generative.models.wrappers import adaptable


@dataclass(frozen=True)
class GenerativeMethod:
    """``defaults`` are settings that make the method what its name says; ``lr`` is the peak learning rate it trains
    with where none is given, a fixed default (``docs/tuning.md``)."""

    description: str
    config: type[AdapterConfig]
    attach: Callable[..., Attached]
    lr: float
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _p_adapter(model: nn.Module, config: PAdapterConfig, method: str, seed: int) -> Attached:
    return attach_p_adapter(model, config, method=method, seed=seed)


METHODS: dict[str, GenerativeMethod] = {
    "frozen": GenerativeMethod("the model as it is", peers.FrozenConfig, peers.attach_frozen, 1e-3),
    "full": GenerativeMethod("every parameter", peers.FullConfig, peers.attach_full, 3e-4),
    "bitfit": GenerativeMethod("bias terms", peers.BitFitConfig, peers.attach_bitfit, 1e-2),
    "bottleneck": GenerativeMethod("bottleneck adapters", peers.BottleneckConfig, peers.attach_bottleneck, 3e-3),
    "prefix": GenerativeMethod("prefix tuning", peers.PrefixConfig, peers.attach_prefix, 1e-2),
    "lora": GenerativeMethod("LoRA, by peft", peers.LoRAConfig, peers.attach_lora, 3e-3),
    "rslora": GenerativeMethod(
        "rank-stabilised LoRA, by peft", peers.LoRAConfig, peers.attach_lora, 3e-3, {"rank_stabilized": True}
    ),
    "p-adapter": GenerativeMethod("p-Laplacian adapter", PAdapterConfig, _p_adapter, 3e-3),
    "p-adapter-p2": GenerativeMethod(
        "p-adapter with p fixed at 2", PAdapterConfig, _p_adapter, 3e-3, {"p": 2.0, "learn_p": False}
    ),
    "p-adapter-released": GenerativeMethod(
        "p-adapter with the released code's switches", PAdapterConfig, _p_adapter, 3e-3, RELEASED
    ),
    "p-adapter-paper": GenerativeMethod(
        "p-adapter as the paper has it", PAdapterConfig, _p_adapter, 3e-3, {"form": "paper", "start": "paper"}
    ),
}


def method_named(name: str) -> GenerativeMethod:
    """A method of ``METHODS``. Raises :class:`InputError` for another name."""
    if name not in METHODS:
        raise InputError(f"method is {name!r}: use {', '.join(METHODS)}.")
    return METHODS[name]


def make_config(method: str, task: str, settings: Mapping[str, Any] | None = None) -> AdapterConfig:
    """The configuration of ``method`` for ``task`` (caption, vqa or entailment: it chooses the p-adapter's initial p).

    Raises :class:`InputError` for an unknown method or setting.
    """
    found = method_named(method)
    values = {**found.defaults, **(settings or {})}
    if found.config is PAdapterConfig:
        values = {"task": task, **values}
    return found.config.make(values)


def attach(
    model: nn.Module,
    method: str | AdapterConfig,
    config: AdapterConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Attached:
    """Attach ``method`` to ``model``, in place; only what it adds or unfreezes trains.

    method: a name of ``METHODS``, or a configuration alone, whose class says which: ``attach(model, LoRAConfig())``.
    config: for a method by name, a configuration of :func:`make_config`, a mapping of settings over the method's
        defaults, or None.
    seed: of the initial weights; the global random state is left as it was.

    Every method but p-adapter-paper and prefix starts where the frozen model is. Raises :class:`InputError` for an
    unknown method, setting or architecture, a configuration of another class than the method's, or a model that already
    carries a method or whose weights are quantised.
    """
    if isinstance(method, AdapterConfig):
        if config is not None:
            raise InputError(f"config is given beside a {type(method).__name__}: pass one configuration.")
        config = method
        method = _method_of(config)
    found = method_named(method)
    if isinstance(config, AdapterConfig) and not isinstance(config, found.config):
        raise InputError(f"config is a {type(config).__name__}: {method} takes a {found.config.__name__}.")
    if not isinstance(config, found.config):
        config = found.config.make({**found.defaults, **(config or {})})  # type: ignore[dict-item]
    return found.attach(adaptable(model), config, method, seed)


def _method_of(config: AdapterConfig) -> str:
    """The first method with configurations of this class; its variants differ in defaults, which are all said here."""
    for name, method in METHODS.items():
        if type(config) is method.config:
            return name
    known = ", ".join(dict.fromkeys(method.config.__name__ for method in METHODS.values()))
    raise InputError(f"method is a {type(config).__name__}, which no generative method takes: use {known}.")
