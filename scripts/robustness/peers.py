"""The peers as their documentation says they are used; what stands in for a GPU and for weights is said on the page."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

FOLDERS: dict[str, Path] = {}  # of peers that are no installed package
TIP_REPOSITORY = "gaopengcuhk/Tip-Adapter"


def versions(peers: Sequence[str]) -> dict[str, str]:
    """Peer to the version that runs; peers that are not there are left out."""
    packages = {
        "CLIP_benchmark": "clip-benchmark",
        "scikit-learn": "scikit-learn",
        "peft": "peft",
        "ImageFolder": "torchvision",
    }
    found = {}
    for peer in peers:
        if peer in packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[peer] = f"{packages[peer]} {importlib.metadata.version(packages[peer])}"
        elif FOLDERS.get(peer):
            asked = ["git", "-C", str(FOLDERS[peer]), "rev-parse", "HEAD"]
            commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
            found[peer] = f"{TIP_REPOSITORY} {commit[:12]}"
    return found


# torchvision


def image_folder(root: Path) -> Any:
    from torchvision.datasets import ImageFolder

    return ImageFolder(str(root))


def read_all(root: Path) -> tuple[list[str], int]:
    """Class names, and how many pictures could be read."""
    dataset = image_folder(root)
    return list(dataset.classes), sum(1 for picture, _ in dataset if picture.size)


# CLIP_benchmark: ImageFolder -> convert_dataset -> clip_benchmark eval, zero-shot, as its help says for own pictures


def convert(classes: Path, out: Path, split: str = "test") -> Path:
    from clip_benchmark.webdataset_builder import PIL_to_bytes, convert_dataset
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(classes), transform=PIL_to_bytes("png"))
    convert_dataset(dataset, split, str(out), image_format="png")
    (out / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return out


def tiny_model(folder: Path) -> Path:
    """A checkpoint of random weights of the architecture ``tiny``, which open_clip knows from here on."""
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tiny.json").exists():
        (folder / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny.json")
    checkpoint = folder / "tiny.pt"
    if not checkpoint.exists():
        torch.save(open_clip.create_model("tiny").state_dict(), checkpoint)
    return checkpoint


def clip_benchmark(root: Path, models: Path, *more: object, name: str = "pets") -> int:
    """``clip_benchmark eval``; pictures are encoded one process a time."""
    from clip_benchmark import cli

    one_number_as_a_scalar()
    checkpoint = tiny_model(models)
    arguments = [
        "eval",
        "--dataset",
        f"wds/{name}",
        "--dataset_root",
        root,
        "--model",
        "tiny",
        "--pretrained",
        checkpoint,
    ]
    arguments += ["--no_amp", "--num_workers", "0", *more]
    sys.argv = ["clip_benchmark", *map(str, arguments)]
    cli.main()
    return 0


# Tip-Adapter: its functions, on features


class Same(torch.nn.Module):
    """In CLIP's place: a feature is its own feature."""

    dtype = torch.float32

    def encode_image(self, features: Tensor) -> Tensor:
        return features.clone()


def one_number_as_a_scalar() -> None:
    """Both ask ``float(array of one number)``, which NumPy refuses from 2.4 on: no case is about that."""
    theirs = torch.Tensor.numpy

    def numpy(self: Tensor, *given: Any, **more: Any) -> Any:
        return theirs(self.reshape(()) if self.shape == (1,) else self, *given, **more)

    setattr(torch.Tensor, "numpy", numpy)  # noqa: B010


def without_gpu() -> None:
    """``.cuda()`` is the tensor itself; ``.half()``, which products on a CPU lack, is ``.float()``."""
    stay: Any = lambda self, *_, **__: self  # noqa: E731
    patched: Any = torch.Tensor
    patched.cuda, patched.half = stay, torch.Tensor.float
    setattr(torch.nn.Module, "cuda", stay)  # noqa: B010


def tip_adapter() -> tuple[ModuleType, ModuleType]:
    """Its ``utils`` and ``main``."""
    sys.path.insert(0, str(FOLDERS["Tip-Adapter"]))
    one_number_as_a_scalar()
    without_gpu()
    with contextlib.redirect_stdout(io.StringIO()):
        import main
        import utils
    return utils, main


def problem(classes: int = 3, shots: int = 4, width: int = 32, seed: int = 0, apart: float = 1.0) -> Any:
    """Unit features around a direction a class: train, val and test with labels, and class text features ``[C, D]``."""
    draw = torch.Generator().manual_seed(seed)
    text = normalize(torch.randn(classes, width, generator=draw), dim=-1)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(classes).repeat(count)
        noise = normalize(torch.randn(len(labels), width, generator=draw), dim=-1)
        return normalize(apart * text[labels] + noise, dim=-1), labels

    return SimpleNamespace(text=text, train=part(shots), val=part(4), test=part(4))


def tip_settings(cache: Path, **more: Any) -> dict[str, Any]:
    """A configuration as its YAML files have it, with a small search."""
    cache.mkdir(parents=True, exist_ok=True)
    settings = {"cache_dir": str(cache), "load_cache": False, "load_pre_feat": False, "shots": 4, "augment_epoch": 1}
    settings |= {"search_hp": True, "search_scale": [7, 3], "search_step": [4, 2], "init_beta": 1, "init_alpha": 1.17}
    return settings | {"lr": 0.001, "train_epoch": 2} | more


def tip_fit(modules: tuple[ModuleType, ModuleType], settings: dict[str, Any], data: Any, tuned: bool = False) -> Any:
    """Its ``main`` from the cache on; returns the cache's keys."""
    utils, main = modules
    model, weights = Same(), data.text.T.contiguous()
    keys, values = utils.build_cache_model(settings, model, [data.train])
    val = utils.pre_load_features(settings, "val", model, [data.val])
    test = utils.pre_load_features(settings, "test", model, [data.test])
    main.run_tip_adapter(settings, keys, values, *val, *test, weights)
    if tuned:
        main.run_tip_adapter_F(settings, keys, values, *val, *test, weights, model, [data.train])
    return keys


def tip_split(root: Path, rows: dict[str, list[list[Any]]]) -> Path:
    """A data set as it reads them: ``oxford_pets/split_zhou_OxfordPets.json``, here with the pictures of ``root``."""
    folder = root / "oxford_pets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(rows))
    return root


def tip_dataset(root: Path, shots: int = 2) -> Any:
    tip_adapter()
    from datasets.oxford_pets import OxfordPets

    return OxfordPets(str(root), shots)


# peft, on the BLIP of the tests


def lora(model: Any, **more: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"], **more))
