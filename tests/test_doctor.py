from __future__ import annotations

import importlib.util

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


def test_an_absent_package_comes_with_its_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else find(name, *rest))
    text = text_of(doctor._backbones())
    assert "missing embedded: timm not installed pip install 'vlmadapt[embedded]'" in text


def test_one_broken_part_does_not_hide_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "_threads", broken)
    findings = examine()
    assert "could not be examined (no such thing)" in text_of(findings) and "clipart: ready" in text_of(findings)
    assert not healthy(findings)


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("missing", 0), ("broken", 1)])
def test_only_what_is_broken_fails_the_command(monkeypatch, state, code):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("operators", "something", state, "do this")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "something" in result.stdout and "do this" in result.stdout
