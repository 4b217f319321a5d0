"""The rivals of hetero_aggregate on one graph: without pytest, so that they run where there is torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.rivals import compiled, needed
from vlmadapt.ops import Relation, hetero_aggregate
from vlmadapt.ops.hetero_aggregate.route import Route

WIDTH, EDGES, RELATIONS, TYPES = 512, 64, 6, 3


class Case:
    """One class count's tensors and every rival as a function of the sources and the weights."""

    def __init__(self, classes: int, edges: int = EDGES, dtype: torch.dtype = torch.float32) -> None:
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        warnings.filterwarnings("ignore", message="There exist node types")  # PyG: sources are only read
        generator = torch.Generator(device=torch.get_default_device()).manual_seed(0)
        self.classes, edges = classes, min(edges, classes)
        self.sources = [torch.randn(classes, WIDTH, generator=generator).to(dtype) for _ in range(TYPES)]
        self.offsets = torch.arange(classes + 1) * edges
        self.rows = torch.arange(classes).repeat_interleave(edges)
        chosen = [self.some_columns(classes, edges, generator) for _ in range(RELATIONS)]
        self.columns = [columns.sort(1)[0].reshape(-1) for columns in chosen]
        self.weights = [torch.randn(classes * edges, generator=generator) for _ in range(RELATIONS)]
        self.relations = [Relation(self.offsets, columns.to(torch.int32), classes) for columns in self.columns]
        self.grad = torch.randn(classes, WIDTH, generator=generator).to(dtype)
        self.conv: Callable[..., dict[str, Tensor]] | None = None

    @staticmethod
    def some_columns(classes: int, edges: int, generator: torch.Generator) -> Tensor:
        """One at random from each of as many stretches of columns: none twice, which torch.sparse could not bear."""
        stretch = classes // edges
        offsets = torch.randint(0, stretch, (classes, edges), generator=generator)
        return torch.arange(edges) * stretch + offsets

    def ours(self, sources: list[Tensor], weights: list[Tensor], route: Route = "auto") -> Tensor:
        return hetero_aggregate([sources[r % TYPES] for r in range(RELATIONS)], self.relations, weights, route=route)

    def torch_sparse(self, sources: list[Tensor], weights: list[Tensor]) -> Tensor:
        size = (self.classes, self.classes)
        matrices = [
            torch.sparse_csr_tensor(self.offsets, columns, weight, size)
            for columns, weight in zip(self.columns, weights, strict=True)
        ]
        out = matrices[0] @ sources[0]
        for r in range(1, RELATIONS):
            out = out + matrices[r] @ sources[r % TYPES]
        return out

    def gather(self, sources: list[Tensor], weights: list[Tensor]) -> Tensor:
        out = sources[0].new_zeros(self.classes, WIDTH)
        for r in range(RELATIONS):
            out = out.index_add(0, self.rows, sources[r % TYPES][self.columns[r]] * weights[r].unsqueeze(-1))
        return out

    def pyg(self, sources: list[Tensor], weights: list[Tensor]) -> Tensor:
        names = [(f"source{r % TYPES}", f"relation{r}", "target") for r in range(RELATIONS)]
        if self.conv is None:
            nn = needed("torch_geometric.nn", "PyG")
            self.conv = nn.HeteroConv({name: nn.SimpleConv(aggr="sum") for name in names}, aggr="sum")
        nodes = {f"source{t}": source for t, source in enumerate(sources)} | {"target": self.grad}
        edges = {name: torch.stack([columns, self.rows]) for name, columns in zip(names, self.columns, strict=True)}
        assert self.conv is not None
        return self.conv(nodes, edges, dict(zip(names, weights, strict=True)))["target"]

    def function(self, rival: str) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
        return compiled(self.gather) if rival == "compiled" else getattr(self, rival)
