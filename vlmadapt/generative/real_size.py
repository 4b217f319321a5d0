"""The p-adapter on a BLIP of real size with random weights: time and resident memory of a training step and a search.

Ours. Beside it stands what the released code's formulation would keep for backward (computed, not run).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vlmadapt.errors import VlmadaptError
from vlmadapt.generative.methods.p_adapter import attach_p_adapter
from vlmadapt.generative.models.base import transformers_for

GB = 1e9


@dataclass(frozen=True)
class Sizes:
    """BLIP base at 384 pixels: ``width`` and ``heads`` of both towers, ``layers`` of each; the adapter's reduction."""

    width: int = 768
    heads: int = 12
    layers: int = 12
    image_size: int = 384
    patch: int = 16
    text_tokens: int = 40
    reduction: int = 8

    @property
    def image_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch) ** 2 + 1

    @property
    def nodes(self) -> int:
        """Of the released code's graph of a cross-attention."""
        return self.text_tokens + self.image_tokens

    def released_gb(self, batch: int) -> float:
        """The least the released code keeps for the backward pass of all cross-attentions: of its [B, H, n, n, d]
        tensors, the differences (for the product with sqrt(A)) and that product (for the norm), float32."""
        one = batch * self.heads * self.nodes**2 * (self.width // self.reduction // self.heads) * 4
        return 2 * self.layers * one / GB


def peak_gb() -> float:
    """The most resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GB


def measure(sizes: Sizes, batch: int, new_tokens: int, beams: int) -> dict[str, Any]:
    """One training step on random tokens and one beam search, in this process, on the CPU.

    Raises :class:`MissingDependency` without transformers, :class:`VlmadaptError` where the model is not of the size
    that is claimed or its loss is not finite.
    """
    transformers = transformers_for("the measurement")
    torch.manual_seed(0)
    common = {
        "hidden_size": sizes.width,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
    }
    config = transformers.BlipConfig(
        text_config={**common, "encoder_hidden_size": sizes.width},
        vision_config={**common, "image_size": sizes.image_size, "patch_size": sizes.patch},
    )
    model = transformers.BlipForConditionalGeneration(config).train()
    pixels = torch.randn(batch, 3, sizes.image_size, sizes.image_size)
    tokens = torch.randint(1000, 2000, (batch, sizes.text_tokens))
    found: dict[str, Any] = {"model_gb": peak_gb()}

    attached = attach_p_adapter(model, {"task": "caption", "reduction": sizes.reduction})
    found["trainable_parameters"] = attached.trainable_parameters()
    optimizer = torch.optim.AdamW(attached.parameters(), lr=1e-4)
    start = time.perf_counter()
    outputs = model(pixels, tokens, labels=tokens)
    if outputs.image_embeds.shape[1] != sizes.image_tokens:
        raise VlmadaptError(f"image has {outputs.image_embeds.shape[1]} tokens, not the {sizes.image_tokens} claimed.")
    outputs.loss.backward()
    optimizer.step()
    found |= {"step_seconds": time.perf_counter() - start, "step_peak_gb": peak_gb()}
    if not bool(torch.isfinite(outputs.loss)):
        raise VlmadaptError(f"loss is {outputs.loss.item()}: the step that was measured is not a real one.")

    model.eval()
    start = time.perf_counter()
    written = model.generate(pixels, num_beams=beams, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
    found |= {"generate_seconds": time.perf_counter() - start, "peak_gb": peak_gb(), "written": list(written.shape)}
    found |= {"batch": batch, "nodes": sizes.nodes, "released_gb": sizes.released_gb(batch)}
    return found


def described(found: Mapping[str, Any], sizes: Sizes, new_tokens: int, beams: int) -> str:
    """What :func:`measure` found, in lines."""
    searched = f"beam search {beams} x {new_tokens}"
    step = f"{found['step_peak_gb']:6.2f} GB peak, {found['step_seconds']:.1f} s"
    search = f"{found['peak_gb']:6.2f} GB peak, {found['generate_seconds']:.1f} s"
    released = f"{found['released_gb']:6.2f} GB for the backward pass of cross-attention (computed)"
    tokens = f"{sizes.image_tokens} image tokens, {sizes.text_tokens} text tokens"
    return "\n".join(
        [
            f"BLIP base, {tokens}, batch {found['batch']}",
            f"  {'p-adapter':<22} {found['trainable_parameters']:,} parameters train",
            f"  {'model made':<22} {found['model_gb']:6.2f} GB peak",
            f"  {'training step':<22} {step}",
            f"  {searched:<22} {search}",
            f"  {'released formulation':<22} {released}",
        ]
    )
