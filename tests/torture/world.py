"""Pictures, a generative model and the calls that are no command lines, all small."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.experiments.world import TIP_F, ColourEncoder, make_world
from vlmadapt import backbones, cli
from vlmadapt.adapters import create_adapter
from vlmadapt.classifier import Classifier
from vlmadapt.cli import demo
from vlmadapt.data import builtin, load_dataset
from vlmadapt.errors import VlmadaptError
from vlmadapt.provenance.settings import parse_method
from vlmadapt.training import loop


class World:
    """All that a tortured command reads lies below ``folder``, what it writes in ``root``; it runs in this process."""

    def __init__(self, folder: Path) -> None:
        self.root, self.data, self.model = folder / "root", folder / "pictures", folder / "model"
        os.environ["VLMADAPT_CACHE"] = str(self.root / "cache")
        make_world(self.data)
        encoder = ColourEncoder()
        backbones.load_encoder = lambda name, **_options: encoder  # type: ignore[assignment]
        loop.CHECKPOINT_SECONDS = 0.0  # after every epoch
        Figure.savefig = _save_quickly  # type: ignore[assignment,method-assign]  # drawn, it takes longer than the rest
        digits = np.arange(20) % 10
        builtin._read_mnist = lambda source: (np.zeros((20, 28, 28), dtype=np.uint8), digits)
        builtin.BUILTIN[demo.DATA] = lambda: load_dataset(self.data)
        demo.SHOTS, demo.SAVED = (1, 2), "tip-adapter-f"  # type: ignore[assignment]
        demo.ADAPTERS = ("zero-shot", replace(parse_method(TIP_F), label=demo.SAVED))  # type: ignore[assignment]
        self.calls: dict[str, Callable[..., object]] = {
            "Classifier.save": lambda path: Classifier.load(self.root / "run", encoder).save(path),
            "Adapter.save": lambda path, seed: _adapter(int(seed)).save(path),
            "mnist5k": builtin.load_mnist5k,
            **self._generative(folder),
        }

    def _generative(self, folder: Path) -> dict[str, Callable[..., object]]:
        from tests.generative.tasks import world
        from tests.generative.test_scratch import TINY
        from vlmadapt.generative import front, lessons, scratch
        from vlmadapt.generative.data import easy_vqa
        from vlmadapt.generative.methods.registry import attach
        from vlmadapt.generative.models.small import save_small

        (folder / "records").mkdir()
        records = world.records("vqa", folder / "records")
        front.load_records = lambda *_arguments: records
        save_small(world.model().model, world.tokenizer(), self.model)
        lessons.HELD_BACK = 4
        for module, name in ((easy_vqa, "questions"), (easy_vqa, "pictures"), (scratch, "vocabulary")):
            setattr(module, name, functools.cache(getattr(module, name)))
        covered = easy_vqa.pictures("val")[:3]
        return {
            "covered pictures": lambda: easy_vqa.covered_pictures(covered),
            "small model": lambda: scratch.small_model("vqa", TINY),
            "p-adapter save": lambda path, seed: attach(world.model().model, "p-adapter", seed=int(seed)).save(path),
        }

    def run(self, line: Sequence[str]) -> int:
        """Exit code of the command ``line``, or of the call of the package that it stands for."""
        name, *given = [part.format(root=self.root, data=self.data, model=self.model) for part in line]
        try:
            if name in self.calls:
                self.calls[name](*given)
            else:
                cli.app([name, *given], prog_name="vlmadapt")
        except VlmadaptError as error:
            cli.console.fail(str(error))
            return 2
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def _adapter(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    adapter = create_adapter("tip-adapter", text_features=features[:4], logit_scale=20.0)
    adapter.fit(features, torch.arange(8) % 4)
    return adapter


def _save_quickly(figure: Figure, path: Path, metadata: Mapping[str, Any], **_options: Any) -> None:
    texts = PngInfo()
    for key, value in metadata.items():
        texts.add_text(key, value)
    picture = Image.new("RGB", (300, 300), (len(figure.axes), 0, 0))
    picture.save(path, format="PNG", compress_level=0, pnginfo=texts)
