from __future__ import annotations

import pytest

from tests.experiments.world import ColourEncoder, make_world
from tests.test_cli import fit_tip_f
from vlmadapt import backbones


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A saved tip-adapter-f of the colour encoder."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_encoder", lambda name, **_options: ColourEncoder())
        patch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        fit_tip_f(make_world(folder / "world"), folder / "run")
    return folder / "run"


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path_factory):
    """Every backbone is the colour encoder."""
    monkeypatch.setattr(backbones, "load_encoder", lambda name, **_options: ColourEncoder())
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
