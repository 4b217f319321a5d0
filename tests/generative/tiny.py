"""Tiny generative models with random weights, large enough that every token matters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlmadapt.generative.models.blip import CLASSES
from vlmadapt.generative.models.load import family_of

WORDS = 40
START, END = 38, 39


def tiny_blip(name: str, layers: int = 2) -> Any:
    """``transformers.<name>``, evaluation mode; width 32, 4 heads, 17 image tokens."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    numbers = {"pad_token_id": 0, "bos_token_id": START, "eos_token_id": END, "sep_token_id": END}
    text = {"vocab_size": WORDS, "encoder_hidden_size": 32, "max_position_embeddings": 24, "num_hidden_layers": layers}
    vision = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 1}
    config = transformers.BlipConfig(
        text_config={**sizes, **text, **numbers},
        vision_config={**sizes, **vision},
        image_text_hidden_size=16,
        projection_dim=16,
    )
    return widened(getattr(transformers, name)(config))


def tiny_coca(**text: Any) -> Any:
    """An open_clip CoCa, evaluation mode; width 24, 3 heads, 16 positions."""
    pytest.importorskip("open_clip")
    from open_clip.coca_model import CoCa

    sizes = {"context_length": 16, "vocab_size": WORDS, "width": 24, "heads": 3, "layers": 2}
    vision = {"image_size": 32, "layers": 1, "width": 24, "head_width": 12, "patch_size": 8, "output_tokens": True}
    pooler = {"attentional_pool": True, "attn_pooler_queries": 8, "attn_pooler_heads": 2}
    texts = {**sizes, "embed_cls": True, "output_tokens": True, **text}
    return widened(CoCa(24, sizes, texts, {**vision, **pooler}))


def tiny_assembled(words: int = WORDS) -> Any:
    """An assembled model, evaluation mode: 5 vectors a picture before a Llama 36 wide of 3 heads, 1 for keys."""
    transformers = pytest.importorskip("transformers")
    from vlmadapt.generative.models.assembled import AssembledModel
    from vlmadapt.generative.models.projector import Projector

    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 12, "num_hidden_layers": 2}
    numbers = {"pad_token_id": 0, "bos_token_id": words - 2, "eos_token_id": words - 1}
    config = transformers.LlamaConfig(
        hidden_size=36, intermediate_size=48, vocab_size=words, max_position_embeddings=64, **heads, **numbers
    )
    projector = Projector(torch.zeros(16), torch.ones(()), torch.zeros(36), places=5, hidden=8, summary=3)
    tower = nn.Sequential(nn.Conv2d(3, 16, 16, 8), nn.Flatten(2), nn.AdaptiveAvgPool1d(5), Transposed())
    return widened(AssembledModel(tower, projector, transformers.LlamaForCausalLM(config), 32))


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def tiny(kind: str) -> Any:
    """The tiny model of a class that some family names."""
    from tests.generative.tiny_hosts import of_class

    if kind == "AssembledModel":
        return tiny_assembled()
    return tiny_coca() if kind == "CoCa" else tiny_blip(kind) if kind in CLASSES else of_class(kind)


def text_parameters(model: nn.Module) -> list[str]:
    """Names of those outside of the image tower."""
    family = family_of(model)
    assert family is not None
    return [name for name, _ in model.named_parameters() if not name.startswith(family.tower)]


@torch.no_grad()
def widened(model: nn.Module) -> nn.Module:
    """Weights drawn wide enough for outputs to depend on all inputs."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or parameter.numel() == 1:
            scale = 0.3 if parameter.dim() > 1 else 1.0
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        elif name.endswith("bias"):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def spelt(model: nn.Module) -> nn.Module:
    """Weights spelt from the parameters' names: the same bits under every torch, on every processor."""
    spell(dict(model.named_parameters()))
    return model.eval()


@torch.no_grad()
def spell(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        digits = torch.frombuffer(
            bytearray(hashlib.shake_256(name.encode()).digest(parameter.numel())), dtype=torch.uint8
        )
        values = (digits.float() - 127.5).view(parameter.shape)
        if parameter.dim() > 1 or parameter.numel() == 1:
            parameter.copy_(values / 256)
        elif name.endswith("bias"):
            parameter.copy_(values / 1024)


@torch.no_grad()
def in_training(attached: Any) -> Any:
    """As if some steps had been trained: nothing is at its initial value."""
    generator = torch.Generator().manual_seed(7)
    for parameter in attached.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return attached


def pictures(number: int = 2) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def texts(number: int = 2, length: int = 7) -> tuple[Tensor, Tensor]:
    """Tokens [n, L] and their mask; the last text is padded."""
    tokens = torch.randint(1, START, (number, length), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = START
    mask = torch.ones_like(tokens)
    tokens[-1, length - 2 :] = 0
    mask[-1, length - 2 :] = 0
    return tokens, mask
