"""The similarities that a small forward on the CPU keeps for its backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.draw import generator
from tests.ops.test_cache_retrieval import MODULE, SHAPES, make, scores_of, two_streams
from vlmadapt.ops import cache_retrieval

needs_cpu = pytest.mark.skipif("config.getoption('--device') != 'cpu'", reason="similarities are kept on the CPU only")


class Kept(TorchDispatchMode):
    """Notes the shape of the similarities that the last forward kept: [streams, entries, queries]."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.vlmadapt.cache_retrieval.default:
            self.shape, self.dtype = tuple(result[2].shape), result[2].dtype
        return result


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (1030, 60, 7, 5)], ids=str)
@pytest.mark.parametrize("streams", ["one", "two", "two, a text key a class"])
def test_kept_and_recomputed_similarities_give_the_same_gradients(
    shape: tuple[int, ...], streams: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    queries, keys, labels = make(shape, dtype)
    inputs = {"queries": queries, "keys": keys, "beta": torch.linspace(1, 3, shape[0], dtype=wide)}
    fixed = {}
    if streams != "one":
        options = two_streams(shape, streams != "two", dtype)
        inputs |= {name: options.pop(name) for name in ("text_queries", "text_keys")}
        fixed = options | {"ratio": torch.rand(shape[0], generator=generator(2))}
    if shape[1]:
        fixed |= {"own_entry": (torch.arange(shape[0]) * 7) % (shape[1] + 1) - 1, "mask_own_scores": True}
    for tensor in inputs.values():
        tensor.requires_grad_()
    matrices = 2 if streams == "two" else 1
    size = matrices * shape[0] * shape[1] * wide.itemsize
    results = []
    for limit, kept in ((size, matrices), (size - 1, 0)):  # on either side of the threshold
        monkeypatch.setattr(MODULE, "KEPT_BYTES", limit)
        with Kept() as mode:
            scores = scores_of(cache_retrieval, labels=labels, num_classes=shape[2], **inputs, **fixed)
        assert mode.shape == (kept, shape[1], shape[0])
        results.append([scores, *torch.autograd.grad(scores.square().sum(), list(inputs.values()))])
    # Bit for bit, but where two lanes make the backward multiply tiles and the forward takes dot products.
    tolerance = 1e-12 if dtype == torch.float64 else 0
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


@needs_cpu
@pytest.mark.parametrize("queries", [4, 5])
@pytest.mark.parametrize("streams", ["one", "two"])
def test_bfloat16_keeps_affinities_of_more_than_a_few_queries(
    queries: int, streams: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 16 bits, twice as many bytes; not where a sharpness may have a gradient, which needs similarities."""
    shape = (queries, 60, 7, 5)
    inputs = dict(zip(("queries", "keys", "labels"), make(shape, torch.bfloat16), strict=True))
    options: dict[str, object] = {}
    if streams == "two":
        options = two_streams(shape, False, torch.bfloat16) | {"ratio": 0.3, "text_beta": 1.7}
    inputs["queries"].requires_grad_()
    matrices, few = (2 if streams == "two" else 1), queries == 4
    monkeypatch.setattr(MODULE, "KEPT_BYTES", matrices * queries * 60 * (4 if few else 1))
    for beta, kept in ((2.0, torch.float32 if few else torch.int16), (torch.tensor(2.0), torch.float32)):
        with Kept() as mode:
            scores_of(cache_retrieval, num_classes=7, beta=beta, **inputs, **options)
        assert mode.dtype == kept
        assert mode.shape == (matrices if few or kept == torch.int16 else 0, 60, queries)


@needs_cpu
def test_nothing_is_kept_without_a_gradient() -> None:
    queries, keys, labels = make((6, 20, 4, 5))
    for gradient_mode, needs_gradient, kept in ((True, True, 1), (True, False, 0), (False, True, 0)):
        with torch.set_grad_enabled(gradient_mode), Kept() as mode:
            cache_retrieval(queries, keys.requires_grad_(needs_gradient), labels, 2.0, num_classes=4)
        assert mode.shape[0] == kept


def test_a_missing_gradient_stays_missing() -> None:
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, scores: Tensor) -> Tensor:
            return scores.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> None:
            return None

    queries, keys, labels = make((6, 20, 4, 5))
    scores = cache_retrieval(queries.requires_grad_(), keys, labels, 2.0, num_classes=4)
    Nothing.apply(scores).sum().backward()
    assert queries.grad is None
