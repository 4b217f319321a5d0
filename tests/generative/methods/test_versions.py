"""Adapters that the oldest and the newest transformers wrote, read by the one installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tests.fixtures.hosts.make import CHOSEN, HERE, adapted, logits
from vlmadapt.doors import PROVEN
from vlmadapt.files import read_tensors


def test_both_ends_of_the_range_are_here() -> None:
    assert {path.name for path in HERE.iterdir() if path.is_dir() and path.name[0].isdigit()} == set(
        PROVEN["transformers"]
    )


@pytest.mark.parametrize("version", PROVEN["transformers"])
@pytest.mark.parametrize("name", CHOSEN)
def test_an_adapter_says_what_it_said(version: str, name: str) -> None:
    folder: Path = HERE / version / name
    attached = adapted(name)
    then = read_tensors(folder / "expected.safetensors")[0]["logits"]
    assert (logits(attached) - then).abs().max() > 1e-2
    attached.load(folder)  # the frozen weights are compared too
    torch.testing.assert_close(logits(attached), then, rtol=1e-4, atol=1e-5)
