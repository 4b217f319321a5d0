"""Loads the compiled operators and says what was built."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from vlmadapt.errors import InputError, MissingDependency
from vlmadapt.ops.switch import reference_in_use

PACKAGE = Path(__file__).resolve().parent.parent
REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."

_loaded: dict[str, Path] = {}
_failure: str | None = None


def _find(name: str) -> Path | None:
    return next(iter(sorted(PACKAGE.glob(f"{name}*.so"))), None)


def _load(name: str) -> None:
    global _failure
    path = _find(name)
    if path is None:
        _failure = f"the compiled library {name} is not installed"
        return
    try:
        torch.ops.load_library(path)
        _loaded[name] = path
    except (OSError, RuntimeError) as error:
        _failure = f"the compiled library {path.name} could not be loaded: {str(error).splitlines()[0]}"


def provides(operators: dict[str, int]) -> bool:
    """Whether the library is there and has these operators with these numbers of arguments.

    One that was built from older sources counts as not there: its operators would be called in another form.
    """
    global _failure
    for name, arguments in operators.items():
        if "_cpu" in _loaded and arguments != _arguments_of(name):
            _failure = (
                f"the compiled library {_loaded['_cpu'].name} was built from other sources, for it has no operator "
                f"{name} of {arguments} arguments"
            )
            _loaded.clear()
    return "_cpu" in _loaded


def _arguments_of(operator: str) -> int | None:
    try:
        return len(getattr(torch.ops.vlmadapt, operator).default._schema.arguments)
    except AttributeError:
        return None


def require(device: torch.device) -> None:
    """Raise :class:`MissingDependency` unless there are kernels for ``device``, or none are to be used."""
    if reference_in_use():
        return
    if "_cpu" not in _loaded:
        raise MissingDependency(f"{_failure}: rebuild the package from its source folder with `{REBUILD}`.")
    if device.type == "cuda" and "_cuda" not in _loaded:
        raise MissingDependency(
            "the package was built without CUDA kernels but the tensors are on a GPU: move them to the CPU, or "
            f"rebuild where nvcc is installed with `FORCE_CUDA=1 {REBUILD}`."
        )
    if device.type not in ("cpu", "cuda"):
        raise MissingDependency(f"there are no kernels for {device.type} tensors: move them to the CPU or a CUDA GPU.")


def register_fake(operator: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers what an operator does without data: shapes of results, from tensors of one device.

    The dispatcher prefers it to a kernel as soon as one tensor is on "meta"; with the others elsewhere it would return
    memory that nothing was written to.
    """

    def register(shapes: Callable[..., Any]) -> Callable[..., Any]:
        @torch.library.register_fake(f"vlmadapt::{operator}")  # type: ignore[untyped-decorator]
        @wraps(shapes)
        def on_one_device(*args: Any, **kwargs: Any) -> Any:
            lists = [arg if isinstance(arg, list | tuple) else [arg] for arg in (*args, *kwargs.values())]
            devices = sorted({str(item.device) for items in lists for item in items if isinstance(item, torch.Tensor)})
            if len(devices) > 1:
                raise InputError(f"{operator} got tensors on {' and '.join(devices)}: move all to the same device.")
            return shapes(*args, **kwargs)

        return shapes

    return register


def build_info() -> dict[str, Any]:
    """What was compiled and what runs: library files, instruction-set level, CUDA architectures, errors."""
    info: dict[str, Any] = {
        "cpu_library": _loaded["_cpu"].name if "_cpu" in _loaded else None,
        "cuda_library": found.name if (found := _find("_cuda")) else None,
        "cuda_library_loaded": "_cuda" in _loaded,
        "cuda_archs": [],
        "isa": None,
        "isa_available": [],
        "isa_built": [],
        "isa_missing": [],
        "stable_abi_target": None,
        "error": _failure,
    }
    if (cpu := _find("_cpu")) is not None and (target := _marker(cpu, "stable-abi")):
        version = int(target.rstrip("UL"), 16)  # TORCH_TARGET_VERSION: a byte each for major and minor, from the top
        info["stable_abi_target"] = f"{version >> 56}.{version >> 48 & 0xFF}"
    if cpu is not None and (built := _marker(cpu, "isa-levels")):
        info["isa_built"] = built.split(";")
        info["isa_missing"] = missing.split(";") if (missing := _marker(cpu, "isa-missing")) else []
    if "_cpu" in _loaded:
        info["isa"] = torch.ops.vlmadapt.active_isa()
        info["isa_available"] = info["isa_built"][: info["isa_built"].index(torch.ops.vlmadapt.best_isa()) + 1]
    if found is not None and (archs := _marker(found, "cuda-archs")):
        info["cuda_archs"] = re.split("[; ]+", archs)
    return info


def _marker(path: Path, name: str) -> str | None:
    """A text of ``csrc/common/marker.h``: readable even where the library does not load."""
    found = re.search(rb"vlmadapt-%s:([^\0]*)" % name.encode("ascii"), path.read_bytes())
    return found[1].decode("ascii") if found else None


_load("_cpu")
if torch.cuda.is_available() and _find("_cuda") is not None:
    _load("_cuda")
