"""Tiny language models of transformers that read pictures, random weights; one function a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.generative.tiny import widened

WORDS, PICTURE = 60, 5
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def qwen2_vl(name: str, **given: Any) -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "in_channels": 3}
    if name == "Qwen2VL":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "window_size": 16}
        vision |= {"fullatt_block_indexes": [1]}
    marks = {"image_token_id": PICTURE, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
    text = {**TEXT, **given.pop("text", {}), "rope_parameters": rope}
    return made(name, text_config=text, vision_config={**vision, "spatial_merge_size": 2}, **{**marks, **given})


def llava(name: str, **given: Any) -> Any:
    return made(
        name,
        text_config={**TEXT, **given.pop("text", {}), "model_type": "llama"},
        vision_config={**VISION, "model_type": "clip_vision_model"},
        **{"image_token_id": PICTURE, "image_token_index": PICTURE, "vision_feature_layer": -1, **given},
    )


def smolvlm(name: str, **given: Any) -> Any:
    text = {**TEXT, **given.pop("text", {}), "model_type": "llama"}
    vision = {**VISION, "patch_size": 4}
    return made(name, text_config=text, vision_config=vision, **{"image_token_id": PICTURE, "scale_factor": 2, **given})


def paligemma(name: str, **given: Any) -> Any:
    return made(
        name,
        text_config={**TEXT, **given.pop("text", {}), "model_type": "gemma", "head_dim": 8},
        vision_config={**VISION, "model_type": "siglip_vision_model", "projection_dim": 32},
        **{"image_token_id": PICTURE, "image_token_index": PICTURE, **given},
        projection_dim=32,
        hidden_size=32,
    )


def blip2(name: str, language: str) -> Any:
    sizes = {key: TEXT[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    opt = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
           "max_position_embeddings": 64, "word_embed_proj_dim": 32, "dropout": 0.0}  # fmt: skip
    t5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
          "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "dropout_rate": 0.0}  # fmt: skip
    former = {**VISION, "encoder_hidden_size": 16, "vocab_size": WORDS, "cross_attention_frequency": 1}
    former |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    return made(
        name,
        text_config={**sizes, **(opt if language == "opt" else t5)},
        vision_config=VISION,
        qformer_config=former,
        num_query_tokens=3,
        image_token_id=PICTURE,
        image_token_index=PICTURE,
    )


def made(name: str, **config: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(getattr(transformers, f"{name}Config")(**config))
    return widened(model)


HOSTS: dict[str, Callable[[], Any]] = {
    "Qwen2VL": lambda: qwen2_vl("Qwen2VL"),
    "Qwen2_5_VL": lambda: qwen2_vl("Qwen2_5_VL"),
    "Llava": lambda: llava("Llava"),
    "SmolVLM": lambda: smolvlm("SmolVLM"),
    "Idefics3": lambda: smolvlm("Idefics3"),
    "PaliGemma": lambda: paligemma("PaliGemma"),
    "Blip2-OPT": lambda: blip2("Blip2", "opt"),
    "Blip2-T5": lambda: blip2("Blip2", "t5"),
    "InstructBlip-OPT": lambda: blip2("InstructBlip", "opt"),
    "InstructBlip-T5": lambda: blip2("InstructBlip", "t5"),
}


def of_class(kind: str) -> Any:
    """The first of ``HOSTS`` of a model class."""
    return next(build for name, build in HOSTS.items() if name.partition("-")[0] == kind.partition("ForCond")[0])()
