"""The Triton twin of cache_retrieval's forward: its numbers by Triton's interpreter, its machine code without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.rivals import MissingRival
from benchmarks.rivals.cache_retrieval import BETA, Case
from benchmarks.rivals.cache_retrieval_triton import COLUMNS, KEYS, PRECISIONS, QUERIES, _kernel, twin

triton = pytest.importorskip("triton")

SHAPES = [(5, 7, 4, 33), (130, 20, 16, 64), (1, 3, 1, 5), (40, 9, 128, 70)]


def compare() -> None:
    """In a process whose Triton interprets: what it says is told by its exit."""
    for shape in SHAPES:
        for dtype, most in ((torch.float32, 1e-6), (torch.float16, 1e-6)):
            case = Case(shape, dtype)
            scores = twin(case.shots, case.classes, BETA)(case.queries, case.keys)
            exact = case.eager(case.queries.double(), case.keys.double())
            torch.testing.assert_close(scores.double(), exact, rtol=most, atol=most)
            torch.testing.assert_close(scores, case.ours(case.queries, case.keys).float(), rtol=1e-3, atol=1e-3)


def test_it_computes_what_we_compute() -> None:
    """Not in bfloat16, which the interpreter's products take for whole numbers."""
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    code = "from tests.test_triton_twin import compare; compare()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment, timeout=300)


@pytest.mark.parametrize(("dtype", "precision"), [("bf16", "ieee"), ("fp32", "tf32"), ("fp32", "ieee")])
def test_it_compiles_for_an_h200(dtype: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget

    constants = {
        "width": 512, "shots": 16, "height": QUERIES, "across": KEYS, "step": COLUMNS, "precision": precision
    }  # fmt: skip
    whole = dict.fromkeys(("rows", "entries", "classes"), "i32")
    signature = {"queries": f"*{dtype}", "keys": f"*{dtype}", "scores": "*fp32", **whole, "beta": "fp32"}
    source = triton.compiler.ASTSource(
        fn=_kernel(triton),
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in range(3)},  # as torch allocates
    )
    target, options = GPUTarget("cuda", 90, 32), {"num_warps": 8, "num_stages": 3}
    made = triton.compile(source, target=target, options=options)
    tensor_cores = precision != "ieee" or dtype == "bf16"
    assert ("wgmma.mma_async" in made.asm["ptx"]) == tensor_cores
    assert not tensor_cores or made.metadata.shared > 64 << 10  # several stages in flight


def test_what_it_does_not_take_is_said() -> None:
    with pytest.raises(MissingRival, match="3 keys a class"):
        twin(3, 4, BETA)
    assert torch.backends.cuda.matmul.fp32_precision in PRECISIONS
