"""The arguments of cache retrieval, checked; the class order of a cache."""

from __future__ import annotations

from typing import Literal, TypedDict

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.kinds import of_kinds
from vlmadapt.ops import library
from vlmadapt.ops.checks import accumulation_dtype, check_device, check_indices, check_matrix, check_same
from vlmadapt.ops.switch import reference_in_use

# How a GPU computes it, and the number that the compiled operators know it by: csrc/cache_retrieval_chunked/route.h.
Route = Literal["auto", "fused", "chunked"]
ROUTES: dict[Route, int] = {"auto": 0, "fused": 1, "chunked": 2}


class Keywords(TypedDict, total=False):
    """The keyword arguments of ``cache_retrieval`` that do not decide the type of its result."""

    num_classes: int | None
    text_queries: Tensor | None
    text_keys: Tensor | None
    text_beta: Tensor | float | None
    text_keys_per_class: bool
    ratio: Tensor | float | None
    standardize: bool
    own_entry: Tensor | None
    mask_own_scores: bool
    route: Route


class ScoresOnly(Keywords, total=False):
    return_disagreement: Literal[False]


class Both(Keywords):
    return_disagreement: Literal[True]


class PreparedCache:
    """The class order of a cache, worked out once: pass it wherever ``labels`` is expected.

    On a GPU, labels are looked at, which waits for it: prepare a cache before the steps that use it.

    Args:
        labels: integer ``[n]``, the class of each entry; any order, any class sizes, classes may be missing.
        num_classes: ``C``.

    Attributes:
        labels: int64 ``[n]``.
        num_classes: ``C``.
        order: int64 ``[n]``, entry indices sorted by class (stable).
        offsets: int64 ``[C + 1]``; class ``c`` owns ``order[offsets[c]:offsets[c + 1]]``.

    Raises:
        InputError: ``labels`` is not an integer vector or holds a value outside ``[0, C - 1]``.
    """

    @of_kinds
    def __init__(self, labels: Tensor, num_classes: int) -> None:
        library.require(labels.device)
        if num_classes < 1:
            raise InputError(f"num_classes is {num_classes}: pass the number of classes, at least 1.")
        self.labels = check_indices("labels", labels, len(labels) if labels.dim() else 0)
        self.num_classes = num_classes
        check_label_range(self.labels, num_classes)
        self.order: Tensor
        self.offsets: Tensor
        if reference_in_use() or labels.device.type != "cpu":  # a GPU's labels stay there
            ordered, self.order = self.labels.sort(stable=True)
            self.offsets = torch.searchsorted(ordered, torch.arange(num_classes + 1, device=labels.device))
        else:
            self.order, self.offsets = torch.ops.vlmadapt.class_order(self.labels, num_classes)

    def counts(self) -> Tensor:
        """int64 ``[C]``: entries of each class."""
        return self.offsets[1:] - self.offsets[:-1]


def check_label_range(labels: Tensor, num_classes: int) -> None:
    """Raise :class:`InputError` unless the labels lie in ``[0, num_classes - 1]``; not looked at when compiling."""
    if labels.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise InputError(
            f"labels hold {low if low < 0 else high} but must lie in [0, {num_classes - 1}]: "
            "number the classes from 0 and pass the right num_classes."
        )


def prepared(labels: Tensor | PreparedCache | None, num_classes: int | None, keys: Tensor) -> PreparedCache:
    """The labels as a :class:`PreparedCache`; :class:`InputError` unless they are one a key."""
    if labels is None:
        raise InputError("labels are not given, nor are values: pass one of them, a label or a row of values a key.")
    check_device("labels", labels.labels if isinstance(labels, PreparedCache) else labels, "keys", keys)
    if not isinstance(labels, PreparedCache):
        if num_classes is None:
            raise InputError("num_classes must be given when labels is a tensor: pass the number of classes.")
        labels = PreparedCache(labels, num_classes)
    if len(labels.labels) != len(keys):
        raise InputError(
            f"labels has {len(labels.labels)} elements but keys has {len(keys)} rows: give one label a key."
        )
    return labels


def checked_own_entry(own_entry: Tensor, queries: int, keys: int) -> Tensor:
    """An index below ``keys`` for each query, or -1, as int64; else :class:`InputError`. A look at a GPU's would wait
    for it: every kernel compares them with indices of its own and reads nothing at them."""
    own_entry = check_indices("own_entry", own_entry, queries)
    looked_at = own_entry.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and own_entry.numel() and int(own_entry.max()) >= keys:
        raise InputError(
            f"own_entry holds {int(own_entry.max())} but the cache has {keys} entries: "
            "give each query its entry's index, or -1."
        )
    return own_entry


def route_number(route: Route, values: Tensor | None) -> int:
    """As the compiled operators know it; :class:`InputError` for one that does not exist."""
    if route not in ROUTES:
        raise InputError(f"route is {route!r}: choose 'auto', 'fused' or 'chunked'.")
    if route == "chunked" and values is not None:
        raise InputError("route is 'chunked' but values are given, which have one route: leave it out.")
    return ROUTES[route]


def given_beta(beta: Tensor | float | None) -> Tensor | float:
    """``beta``, which has a default only because ``values`` may stand for the labels before it; :class:`InputError`
    where it is missing."""
    if beta is None:
        raise InputError("beta must be given: pass the sharpness of the affinity, a number or one a query.")
    return beta


def grid_inputs(
    queries: Tensor, keys: Tensor, labels: Tensor | PreparedCache, num_classes: int | None
) -> tuple[Tensor, Tensor, PreparedCache]:
    """Queries, keys and cache for what has no gradient, checked and contiguous."""
    library.require(queries.device)
    check_matrix("queries", queries)
    check_matrix("keys", keys)
    check_same("keys", keys, "queries", queries)
    return queries.contiguous(), keys.contiguous(), prepared(labels, num_classes, keys)


def checked_vector(name: str, tensor: Tensor, queries: Tensor) -> Tensor:
    """A contiguous vector of the accumulation type; :class:`InputError` unless it is one of real numbers."""
    check_device(name, tensor, "queries", queries)
    if tensor.dim() != 1 or tensor.is_complex():
        raise InputError(f"{name} is {shape_of(tensor)}: pass a vector of real numbers.")
    return tensor.to(accumulation_dtype(queries.dtype)).contiguous()


def checked_text(
    text_queries: Tensor | None,
    text_keys: Tensor | None,
    text_beta: Tensor | float | None,
    per_class: bool,
    cache: PreparedCache,
    queries: Tensor,
) -> tuple[Tensor, Tensor]:
    """The second stream's queries and keys; :class:`InputError` unless it is whole and fits the first."""
    if text_queries is None or text_keys is None or text_beta is None:
        raise InputError("a text stream needs text_queries, text_keys and text_beta: pass all three or none.")
    check_matrix("text_queries", text_queries)
    check_matrix("text_keys", text_keys)
    check_same("text_queries", text_queries, "queries", queries, width=False)
    check_same("text_keys", text_keys, "text_queries", text_queries)
    rows = cache.num_classes if per_class else len(cache.labels)
    if text_queries.shape[0] != queries.shape[0] or len(text_keys) != rows:
        raise InputError(
            f"text_queries and text_keys have {len(text_queries)} and {len(text_keys)} rows but {len(queries)} and "
            f"{rows} are needed: one row a query, and one a {'class' if per_class else 'cache entry'} "
            f"(text_keys_per_class={per_class})."
        )
    return text_queries, text_keys
