from __future__ import annotations

import pytest

from tests.experiments.world import ColourEncoder, make_world
from vlmadapt import backbones


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path_factory):
    """Every backbone is the colour encoder; the cache is the test's own, and so is the working folder."""
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(backbones, "load_encoder", lambda *_, **__: ColourEncoder())
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("data") / "world")
