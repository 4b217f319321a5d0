"""The tutorials and the notebook do what they say: their code is run, in the order of the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEAD = f"""set -eu
python() {{ "{sys.executable}" "$@"; }}
vlmadapt() {{ python -m vlmadapt "$@"; }}
"""
# One process for all Python of a page, which runs the shell's blocks too.
RUNNER = """
import json, subprocess, sys
shell = ["bash", "-c"]
names = {"__name__": "tutorial"}
for kind, text in json.load(open("blocks.json", encoding="utf-8")):
    if kind == "sh":
        subprocess.run([*shell, sys.argv[1] + text], check=True)
    else:
        exec(compile(text, "tutorial", "exec"), names)
"""


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "VLMADAPT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(900)  # a process a command: minutes on a busy machine
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
@pytest.mark.skipif(shutil.which("bash") is None, reason="the tutorials' commands are bash's")
def test_tutorial(page: Path, tmp_path: Path) -> None:
    if page.stem == "own_pictures":
        pytest.importorskip("timm", reason="the embedded backbone: pip install 'vlmadapt[embedded]'")
        pytest.importorskip("transformers", reason="the embedded backbone: pip install 'vlmadapt[embedded]'")
    if page.stem == "own_operator" and shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) > 3
    (tmp_path / "blocks.json").write_text(json.dumps(blocks), encoding="utf-8")
    command = [sys.executable, "-c", RUNNER, HEAD]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


def test_notebook(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="make site installs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="make site installs it")
    pytest.importorskip("ipykernel", reason="make site installs it")
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "few_shot.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment(tmp_path))
