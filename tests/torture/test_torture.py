"""Each command at one point of every kind: killed, ended, with a full or a broken disk. `make torture` takes all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("easy_vqa")
pytest.importorskip("mlxtend")

from tests.torture.injector import compiler

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(compiler() is None, reason="needs Linux and a C compiler")
@pytest.mark.timeout(1200)
def test_whatever_happens_to_a_command_it_goes_on_to_the_same_end() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.torture", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = re.search(r"^(\d+) trials, 0 failed$", done.stdout, re.MULTILINE)
    assert trials is not None and int(trials[1]) >= 100, done.stdout
