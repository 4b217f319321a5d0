"""``torch.set_float32_matmul_precision`` on a CPU: rounded products where a level gains by them, exact ones elsewhere.

The levels with instructions that this processor lacks are in ``tests/kernels/test_cache_retrieval.py``, emulated.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.ops.draw import generator
from vlmadapt.ops import build_info, cache_retrieval, cache_retrieval_multi_beta, checks

# Each setting in a process of its own, for one interface cannot be used after the other; torch is imported once.
READ = """
import os
import torch
from vlmadapt.ops import checks
for setting in {settings}:
    if os.fork() == 0:
        exec(setting)
        read = torch.compile(lambda x: x + checks.float32_products(x), backend="eager", fullgraph=True)
        print(checks.float32_products(torch.zeros(())), int(read(torch.zeros(())).item()), flush=True)
        os._exit(0)
    os.wait()
"""
SETTINGS = {
    "": 0,
    "torch.set_float32_matmul_precision('highest')": 0,
    "torch.set_float32_matmul_precision('high')": 1,
    "torch.set_float32_matmul_precision('medium')": 2,
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'": 2,
    "torch.backends.mkldnn.matmul.fp32_precision = 'ieee'": 0,
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": 0,
}
GAINS = {"avx512_bf16": (2,), "amx": (1, 2)}
# Of the largest element: of scores of labels, of results that weigh rows by affinities.
BOUNDS = {1: (2e-6, 2e-5), 2: (1e-3, 2e-2)}


def test_both_interfaces_are_read() -> None:
    command = [sys.executable, "-c", READ.format(settings=list(SETTINGS))]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert run.stdout.splitlines() == [f"{number} {number}" for number in SETTINGS.values()], run.stderr


def results(dtype: torch.dtype, values: bool) -> list[Tensor]:
    """Scores and gradients of a cache of labels, or of values, and the scores under many betas."""
    source = generator(3)
    queries, keys = (torch.nn.functional.normalize(torch.randn(n, 512, generator=source)) for n in (70, 1100))
    labels, soft = torch.randint(0, 13, (1100,), generator=source), torch.randn(1100, 13, generator=source)
    grad = torch.randn(70, 13, generator=source)
    leaves = [x.to(dtype).requires_grad_() for x in (queries, keys)]
    if values:
        leaves.append(soft.to(dtype).requires_grad_())
        scores = cache_retrieval(leaves[0], leaves[1], values=leaves[2], beta=5.5)
    else:
        scores = cache_retrieval(leaves[0], leaves[1], labels, 5.5, num_classes=13)
    grads = torch.autograd.grad((scores * grad).sum(), leaves)
    betas = torch.tensor([1.0, 5.5], dtype=scores.dtype)
    many = cache_retrieval_multi_beta(queries.to(dtype), keys.to(dtype), labels, betas, num_classes=13)
    return [scores.detach(), many, *grads]


@pytest.mark.parametrize("values", [False, True], ids=["labels", "values"])
@pytest.mark.parametrize("number", [1, 2], ids=["high", "medium"])
def test_results_are_rounded_within_bounds_or_not_at_all(
    number: int, values: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = results(torch.float32, values)
    monkeypatch.setattr(checks, "cpu_float32_products", lambda: number)
    rounded = results(torch.float32, values)
    if number not in GAINS.get(build_info()["isa"], ()):
        assert all(map(torch.equal, rounded, exact))
        return
    assert not any(map(torch.equal, rounded, exact))
    truth = results(torch.float64, values)
    for i, (ours, right) in enumerate(zip(rounded, truth, strict=True)):
        assert (ours.double() - right).abs().max() <= BOUNDS[number][i != 1 and (values or i > 1)] * right.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_types_are_as_they_were(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results(dtype, False)
    monkeypatch.setattr(checks, "cpu_float32_products", lambda: 2)
    assert all(map(torch.equal, results(dtype, False), before))
