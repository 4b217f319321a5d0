"""Where a model can be adapted: its attentions and feed-forward layers, found for known models or named by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from torch import Tensor, nn

from vlmadapt.errors import InputError

AttentionKind = Literal["self", "cross"]
Forward = Callable[..., Any]

# Attributes of an owner, beside its modules: the adapter its replaced forward asks, whatever its name as a module.
ATTENTION_SLOT, FEED_FORWARD_SLOT = "attention_adapter", "feed_forward_adapter"


class AttentionAdapter(Protocol):
    """What the replaced forward of an attention asks; :class:`vlmadapt.generative.methods.p_adapter.PAdapter` is one.

    query [B, H, Lq, e], key [B, G, Lk, e], value [B, G, Lk, e] or packed, output: the frozen ``W_o``. G is H, or in
    grouped-query attention the number of key-value heads. Options are ``mask``, ``is_causal``, ``scale`` and
    ``dropout``.
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, output: nn.Module, **options: Any) -> Tensor:
        """The attention's adapted output [B, Lq, D]: :meth:`attend`, ``output`` and :meth:`combine` in a row."""
        ...

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, output: nn.Module, **options: Any
    ) -> tuple[Tensor, Any]:
        """The context [B, Lq, H e], and what :meth:`combine` needs besides, None where it needs nothing."""
        ...

    def combine(self, hidden: Tensor, messages: Any) -> Tensor:
        """The adapted ``hidden = output(context)`` [B, Lq, D]."""
        ...

    def pack(self, value: Tensor, output: nn.Module) -> Tensor:
        """What a KV cache holds in place of the values [B, G, L, e]."""
        ...


class Attaching(Protocol):
    """What attaching to a site needs of :class:`vlmadapt.generative.methods.Attached`: changes that undo themselves."""

    def add_module(self, owner: nn.Module, name: str, module: nn.Module) -> None:
        """Make ``module`` the child ``name`` of ``owner``."""
        ...

    def replace_forward(self, module: nn.Module, forward: Forward, bound_to: nn.Module | None = None) -> None:
        """Make ``forward(bound_to or module, ...)`` what calling ``module`` runs."""
        ...

    def on_detach(self, undo: Callable[[], None]) -> None:
        """Have ``undo`` called at the end."""
        ...


def attention_adapter(owner: nn.Module) -> AttentionAdapter | None:
    """The adapter attached to the attention ``owner``; None where there is none."""
    return cast("AttentionAdapter | None", owner.__dict__.get(ATTENTION_SLOT))


def feed_forward_adapter(owner: nn.Module) -> nn.Module:
    """The adapter attached to the feed-forward layer ``owner``, which must have one."""
    return cast("nn.Module", owner.__dict__[FEED_FORWARD_SLOT])


@dataclass(frozen=True)
class AttentionSite:
    """One attention.

    name: of ``owner`` within the model, dotted. kind: ``"self"`` or ``"cross"``. heads: their number.
    output: the frozen output projection ``W_o``, D wide.
    owner: the module the adapter becomes a child of.
    forwards: ``(module, forward)`` pairs: calling ``module`` is to run ``forward(owner, ...)`` while the adapter is
        attached. ``forward`` computes projected queries, keys and values per head as ``module`` would, and leaves the
        rest to the adapter: ``attention_adapter(owner)(query, key, value, output, mask=...)``.
    setup: ``setup(attached, owner)`` does anything else on attaching.
    result: the module whose output, its first one of several, is the attention's before the residual; None: ``output``.
    value_heads: G, of keys and values in grouped-query attention (arXiv 2305.13245), where query head h reads head
        h // (heads / G); None: as many as ``heads``.
    decoder: whether queries may come one by one, as in a decoder that has a cache: then sums over queries are not to be
        had. packs: whether a cache, if there is one, holds what the adapter's ``pack`` gives.

    Raises :class:`InputError` where ``value_heads`` does not divide ``heads``.
    """

    name: str
    kind: AttentionKind
    owner: nn.Module
    heads: int
    output: nn.Linear
    forwards: Sequence[tuple[nn.Module, Forward]]
    setup: Callable[[Attaching, nn.Module], None] | None = None
    result: nn.Module | None = None
    value_heads: int | None = None
    decoder: bool = True
    packs: bool = True

    def __post_init__(self) -> None:
        if self.value_heads is not None and (self.value_heads < 1 or self.heads % self.value_heads):
            raise InputError(
                f"AttentionSite.value_heads of {self.name} is {self.value_heads}: give a number that divides its "
                f"{self.heads} heads."
            )

    def attach(self, attached: Attaching, child: str, adapter: nn.Module) -> None:
        """Make ``adapter``, an :class:`AttentionAdapter`, the owner's module ``child`` and replace the forwards, until
        ``attached`` is detached."""
        _attach(attached, self.owner, child, ATTENTION_SLOT, adapter, self.forwards)
        if self.setup is not None:
            self.setup(attached, self.owner)


@dataclass(frozen=True)
class FeedForwardSite:
    """One feed-forward layer of width D.

    name, owner and forwards as in :class:`AttentionSite`; ``forward`` adds ``feed_forward_adapter(owner)(x)`` to the
    layer's output. weight: a weight of the layer ``[rows, columns]``, which tells dtype and device.
    result: the module whose output is the layer's before the residual.
    """

    name: str
    owner: nn.Module
    width: int
    weight: Tensor
    forwards: Sequence[tuple[nn.Module, Forward]]
    result: nn.Module

    @property
    def place(self) -> nn.Module:
        """The module that an adapter behind ``result`` becomes a child of: a sequence would call its new child too."""
        return self.owner if isinstance(self.result, nn.Sequential) else self.result

    def attach(self, attached: Attaching, child: str, adapter: nn.Module) -> None:
        """Make ``adapter`` the owner's module ``child`` and replace the forwards, until ``attached`` is detached."""
        _attach(attached, self.owner, child, FEED_FORWARD_SLOT, adapter, self.forwards)


@dataclass(frozen=True)
class Sites:
    """All places of one model: its ``attentions`` and ``feed_forwards``."""

    attentions: Sequence[AttentionSite]
    feed_forwards: Sequence[FeedForwardSite] = ()

    def under(self, prefixes: Sequence[str]) -> Sites:
        """Those whose name is one of ``prefixes`` or lies below it; without prefixes, all."""
        if not prefixes:
            return self

        def wanted(name: str) -> bool:
            return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)

        return Sites(
            [site for site in self.attentions if wanted(site.name)],
            [site for site in self.feed_forwards if wanted(site.name)],
        )


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, D / H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, L, e] -> [B, L, H e]."""
    return x.transpose(1, 2).flatten(2)


def _attach(
    attached: Attaching,
    owner: nn.Module,
    child: str,
    slot: str,
    adapter: nn.Module,
    forwards: Sequence[tuple[nn.Module, Forward]],
) -> None:
    attached.add_module(owner, child, adapter)
    owner.__dict__[slot] = adapter  # Not by setattr, which would register the module a second time.
    attached.on_detach(lambda: owner.__dict__.pop(slot, None))
    for module, forward in forwards:
        attached.replace_forward(module, forward, bound_to=owner)
