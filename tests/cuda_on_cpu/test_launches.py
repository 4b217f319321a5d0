"""Grids of more blocks than a GPU takes: refused, not wrapped around to a small grid that leaves results unwritten."""

from __future__ import annotations

import pytest

from .harness import toolchain
from .harness.build import HERE, Target
from .harness.case import worker
from .harness.process import KernelFault, Schedule

CSRC = HERE.parents[1] / "csrc"
BATCH, HEADS = 6_700_417, 641  # one more block than 2^32


def test_a_grid_beyond_32_bits_is_refused() -> None:
    target = Target(HERE / "drivers" / "p_laplacian.cu")
    if reason := toolchain.missing(target.route, target.build):
        pytest.skip(reason)
    assert BATCH * HEADS == 2**32 + 1
    sizes = [0, BATCH, HEADS, 1, 1, 0, 0, 1, *[0] * 14]
    with pytest.raises(KernelFault, match="grid too large"):
        worker(target).call("p_laplacian_forward", sizes, {str(i): None for i in range(14)}, Schedule())


@pytest.mark.parametrize("operator", sorted({path.parent.name for path in CSRC.glob("*/cuda.cu")}))
def test_every_launcher_counts_its_blocks_with_grid_of(operator: str) -> None:
    source = (CSRC / operator / "cuda.cu").read_text(encoding="utf-8")
    assert "grid_of(" in source and "static_cast<unsigned>" not in source
