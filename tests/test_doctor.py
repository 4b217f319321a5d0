from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlmadapt import __version__, doctor
from vlmadapt.cli import app
from vlmadapt.doctor import Finding, examine, healthy, operator_findings

BUILT = {
    "cpu_library": "_cpu.abi3.so",
    "isa": "avx2",
    "isa_available": ["baseline", "avx2"],
    "cuda_archs": [],
    "cuda_library_loaded": False,
    "stable_abi_target": "2.13",
    "error": None,
}


def text_of(findings) -> str:
    return "\n".join(f"{finding.state} {finding.text} {finding.fix}" for finding in findings)


def test_a_built_library_is_described():
    findings = list(operator_findings(BUILT))
    assert healthy(findings)
    assert "avx2 (this processor runs baseline, avx2)" in text_of(findings) and "torch 2.13" in text_of(findings)
    assert "FORCE_CUDA=1" in text_of(findings)


def test_a_level_that_the_compiler_lacked_is_named():
    assert "missing no kernels for avx512" in text_of(operator_findings({**BUILT, "isa_missing": ["avx512"]}))
    assert "kernels for" not in text_of(operator_findings({**BUILT, "isa_missing": []}))


def test_a_missing_cpu_library_is_unhealthy_and_has_a_command():
    findings = list(operator_findings({"cpu_library": None, "error": "wrong architecture"}))
    assert not healthy(findings)
    assert "wrong architecture" in text_of(findings) and "pip install --no-build-isolation" in text_of(findings)


def test_a_loaded_cuda_library_names_its_architectures():
    text = text_of(operator_findings({**BUILT, "cuda_archs": ["sm_80", "sm_90"], "cuda_library_loaded": True}))
    assert "compiled for sm_80, sm_90" in text and "FORCE_CUDA" not in text


def test_the_whole_report_covers_every_topic():
    findings = examine()
    assert [topic for topic in dict.fromkeys(finding.topic for finding in findings)] == [
        "versions",
        "operators",
        "threads",
        "backbones",
        "data",
    ]
    assert f"vlmadapt {__version__}" in text_of(findings)
    assert "clipart: ready" in text_of(findings)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of packages that other interpreters find before the installed ones."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name, source):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source, encoding="utf-8")

    return write


def test_an_absent_package_comes_with_its_command(packages, monkeypatch):
    packages("present", "print('noise'); here = 1")
    monkeypatch.setattr(
        doctor, "PARTS", {"embedded": ("present:here", "never_heard_of.part:name"), "other": ("present",)}
    )
    text = text_of(doctor._backbones())
    assert "missing embedded: never_heard_of not installed pip install 'vlmadapt[embedded]'" in text
    assert "ok other: ready" in text


def test_a_package_that_is_there_and_fails_is_named_with_its_error(packages, monkeypatch):
    packages("transformers", "raise RuntimeError('torn\\nfile')")
    packages("open_clip", "import never_heard_of")
    packages("timm", "")
    parts = {"embedded": ("transformers:BertModel", "timm:create_model"), "open-clip": ("open_clip",)}
    monkeypatch.setattr(doctor, "PARTS", parts)
    findings = list(doctor._backbones())
    text = text_of(findings)
    assert "broken embedded: importing transformers fails (RuntimeError: torn file) pip install" in text
    assert "broken embedded: importing timm fails (AttributeError: module 'timm' has no attribute" in text
    assert "open_clip fails (ModuleNotFoundError: No module named 'never_heard_of')" in text
    assert "--no-deps open_clip_torch" in text and "ready" not in text and not healthy(findings)


def test_a_package_that_ends_the_interpreter_does_not_end_the_report(packages):
    packages("aborts", "import os; os.abort()")
    packages("leaves", "import os; os._exit(7)")
    packages("exits", "raise SystemExit(0)")
    packages("fine", "")
    problems = doctor.import_problems(["fine", "aborts", "leaves", "exits", "fine:absent_name", "fine:__name__"])
    assert "signal 6" in problems["aborts"] and "exit code 7" in problems["leaves"]
    assert "SystemExit" in problems["exits"] and "AttributeError" in problems["fine:absent_name"]
    assert problems["fine"] == problems["fine:__name__"] == ""


def test_every_package_that_the_backbones_import_late_is_tried():
    tried = {part.partition(":")[0].partition(".")[0] for parts in doctor.PARTS.values() for part in parts}
    source = Path(doctor.__file__).parent
    rooms = ("backbones", "generative/models")
    files = [path for room in rooms for path in source.glob(f"{room}/*.py")]
    files.append(source / "generative" / "tasks" / "caption_metrics.py")
    late = re.compile(r"^ +(?:import|from) (\w+)", re.MULTILINE)
    imported = {name for file in files for name in late.findall(file.read_text(encoding="utf-8"))}
    assert imported - set(sys.stdlib_module_names) - {"vlmadapt"} == tried - {"torchvision"}  # timm and BLIP import it


def test_versions_outside_the_ranges_are_named():
    requirements = [
        "torch>=2",
        "numpy<1",
        "never-heard-of>=3",
        'safetensors<0.1; extra == "generative"',
        'pillow<1; extra == "dev"',
    ]
    findings = list(doctor.range_findings(requirements))
    assert len(findings) == 2 and healthy(findings) and all(finding.state == "missing" for finding in findings)
    assert re.search(r"numpy [\d.]+ was not tried: vlmadapt is for numpy<1 pip install 'numpy<1'", text_of(findings))
    assert "vlmadapt[generative] is for safetensors<0.1" in text_of(findings)


def test_versions_inside_the_ranges_are_one_line():
    (finding,) = doctor.range_findings(["torch>=2", 'numpy>=1; extra == "embedded"'])
    assert finding.state == "ok"


def test_one_broken_part_does_not_hide_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "_threads", broken)
    monkeypatch.setattr(doctor, "PARTS", {})
    findings = examine()
    assert "could not be examined (no such thing)" in text_of(findings) and "clipart: ready" in text_of(findings)
    assert not healthy(findings)


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("missing", 0), ("broken", 1)])
def test_only_what_is_broken_fails_the_command(monkeypatch, state, code):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("operators", "something", state, "do this")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "something" in result.stdout and "do this" in result.stdout
