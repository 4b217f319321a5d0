"""Options of the p-adapter (arXiv 2312.10613)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from vlmadapt.config import AdapterConfig, check_choice
from vlmadapt.errors import InputError
from vlmadapt.training import check_range

# Initial p and mu0 by task: arXiv 2312.10613 and its released configurations.
INITIAL_P = {"caption": 1.75, "vqa": 1.25, "entailment": 1.5}
INITIAL_MU = {"caption": 0.1, "vqa": 0.1, "entailment": 10.0}


@dataclass(frozen=True)
class PAdapterConfig(AdapterConfig):
    """Options of the p-adapter; see ``docs/p_adapter.md`` for what is the paper's, the released code's and ours.

    Raises :class:`InputError` for a value out of range and for switches that do not go together.
    """

    task: str = field(default="caption", metadata={"help": "caption, vqa or entailment: chooses the initial p and mu0"})
    reduction: int = field(default=8, metadata={"help": "D / bottleneck width, of attention and FFN adapters"})
    p: float | None = field(default=None, metadata={"help": "initial p, at least 1; none: by task"})
    learn_p: bool = field(default=True, metadata={"help": "train p, one number a module; false: p stays as given"})
    p_range: str = field(
        default="one-to-two",
        metadata={"help": "one-to-two: (1, 2]; above-one: p > 1; free: the bare number, cut off at 1 (released code)"},
    )
    mu0: float | None = field(default=None, metadata={"help": "scale of mu, above 0; none: by task"})
    residual: str = field(
        default="query",
        metadata={
            "help": "query: pull to x_q (papers); none: to 0; self-only: query in self-attention only (released)"
        },
    )
    self_attention: str = field(
        default="bipartite",
        metadata={"help": "bipartite: queries and values are the nodes; homogeneous: values only (released code)"},
    )
    self_loops: str = field(
        default="drop", metadata={"help": "edges between coincident features: drop, or keep with eps (released code)"}
    )
    eps: float = field(default=1e-8, metadata={"help": "of self_loops=keep"})
    key_pooling: str = field(
        default="none", metadata={"help": "keys of cross-attention: none, sum- or mean-pooled (mean: released code)"}
    )
    pooled_keys: int = field(default=16, metadata={"help": "number of pooled keys"})
    attentions: str = field(default="both", metadata={"help": "which attentions are adapted: both, self or cross"})
    ffn: bool = field(default=True, metadata={"help": "also a parallel down-ReLU-up adapter on each FFN"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "adapt only modules whose names begin so; empty: all"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.only, str):  # of one name, as a command line gives it
            object.__setattr__(self, "only", (self.only,))
        if not isinstance(self.only, tuple) or not all(isinstance(name, str) for name in self.only):
            raise InputError(f"PAdapterConfig.only is {self.only!r}: give the beginnings of names of modules.")
        check_choice(self, "task", tuple(INITIAL_P))
        check_choice(self, "p_range", ("one-to-two", "above-one", "free"))
        check_choice(self, "residual", ("query", "none", "self-only"))
        check_choice(self, "self_attention", ("bipartite", "homogeneous"))
        check_choice(self, "self_loops", ("drop", "keep"))
        check_choice(self, "key_pooling", ("none", "sum", "mean"))
        check_choice(self, "attentions", ("both", "self", "cross"))
        for name in ("reduction", "pooled_keys"):
            check_range(self, name, low=1)
        check_range(self, "eps", low=0.0, low_allowed=False)
        if self.mu0 is not None:
            check_range(self, "mu0", low=0.0, low_allowed=False)
        if self.p is not None:
            check_range(self, "p")
        low, high = self.initial_p, 2.0 if self.p_range == "one-to-two" else math.inf
        strictly = self.learn_p and self.p_range != "free"
        if not (1 < low < high if strictly else 1 <= low < math.inf):
            wanted = f"between 1 and {high:g}, both excluded" if strictly else "of at least 1"
            raise InputError(f"PAdapterConfig.p is {low}: with p_range={self.p_range!r} pass a number {wanted}.")

    @property
    def initial_p(self) -> float:
        return INITIAL_P[self.task] if self.p is None else self.p

    @property
    def initial_mu(self) -> float:
        """mu0."""
        return INITIAL_MU[self.task] if self.mu0 is None else self.mu0

    @classmethod
    def released(cls, **changes: Any) -> PAdapterConfig:
        """The arithmetic of the authors' released code; ``changes`` name further fields."""
        switches: dict[str, Any] = {
            "p_range": "free",
            "residual": "self-only",
            "self_attention": "homogeneous",
            "self_loops": "keep",
            "key_pooling": "mean",
        }
        return cls(**(switches | changes))
