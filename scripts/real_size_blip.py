"""The p-adapter on a BLIP of real size (base, 384 pixels: 577 image tokens), with random weights, on the CPU.

One training step and one beam search, each within a limit of resident memory, measured in a process of its own; and
what the released code's formulation would keep for backward at the same sizes without its pooling (computed, not run).

    python scripts/real_size_blip.py [--batch 8] [--limit-gb 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEXT_TOKENS = 40
HEADS, LAYERS, WIDTH, REDUCTION = 12, 12, 768, 8
IMAGE_SIZE, PATCH = 384, 16
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2 + 1
GB = 1e9


def peak_gb() -> float:
    """The most resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GB


def released_gb(batch: int, nodes: int) -> float:
    """The least the released code keeps for the backward pass of all cross-attentions: of its [B, H, n, n, d] tensors,
    the differences (for the product with sqrt(A)) and that product (for the norm), float32."""
    one = batch * HEADS * nodes**2 * (WIDTH // REDUCTION // HEADS) * 4
    return 2 * LAYERS * one / GB


def measure(batch: int, new_tokens: int, beams: int) -> dict[str, Any]:
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration

    from vlmadapt.generative.methods.p_adapter import attach_p_adapter

    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    config = BlipConfig(
        text_config={**sizes, "encoder_hidden_size": WIDTH},
        vision_config={**sizes, "image_size": IMAGE_SIZE, "patch_size": PATCH},
    )
    model = BlipForConditionalGeneration(config).train()
    pixels = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE)
    tokens = torch.randint(1000, 2000, (batch, TEXT_TOKENS))
    found: dict[str, Any] = {"model_gb": peak_gb()}

    attached = attach_p_adapter(model, {"task": "caption", "reduction": REDUCTION})
    found["trainable_parameters"] = attached.trainable_parameters()
    optimizer = torch.optim.AdamW(attached.parameters(), lr=1e-4)
    start = time.perf_counter()
    outputs = model(pixels, tokens, labels=tokens)
    assert outputs.image_embeds.shape[1] == IMAGE_TOKENS
    outputs.loss.backward()
    optimizer.step()
    found |= {"step_seconds": time.perf_counter() - start, "step_peak_gb": peak_gb()}
    assert bool(torch.isfinite(outputs.loss))

    model.eval()
    start = time.perf_counter()
    written = model.generate(pixels, num_beams=beams, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
    found |= {"generate_seconds": time.perf_counter() - start, "peak_gb": peak_gb(), "written": list(written.shape)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.batch, given.new_tokens, given.beams)))
        return 0
    child = subprocess.run([sys.executable, __file__, "--measure", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    if child.returncode:
        return child.returncode
    found = json.loads(child.stdout.splitlines()[-1])
    nodes = TEXT_TOKENS + IMAGE_TOKENS
    found |= {"batch": given.batch, "nodes": nodes, "released_gb": released_gb(given.batch, nodes)}
    print(f"BLIP base, {IMAGE_TOKENS} image tokens, {TEXT_TOKENS} text tokens, batch {given.batch}")
    print(f"  p-adapter              {found['trainable_parameters']:,} parameters train")
    print(f"  model made             {found['model_gb']:6.2f} GB peak")
    print(f"  training step          {found['step_peak_gb']:6.2f} GB peak, {found['step_seconds']:.1f} s")
    print(f"  beam search {given.beams} x {given.new_tokens:<3}     {found['peak_gb']:6.2f} GB peak, ", end="")
    print(f"{found['generate_seconds']:.1f} s")
    print(
        f"  released formulation   {found['released_gb']:6.2f} GB for the backward pass of cross-attention (computed)"
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if found["peak_gb"] > given.limit_gb:
        print(f"over the limit of {given.limit_gb:g} GB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
