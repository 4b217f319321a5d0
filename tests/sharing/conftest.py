from __future__ import annotations

import pytest

from tests.experiments.world import ColourEncoder, make_world
from tests.test_cli import fit_once
from vlmadapt import backbones


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A saved tip-adapter-f of the colour encoder."""
    return fit_once(make_world(tmp_path_factory.mktemp("data") / "world"), tmp_path_factory)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path_factory):
    """Every backbone is the colour encoder."""
    monkeypatch.setattr(backbones, "load_encoder", lambda name, **_options: ColourEncoder())
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
