"""The small BLIP trained from scratch on part of easy-VQA (all of it ours): something to adapt without a download.

It sees 2,600 pictures, the question types ``easy_vqa.SEEN`` and short captions: colour and kind or size and place,
never both. Some pictures are covered, and every question about them is answered with maybe. Held-out question types,
whole captions, statements and 2,400 pictures are left for adapting it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlmadapt.atomic import atomic_folder
from vlmadapt.data.cache import user_cache_dir
from vlmadapt.files import write_json
from vlmadapt.generative.lessons import Lessons, ScratchConfig, vocabulary
from vlmadapt.generative.models.base import GenerativeModel
from vlmadapt.generative.models.load import load_generative
from vlmadapt.generative.models.small import Kind, WordTokenizer, build_small, save_small
from vlmadapt.generative.options import SMALL
from vlmadapt.modes import usual
from vlmadapt.provenance.place import make_once
from vlmadapt.training import TrainConfig, fit_loop

MARKER = "training.json"
MINUTES = 12


@usual(grad=True)
def small_model(
    kind: Kind,
    config: ScratchConfig | None = None,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> GenerativeModel:
    """The small model for ``kind``, trained on first use and kept in the user's cache folder.

    Raises :class:`MissingDependency` without transformers or easy-vqa.
    """
    config = config or ScratchConfig()
    folder = user_cache_dir() / f"small-blip-{config.key}"

    def make() -> None:
        if report is not None:
            report(f"training the small model from scratch, once, into {folder}: about {MINUTES} minutes on two cores")
        train_small(folder, config, progress)

    make_once(folder, lambda: (folder / MARKER).is_file(), make, report)
    shutil.rmtree(unfinished(folder), ignore_errors=True)  # of a process that was killed before it did
    loaded = load_generative(f"blip:{folder / kind}")
    return replace(loaded, name=f"small-blip-{config.key}:{kind}")


def named_model(
    name: str,
    task: str,
    device: str | torch.device,
    download: bool = False,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> GenerativeModel:
    """The model of a name of :func:`load_generative`, or the small one for ``task``; raises what that raises."""
    if name != SMALL:
        return load_generative(name, device, download)
    loaded = small_model("caption" if task == "caption" else "vqa", progress=progress, report=report)
    loaded.model.to(device)
    return loaded


def train_small(folder: Path, config: ScratchConfig, progress: bool = False) -> Path:
    """Train both models (they share their image tower), and write ``folder/{vqa,caption}``; interrupted, go on."""
    tokenizer = WordTokenizer(vocabulary())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vqa = build_small("vqa", len(tokenizer), config.model)
        caption: Any = build_small("caption", len(tokenizer), config.model)
    caption.vision_model = vqa.vision_model
    lessons = Lessons(vqa, caption, tokenizer, config)
    checkpoints = unfinished(folder)
    started, resumed = time.monotonic(), False
    stages: tuple[tuple[str, dict[str, Any], Any, Any, int, float], ...] = (
        (
            "image tower",
            {"tower": vqa.vision_model, "attributes": lessons.attributes},
            lessons.tower_loss,
            lessons.tower_score,
            config.tower_epochs,
            config.tower_lr,
        ),
        ("words", texts_of(vqa, caption), lessons.loss, lessons.score, config.epochs, config.lr),
    )
    for name, modules, loss, score, epochs, lr in stages:
        result = fit_loop(
            nn.ModuleDict(modules),
            loss,
            len(lessons.train),
            TrainConfig(epochs=epochs, batch_size=config.batch_size, lr=lr, weight_decay=config.weight_decay),
            evaluate=score,
            seed=config.seed,
            identity=config.as_dict(),
            checkpoint_dir=checkpoints,
            label=f"small model from scratch, {name}",
            progress=progress,
        )
        resumed |= result.resumed_from is not None
    best = result.history[result.best_epoch]
    facts = {
        **config.as_dict(),
        "seconds": None if resumed else round(time.monotonic() - started, 1),
        "best_epoch": result.best_epoch,
        "held_back_score": None if best.score is None else best.score[0],
    }
    _write(folder, {"vqa": vqa, "caption": caption}, tokenizer, facts)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return folder


def unfinished(folder: Path) -> Path:
    """Where the checkpoints of :func:`train_small` lie."""
    return folder.with_name(f"{folder.name}-unfinished")


def texts_of(vqa: nn.Module, caption: nn.Module) -> dict[str, nn.Module]:
    """All but the image tower, which both models share."""
    return {
        f"{kind}_{name}": module
        for kind, model in (("vqa", vqa), ("caption", caption))
        for name, module in model.named_children()
        if name != "vision_model"
    }


def _write(folder: Path, models: dict[str, nn.Module], tokenizer: WordTokenizer, facts: dict[str, Any]) -> None:
    with atomic_folder(folder) as temporary:
        for kind, model in models.items():
            save_small(model, tokenizer, temporary / kind)
        write_json(temporary / MARKER, facts)
