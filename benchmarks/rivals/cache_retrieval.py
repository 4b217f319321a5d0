"""The rivals of cache_retrieval on one shape's tensors: without pytest, so that they run where there is torch alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from benchmarks.rivals import MissingRival, compiled, needed
from vlmadapt.ops import PreparedCache, cache_retrieval

BETA = 5.5


class Case:
    """One shape's tensors and every rival as a function of queries and keys."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> None:
        queries, self.classes, shots, width = shape
        generator = torch.Generator(device=torch.get_default_device()).manual_seed(0)
        if shots:
            self.labels = torch.arange(self.classes).repeat_interleave(shots)
        else:  # one to thirty-one entries a class, unsorted
            sizes = torch.randint(1, 32, (self.classes,), generator=generator)
            labels = torch.arange(self.classes).repeat_interleave(sizes)
            self.labels = labels[torch.randperm(len(labels), generator=generator)]
        self.shots = shots
        self.queries = normalize(torch.randn(queries, width, generator=generator), dim=-1).to(dtype)
        self.keys = normalize(torch.randn(len(self.labels), width, generator=generator), dim=-1).to(dtype)
        self.cache = PreparedCache(self.labels, self.classes)
        self.grad = torch.randn(queries, self.classes, generator=generator)

    def ours(self, queries: Tensor, keys: Tensor) -> Tensor:
        scores = cache_retrieval(queries, keys, self.cache, BETA)
        assert isinstance(scores, Tensor)
        return scores

    def ours_by(self, route: Literal["fused", "chunked"]) -> Callable[[Tensor, Tensor], Tensor]:
        """On a GPU: whether the route that is chosen is the faster one."""

        def function(queries: Tensor, keys: Tensor) -> Tensor:
            return cache_retrieval(queries, keys, self.cache, BETA, route=route)

        return function

    def onehot(self, dtype: torch.dtype) -> Tensor:
        if not hasattr(self, "_onehot"):  # part of the released cache, so made once, not in the timed call
            self._onehot = one_hot(self.labels, self.classes).float()
        return self._onehot.to(dtype)

    def released(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (-1 * (BETA - BETA * (queries @ keys.T))).exp() @ self.onehot(keys.dtype)

    def eager(self, queries: Tensor, keys: Tensor) -> Tensor:
        affinity = torch.exp(BETA * (queries @ keys.T) - BETA)
        if self.shots:
            return affinity.view(len(queries), self.classes, self.shots).sum(-1)
        return affinity.new_zeros(len(queries), self.classes).index_add(1, self.labels, affinity)

    def keops(self, queries: Tensor, keys: Tensor) -> Tensor:
        LazyTensor = needed("pykeops.torch", "KeOps").LazyTensor
        affinity = (BETA * (LazyTensor(queries[:, None]) | LazyTensor(keys[None])) - BETA).exp()
        return affinity @ self.onehot(keys.dtype)

    def faiss_top_1(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The nearest key only: less than what a class score needs."""
        faiss = needed("faiss", "FAISS")
        faiss.omp_set_num_threads(torch.get_num_threads())
        faiss.cvar.distance_compute_blas_threshold = 0  # BLAS also for few queries: FAISS's own default is slow there
        if torch.get_default_device().type == "cuda":
            if not hasattr(faiss, "StandardGpuResources"):
                raise MissingRival("this FAISS has no GPU support")
            importlib.import_module("faiss.contrib.torch_utils")  # lets knn_gpu take torch tensors
            metric = faiss.METRIC_INNER_PRODUCT
            return faiss.knn_gpu(faiss.StandardGpuResources(), queries, keys, 1, metric=metric)[1]
        return faiss.knn(queries.numpy(), keys.numpy(), 1, metric=faiss.METRIC_INNER_PRODUCT)[1]

    def rival(self, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        return compiled(self.eager) if name == "compiled" else getattr(self, name)
