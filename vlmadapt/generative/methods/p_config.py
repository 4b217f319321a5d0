"""Options of the p-adapter (arXiv 2312.10613)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from vlmadapt.config import AdapterConfig, check_choice
from vlmadapt.errors import InputError
from vlmadapt.training import check_range

# Initial p and mu0 by task: arXiv 2312.10613 and its released configurations.
INITIAL_P = {"caption": 1.75, "vqa": 1.25, "entailment": 1.5}
INITIAL_MU = {"caption": 0.1, "vqa": 0.1, "entailment": 10.0}

BY_FORM, BY_MODEL = "by-form", "by-model"
# What switches left to the form are, and what the released code has in their place.
SWITCHES = MappingProxyType(
    {
        "p_range": "one-to-two",
        "residual": "query",
        "self_attention": "bipartite",
        "self_loops": "drop",
        "key_pooling": "none",
    }
)
RELEASED = MappingProxyType(
    {
        "p_range": "free",
        "residual": "self-only",
        "self_attention": "homogeneous",
        "self_loops": "keep",
        "key_pooling": "mean",
    }
)
# Fields of the paper's form alone, with what they are in others.
OF_PAPER = MappingProxyType({"degree": "none", "start": BY_FORM, "query_nodes": "projected"})


@dataclass(frozen=True)
class PAdapterConfig(AdapterConfig):
    """Options of the p-adapter; see ``docs/p_adapter.md`` for what is the paper's, the released code's and ours.

    Raises :class:`InputError` for a value out of range and for switches that do not go together.
    """

    task: str = field(default="caption", metadata={"help": "caption, vqa or entailment: chooses the initial p and mu0"})
    form: str = field(
        default=BY_MODEL,
        metadata={
            "help": "paper: messages take the attention's place (equations 9 to 16); released: the authors' code, all "
            "of its switches; gated: messages beside the attention, switches to choose (ours); by-model: gated, or "
            "paper on models reached through transformers' AttentionInterface"
        },
    )
    degree: str = field(
        default=BY_FORM,
        metadata={
            "help": "of form=paper: paper: divide values by the root of their column's sum where all queries are "
            "there at once, never in a decoder; none: nowhere; by-form: paper with start=paper, else none"
        },
    )
    start: str = field(
        default=BY_FORM,
        metadata={
            "help": "of form=paper: frozen: from p = 2 and mu = 0, step 0 is the frozen model (ours); paper: from p "
            "and mu0; by-form: frozen, unless p is given or kept"
        },
    )
    query_nodes: str = field(
        default="projected",
        metadata={
            "help": "of form=paper: projected: the queries; zeros or noise (a fixed vector a head): controls",
            "later": True,
        },
    )
    reduction: int = field(default=8, metadata={"help": "D / bottleneck width, of attention and FFN adapters"})
    p: float | None = field(default=None, metadata={"help": "initial p, at least 1; none: by task"})
    learn_p: bool = field(default=True, metadata={"help": "train p, one number a module; false: p stays as given"})
    p_range: str = field(
        default=BY_FORM,
        metadata={
            "help": "one-to-two: (1, 2]; above-one: p > 1; free: the bare number, cut off at 1 (released code); "
            "by-form: one-to-two, or free"
        },
    )
    mu0: float | None = field(default=None, metadata={"help": "scale of mu, above 0; none: by task"})
    residual: str = field(
        default=BY_FORM,
        metadata={
            "help": "query: pull to x_q (papers); none: to 0, with form=paper no pull; self-only: query in "
            "self-attention only (released); by-form: query, or self-only"
        },
    )
    self_attention: str = field(
        default=BY_FORM,
        metadata={
            "help": "bipartite: queries and values are the nodes; homogeneous: values only (released code); by-form: "
            "bipartite, or homogeneous"
        },
    )
    self_loops: str = field(
        default=BY_FORM,
        metadata={
            "help": "edges between coincident features: drop, or keep with eps (released code); by-form: drop, or keep"
        },
    )
    eps: float = field(default=1e-8, metadata={"help": "of self_loops=keep"})
    key_pooling: str = field(
        default=BY_FORM,
        metadata={
            "help": "keys of cross-attention: none, sum- or mean-pooled (mean: released code); by-form: none, or mean"
        },
    )
    pooled_keys: int = field(default=16, metadata={"help": "number of pooled keys"})
    attentions: str = field(default="both", metadata={"help": "which attentions are adapted: both, self or cross"})
    ffn: bool = field(
        default=True,
        metadata={"help": "also a down-ReLU-up adapter on each FFN: beside it, with form=paper behind it"},
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "adapt only modules whose names begin so; empty: all"})
    tower: bool = field(
        default=False,
        metadata={"help": "adapt the image tower too, where AttentionInterface reaches it", "later": True},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.only, str):  # of one name, as a command line gives it
            object.__setattr__(self, "only", (self.only,))
        if not isinstance(self.only, tuple) or not all(isinstance(name, str) for name in self.only):
            raise InputError(f"PAdapterConfig.only is {self.only!r}: give the beginnings of names of modules.")
        check_choice(self, "task", tuple(INITIAL_P))
        check_choice(self, "form", (BY_MODEL, "paper", "released", "gated"))
        self._settle()
        check_choice(self, "degree", (BY_FORM, "none", "paper"))
        check_choice(self, "start", (BY_FORM, "frozen", "paper"))
        check_choice(self, "query_nodes", ("projected", "zeros", "noise"))
        check_choice(self, "p_range", ("one-to-two", "above-one", "free"))
        check_choice(self, "residual", ("query", "none", "self-only"))
        check_choice(self, "self_attention", ("bipartite", "homogeneous"))
        check_choice(self, "self_loops", ("drop", "keep"))
        check_choice(self, "key_pooling", ("none", "sum", "mean"))
        check_choice(self, "attentions", ("both", "self", "cross"))
        self._refuse_contradictions()
        for name in ("reduction", "pooled_keys"):
            check_range(self, name, low=1)
        check_range(self, "eps", low=0.0, low_allowed=False)
        if self.mu0 is not None:
            check_range(self, "mu0", low=0.0, low_allowed=False)
        if self.p is not None:
            check_range(self, "p")
        low, high = self.initial_p, 2.0 if self.p_range == "one-to-two" else math.inf
        strictly = self.learn_p and self.p_range != "free" and not self.from_frozen
        if not (1 < low < high if strictly else 1 <= low < math.inf):
            wanted = f"between 1 and {high:g}, both excluded" if strictly else "of at least 1"
            raise InputError(f"PAdapterConfig.p is {low}: with p_range={self.p_range!r} pass a number {wanted}.")

    def _settle(self) -> None:
        """Give every switch that was left to the form its value, in place."""
        for name in ("degree", "residual", "key_pooling"):  # of which "none" is a value: command lines give None
            if getattr(self, name) is None:
                object.__setattr__(self, name, "none")
        for name, value in (RELEASED if self.form == "released" else SWITCHES).items():
            if getattr(self, name) == BY_FORM:
                object.__setattr__(self, name, value)
        if self.form != "paper":
            if all(getattr(self, name) == value for name, value in RELEASED.items()):
                object.__setattr__(self, "form", "released")
            if self.form != BY_MODEL and self.degree == BY_FORM:
                object.__setattr__(self, "degree", "none")
            return
        if self.start == BY_FORM:
            object.__setattr__(self, "start", "frozen" if self.p is None and self.learn_p else "paper")
        if self.degree == BY_FORM:
            object.__setattr__(self, "degree", "paper" if self.start == "paper" else "none")

    def _refuse_contradictions(self) -> None:
        """Raise :class:`InputError` for a switch that the form has otherwise, or has not."""
        if self.form == "released":
            fixed = dict(RELEASED)
        elif self.form == "paper":
            fixed = {name: SWITCHES[name] for name in ("self_attention", "self_loops", "key_pooling")}
        else:
            fixed = {}
        if self.form in ("released", "gated"):
            fixed |= OF_PAPER
        for name, value in fixed.items():
            if getattr(self, name) != value:
                other = "paper" if name in OF_PAPER else "gated"
                raise InputError(
                    f"PAdapterConfig.{name} is {getattr(self, name)!r}, but form={self.form!r} has {value!r}: leave it "
                    f"out, or set form={other!r}."
                )
        if self.form == "paper" and self.residual == "self-only":
            raise InputError("PAdapterConfig.residual is 'self-only', which form='paper' has not: use query or none.")
        if self.from_frozen and self.degree == "paper":
            raise InputError(
                "PAdapterConfig.degree is 'paper', with which no step is the frozen model: set start='paper', or leave "
                "degree out."
            )
        if self.from_frozen and self.p not in (None, 2):
            raise InputError(
                f"PAdapterConfig.p is {self.p}, but start='frozen' begins at 2: leave p out, or set start='paper'."
            )

    @property
    def from_frozen(self) -> bool:
        """Whether training begins at p = 2 and mu = 0."""
        return self.form == "paper" and self.start == "frozen"

    @property
    def initial_p(self) -> float:
        if self.from_frozen:
            return 2.0
        return INITIAL_P[self.task] if self.p is None else self.p

    @property
    def initial_mu(self) -> float:
        """mu0."""
        return INITIAL_MU[self.task] if self.mu0 is None else self.mu0

    def of_form(self, natural: str) -> PAdapterConfig:
        """This configuration with the form ``natural``, where the model was to choose."""
        return replace(self, form=natural) if self.form == BY_MODEL else self

    def as_dict(self) -> dict[str, Any]:
        """Every field by name, settled.

        Form and what belongs to the paper's alone only where it is the paper's: the released form is told by its
        switches, as in files of 0.1.0.
        """
        values = super().as_dict()
        if self.form == "paper":
            return values
        left_out = [name for name, other in OF_PAPER.items() if values.get(name) in (BY_FORM, other)]
        return {name: value for name, value in values.items() if name not in ("form", *left_out)}

    @classmethod
    def released(cls, **changes: Any) -> PAdapterConfig:
        """The arithmetic of the authors' released code; ``changes`` name further fields."""
        return cls(**(dict(RELEASED) | changes))
