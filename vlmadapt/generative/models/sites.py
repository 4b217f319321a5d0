"""Where a model can be adapted: its attentions and feed-forward layers, found for known models or named by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from vlmadapt.errors import InputError

if TYPE_CHECKING:
    from vlmadapt.generative.methods.attached import Attached

AttentionKind = Literal["self", "cross"]
Forward = Callable[..., Any]

SUPPORTED = (
    "transformers' BlipForConditionalGeneration, BlipForQuestionAnswering and BlipForImageTextRetrieval, open_clip's "
    "CoCa, and any model whose attentions are passed as sites= (docs/p_adapter.md) are supported"
)


@dataclass(frozen=True)
class AttentionSite:
    """One attention.

    name: of ``owner`` within the model, dotted. kind: ``"self"`` or ``"cross"``. heads: their number.
    output: the frozen output projection ``W_o``, D wide.
    owner: the module the adapter becomes a child of.
    forwards: ``(module, forward)`` pairs: calling ``module`` is to run ``forward(owner, ...)`` while the adapter is
        attached. ``forward`` computes projected queries, keys and values per head as ``module`` would, and leaves the
        rest to the adapter: ``owner.p_adapter(query, key, value, output, mask=...)``.
    setup: ``setup(attached, owner)`` does anything else on attaching.
    """

    name: str
    kind: AttentionKind
    owner: nn.Module
    heads: int
    output: nn.Linear
    forwards: Sequence[tuple[nn.Module, Forward]]
    setup: Callable[[Attached, nn.Module], None] | None = None

    def attach(self, attached: Attached, child: str, adapter: nn.Module) -> None:
        """Make ``adapter`` the owner's module ``child`` and replace the forwards, until ``attached`` is detached."""
        _attach(attached, self.owner, child, adapter, self.forwards)
        if self.setup is not None:
            self.setup(attached, self.owner)


@dataclass(frozen=True)
class FeedForwardSite:
    """One feed-forward layer of width D.

    name, owner and forwards as in :class:`AttentionSite`; ``forward`` adds ``owner.ffn_adapter(x)`` to the layer's
    output. weight: a weight of the layer ``[rows, columns]``, which tells dtype and device.
    """

    name: str
    owner: nn.Module
    width: int
    weight: Tensor
    forwards: Sequence[tuple[nn.Module, Forward]]

    def attach(self, attached: Attached, child: str, adapter: nn.Module) -> None:
        """Make ``adapter`` the owner's module ``child`` and replace the forwards, until ``attached`` is detached."""
        _attach(attached, self.owner, child, adapter, self.forwards)


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


def find_sites(model: nn.Module) -> Sites:
    """The text attentions and feed-forward layers of a known model; image towers are left alone.

    Raises :class:`InputError` for another model.
    """
    from vlmadapt.generative.models import blip_sites as blip
    from vlmadapt.generative.models import coca_sites as coca

    for finder in (blip.find_sites, coca.find_sites):
        sites = finder(model)
        if sites is not None:
            return sites
    raise InputError(f"model is a {type(model).__name__}, whose text attentions are not known here: {SUPPORTED}.")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, D / H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, L, e] -> [B, L, H e]."""
    return x.transpose(1, 2).flatten(2)


def _attach(
    attached: Attached,
    owner: nn.Module,
    child: str,
    adapter: nn.Module,
    forwards: Sequence[tuple[nn.Module, Forward]],
) -> None:
    attached.add_module(owner, child, adapter)
    for module, forward in forwards:
        attached.replace_forward(module, forward, bound_to=owner)
