"""The preloaded library does what it is asked to: without that, every trial would be passed."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.injector import KINDS, build, compiler, environment

ROOT = Path(__file__).parents[2]
BROKEN = """
import json, os, sys
from pathlib import Path
from tests.torture.injector import Injector
root, injector, found = Path(sys.argv[1]), Injector(), {}
(root / "there").write_bytes(bytes(10))
handle = os.open(root / "there", os.O_RDWR)
changes = {
    "write": lambda: os.write(handle, b"12"),
    "rename": lambda: os.replace(root / "there", root / "new"),
    "fsync": lambda: os.fsync(handle),
    "open": lambda: open(root / "other", "w"),
    "mkdir": lambda: os.mkdir(root / "folder"),
    "unlink": lambda: os.unlink(root / "there"),
    "truncate": lambda: os.ftruncate(handle, 3),
}
for kind, change in changes.items():
    injector.arm(root, "broken", 0)
    try:
        change()
    except OSError as error:
        found[kind] = error.errno, injector.disarm()[0].kind
print(json.dumps(found))
"""
CUT = """
import sys
from pathlib import Path
from tests.torture.injector import Injector
path = Path(sys.argv[1]) / "cut"
path.touch()
Injector().arm(path.parent, sys.argv[2], 1)
path.write_bytes(b"1234")
"""

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs Linux and a C compiler")


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(build(tmp_path_factory.mktemp("library")))


def run(script: str, preloaded: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=preloaded, capture_output=True, text=True, check=False)


def test_an_error_is_given_to_each_kind_of_call_and_changes_nothing(preloaded: dict[str, str], tmp_path: Path) -> None:
    done = run(BROKEN, preloaded, tmp_path)
    assert json.loads(done.stdout or "{}") == {kind: [errno.EIO, kind] for kind in KINDS}, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_bytes() == bytes(10)


@pytest.mark.parametrize(
    ("action", "code", "left"), [("kill", -signal.SIGKILL, b"12"), ("term", -signal.SIGTERM, b""), ("full", 1, b"12")]
)
def test_a_write_is_cut_off(action: str, code: int, left: bytes, preloaded: dict[str, str], tmp_path: Path) -> None:
    done = run(CUT, preloaded, tmp_path, action)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "cut").read_bytes() == left
    assert (f"[Errno {errno.ENOSPC}]" in done.stderr) == (action == "full")
