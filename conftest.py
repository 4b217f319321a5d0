"""``--device``: where the tensors of the operator tests and of the benchmarks live."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cpu or cuda: for tests/ops and benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    """Before collection, so that tensors made by parametrisation are there as well."""
    device = torch.device(config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(f"--device {device} was given but torch finds no CUDA device: leave it out.")
    if device.type != "cpu":
        torch.set_default_device(device)
