"""What is tortured: each command with small inputs, and what has to lie there before it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tests.experiments.world import TIP, TIP_F, ColourEncoder, make_world
from vlmadapt import backbones, cli
from vlmadapt.classifier import Classifier
from vlmadapt.data import builtin
from vlmadapt.errors import FileError, VlmadaptError
from vlmadapt.training import loop

SEARCH = ("--set", "search_beta=[1,4,2]", "--set", "search_alpha=[1,4,2]", "--set", "epochs=2")
Line = tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """``before`` are lines that end well before the tortured one, ``line``; ``check`` looks at what a failure left."""

    line: Line
    before: tuple[Line, ...] = ()
    check: Callable[[Path], None] = lambda root: None


def fit(folder: str, *more: str) -> Line:
    return (
        "fit",
        "{data}",
        "--adapter",
        "tip-adapter-f",
        "--shots",
        "2",
        "--out",
        f"{{root}}/{folder}",
        *SEARCH,
        *more,
    )


def compare(*more: str) -> Line:
    adapters = ("--adapters", f"zero-shot,{TIP},{TIP_F}")
    return ("compare", "{data}", *adapters, "--shots", "2", "--seeds", "1", "--out", "{root}/run", *more)


TUNE = (
    *[
        "tune",
        "--task",
        "vqa",
        "--model",
        "blip:{model}",
        "--method",
        "frozen,bitfit",
        "--epochs",
        "2",
        "--batch-size",
        "8",
    ],
    *["--set", "longest=4", "--out", "{root}/run"],
)


def old_or_new(root: Path) -> None:
    """An older classifier is still there, or the new one is, or the folder says that it is between the two."""
    with suppress(FileError):
        Classifier.load(root / "run", ColourEncoder())
        return
    assert (root / "run" / "unfinished.json").is_file(), "no classifier loads, and nothing says that one is being made"


COMMANDS = {
    "fit": Command(fit("run")),
    "fit --overwrite": Command(fit("run", "--overwrite"), before=(fit("run", "--seed", "1"),), check=old_or_new),
    "eval": Command(("eval", "{root}/run"), before=(fit("run"),)),
    "compare": Command(compare()),
    "compare --keep-fits": Command(compare("--keep-fits")),
    "features": Command(("features", "{data}", "--out", "{root}/f.safetensors", "--batch-size", "16")),
    "predict": Command(
        ("predict", "{root}/run", "{data}/test/sun/0.png", "--explain-picture", "{root}/why.png"), before=(fit("run"),)
    ),
    "save": Command(("classifier.save", "{root}/new"), before=(fit("run"),)),
    "tune": Command(TUNE),
    "tune, small model": Command(("small model",)),
    "generative save": Command(("attached.save", "{root}/adapter")),
    "mnist5k": Command(("mnist5k",)),
}


class World:
    """Pictures, a generative model and the calls that are no command lines, below ``folder``; all in this process."""

    def __init__(self, folder: Path) -> None:
        self.root, self.data, self.model = folder / "root", folder / "pictures", folder / "model"
        os.environ["VLMADAPT_CACHE"] = str(self.root / "cache")
        make_world(self.data)
        encoder = ColourEncoder()
        backbones.load_encoder = lambda name, **_options: encoder  # type: ignore[assignment]
        loop.CHECKPOINT_SECONDS = 0.0  # after every epoch
        Figure.savefig = _save_quickly  # type: ignore[assignment,method-assign]  # what is drawn takes longer than all the rest
        digits = np.arange(20) % 10
        builtin._read_mnist = lambda source: (np.zeros((20, 28, 28), dtype=np.uint8), digits)
        self._make_generative(folder)

    def _make_generative(self, folder: Path) -> None:
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
        self.small = lambda: scratch.small_model("vqa", TINY)
        self.attach = lambda: attach(world.model().model, "bitfit", seed=0)

    def run(self, line: Sequence[str]) -> int:
        """Exit code of the command ``line``, or of the call of the package that it stands for."""
        filled = [part.format(root=self.root, data=self.data, model=self.model) for part in line]
        try:
            if line[0] == "classifier.save":
                Classifier.load(self.root / "run", ColourEncoder()).save(filled[1])
            elif line[0] == "attached.save":
                self.attach().save(filled[1])
            elif line[0] == "small model":
                self.small()
            elif line[0] == "mnist5k":
                builtin.load_mnist5k()
            else:
                cli.app(filled, prog_name="vlmadapt")
        except VlmadaptError as error:
            cli.console.fail(str(error))
            return 2
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def _save_quickly(figure: Figure, path: Path, **_options: Any) -> None:
    Image.new("RGB", (300, 300), (len(figure.axes), 0, 0)).save(path, format="PNG", compress_level=0)
