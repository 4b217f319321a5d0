"""Every bound of docs/memory.md that a minute suffices for, in a process that has no more."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "memory.md"
# MiB beyond what the process had asked for before, as the page says.
BOUNDS = {"fit": 1024, "compare": 256, "predict": 256, "extraction": 256}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts what was asked for")
@pytest.mark.parametrize("work", BOUNDS)
def test_it_takes_no_more_than_the_page_says(work, tmp_path, monkeypatch):
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    command = [sys.executable, "-m", "tests.memory.child", work, str(BOUNDS[work]), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "MiB more were resident" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts what was asked for")
@pytest.mark.parametrize("work", ["fit", "extraction"])
def test_the_limit_bites(work, tmp_path, monkeypatch):
    monkeypatch.setenv("VLMADAPT_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "tests.memory.child", work, "4", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode != 0
    assert re.search(r"MemoryError|not enough memory|DefaultCPUAllocator|bad_alloc", done.stderr), done.stderr[-2000:]


@pytest.mark.parametrize("work", BOUNDS)
def test_the_page_says_these_bounds(work):
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|") and f"`{work}`" in line
    ]
    assert len(rows) == 1 and f" {BOUNDS[work]:,} MiB " in rows[0]
