"""vlmadapt as its users start it: its command line in a fork, with an encoder that is already loaded."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .child import Said, ended, start

FAST = ("--adapter", "tip-adapter", "--shots", "2", "--set", "search_beta=[1,8,2]", "--set", "search_alpha=[1,10,2]")
QUICK = "tip-adapter:search_beta=[1,8,2]:search_alpha=[1,10,2]"
NUMBERS = itertools.count()
ENCODER: list[Any] = []


def load_encoder_once() -> None:
    """In the parent of all children: what each of them would read from disk for seconds."""
    from vlmadapt import backbones

    ENCODER.append(backbones.load_encoder("embedded", engine="torch"))
    fresh = backbones.load_encoder

    def load(name: str = "embedded", device: Any = "cpu", **options: Any) -> Any:
        return ENCODER[0] if name == "embedded" and str(device) in ("cpu", "auto") else fresh(name, device, **options)

    patched: Any = backbones
    patched.load_encoder = load


def call_main(arguments: tuple[str, ...]) -> int:
    from vlmadapt.cli import main

    sys.argv = ["vlmadapt", *arguments]
    return main() or 0  # type: ignore[func-returns-value]


def begin(
    place: Path, *arguments: object, cwd: Path | None = None, before: Callable[[], Any] | None = None
) -> tuple[int, Path]:
    """Start a command; ``before`` is called in its process first. For ``child.ended``."""
    streams = place / f".command-{next(NUMBERS)}"

    def work() -> int:
        if before is not None:
            before()
        return call_main(tuple(str(argument) for argument in arguments))

    return start(work, streams, cwd or place), streams


def command(place: Path, *arguments: object, cwd: Path | None = None, before: Callable[[], Any] | None = None) -> Said:
    """``vlmadapt ARGUMENTS``, ended."""
    return ended(*begin(place, *arguments, cwd=cwd, before=before))


def fit(place: Path, data: Path, run: str = "run", *more: object) -> Path:
    """A fitted Tip-Adapter in ``place/run``."""
    said = command(place, "fit", data, *FAST, "--out", place / run, *more)
    if said.code:
        raise AssertionError(f"the fit that the case begins with failed: {said.last}")
    return place / run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def accuracies(folder: Path) -> dict[str, float]:
    """Method to test accuracy of a results file."""
    return {cell["method"]: cell["test_accuracy"] for cell in read(folder / "results.json")["cells"]}


def tree(folder: Path) -> set[str]:
    return {os.path.relpath(path, folder) for path in folder.rglob("*")}
