"""The names of ``vlmadapt.generative``: there without torch being loaded, and what they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vlmadapt import generative
from vlmadapt.adapters import TipAdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.generative.methods.p_config import PAdapterConfig
from vlmadapt.generative.methods.peers import BitFitConfig, FrozenConfig, LoRAConfig


def test_every_name_is_there_and_torch_is_not_loaded_for_the_list() -> None:
    listed = "assert set(g.__all__) <= set(dir(g))"
    code = f"import sys; from vlmadapt import generative as g; {listed}; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
    assert all(callable(getattr(generative, name)) for name in generative.__all__ if name != "METHODS")
    assert "p-adapter" in generative.METHODS
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        generative.nothing  # noqa: B018


def test_a_configuration_says_which_method() -> None:
    pytest.importorskip("transformers")
    from tests.generative.tiny import tiny_blip

    model = tiny_blip("BlipForConditionalGeneration")
    for config, name in [
        (FrozenConfig(), "frozen"),
        (BitFitConfig(), "bitfit"),
        (PAdapterConfig(reduction=4), "p-adapter"),  # with what it leaves to the model
    ]:
        attached = generative.attach(model, config)
        assert attached.method == name and type(attached.config) is type(config)
        attached.detach()
    with pytest.raises(InputError, match="config is a LoRAConfig: bitfit takes a BitFitConfig"):
        generative.attach(model, "bitfit", LoRAConfig())
    with pytest.raises(InputError, match="config is given beside a BitFitConfig"):
        generative.attach(model, BitFitConfig(), {"tower": True})
    with pytest.raises(InputError, match="method is a TipAdapterConfig, which no generative method takes: use Froz"):
        generative.attach(model, TipAdapterConfig())
