"""What git ignores is never a part of the package: a clone has every folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import vlmadapt

PACKAGE = Path(vlmadapt.__file__).parent
MADE = {".so", ".pyc"}  # by the compiler and by Python
# Names of folders at the top of the repository that a package folder may well have.
LIKELY = [f"{name}/module.py" for name in ("runs", "build", "dist", "experiments/runs", "data/cache", "ops/build")]


@pytest.fixture(scope="module")
def repository() -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    if not (PACKAGE.parent / ".git").exists():
        pytest.skip(f"{PACKAGE.parent} is not a git checkout")
    return PACKAGE.parent


def ignored(repository: Path, paths: list[str]) -> list[str]:
    # --no-index: also paths that are already tracked. The user's own list of ignored names is not ours to test.
    command = ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, input="\n".join(paths), cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def test_no_part_of_the_package_is_ignored(repository: Path) -> None:
    parts = [path for path in PACKAGE.rglob("*") if path.suffix not in MADE and "__pycache__" not in path.parts]
    names = [path.relative_to(repository).as_posix() + "/" * path.is_dir() for path in parts]
    assert len(names) > 1000  # pictures included
    assert ignored(repository, names) == []


def test_a_package_folder_named_like_an_output_folder_is_not_ignored(repository: Path) -> None:
    assert ignored(repository, [f"vlmadapt/{name}" for name in LIKELY]) == []


def test_output_folders_are_ignored(repository: Path) -> None:
    made = [
        "runs/demo/results.json",
        "build/benchmarks.json",
        "dist/a.whl",
        ".venv/bin/python",
        "vlmadapt/_cpu.abi3.so",
    ]
    assert ignored(repository, made) == made
