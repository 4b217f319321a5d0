"""Memory and time of one attention of Qwen2-VL-7B's size under the p-adapter in the paper's form, on the CPU.

28 query heads on 4 key-value heads of width 128, 4,096 tokens, causal: forward and backward, each in this process.
Beside it what one matrix of probabilities would take, of which a formulation that stores them keeps several (computed,
not run).

    python scripts/real_size_attention.py [--tokens 4096] [--degree none|paper] [--sdpa]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.paper import PaperAdapter
from vlmadapt.generative.real_size import GB, peak_gb

HEADS, GROUPS, WIDTH = 28, 4, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--degree", choices=["none", "paper"], default="none", help="paper: not causal, with degrees")
    parser.add_argument("--sdpa", action="store_true", help="torch's own attention in its place")
    given = parser.parse_args()
    torch.manual_seed(0)
    causal = given.degree == "none"
    query, key, value = (
        torch.randn(1, heads, given.tokens, WIDTH, requires_grad=True) for heads in (HEADS, GROUPS, GROUPS)
    )
    config = PAdapterConfig(form="paper", start="paper", degree=given.degree, task="vqa")
    generator = torch.Generator().manual_seed(0)
    width = HEADS * WIDTH
    adapter = PaperAdapter(
        width, HEADS, WIDTH, config, decoder=causal, dtype=torch.float32, generator=generator
    ).requires_grad_()

    def attend() -> Tensor:
        if given.sdpa:
            return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)
        return adapter.attend(query, key, value, nn.Identity(), is_causal=causal)[0]

    before = peak_gb()
    start = time.perf_counter()
    out = attend()
    forward, forward_peak = time.perf_counter() - start, peak_gb()
    out.sum().backward()
    both, peak = time.perf_counter() - start, peak_gb()
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in (query, key, value))
    matrix = HEADS * given.tokens**2 * query.element_size() / GB
    print(
        f"{HEADS} heads on {GROUPS}, width {WIDTH}, {given.tokens} tokens, float32, "
        f"{torch.get_num_threads()} thread(s), {'causal' if causal else 'with degrees'}"
        f"{', scaled_dot_product_attention' if given.sdpa else ''}\n"
        f"  inputs in place       {before:6.2f} GB\n"
        f"  forward               {forward_peak:6.2f} GB peak, {forward:.1f} s\n"
        f"  forward and backward  {peak:6.2f} GB peak, {both:.1f} s\n"
        f"  one [H, L, L] matrix  {matrix:6.2f} GB (computed)"
    )


if __name__ == "__main__":
    main()
