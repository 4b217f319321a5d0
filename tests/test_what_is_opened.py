"""By the code itself: what opens a file, a picture or a pickle, or starts a program, stands in few known places."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmadapt

PACKAGE = Path(vlmadapt.__file__).parent
# Calls by the end of their name, and the files that may have them.
ALLOWED = {
    "Image.open": ("pictures/read.py",),
    "read_bytes": ("ops/library.py",),  # our compiled library
    "read_text": ("provenance/memory.py",),  # what Linux says of this process
    # files.py alone reads: the others write a temporary file or a lock of their own.
    "open": ("files.py", "weights.py", "atomic.py", "provenance/place.py"),
    "os.open": ("files.py", "atomic.py", "provenance/place.py", "cli/console.py"),
    "gzip.open": ("data/builtin.py",),  # a table of an installed package
    "numpy.loadtxt": ("data/builtin.py",),
    "safetensors.safe_open": ("files.py",),
    "numpy.load": ("files.py",),  # files of features, without pickles
    "torch.load": ("backbones/towers.py",),  # of an installed package, its sha256 known
    "subprocess.run": ("doctor.py",),  # this interpreter
}
NEVER = {
    *("eval", "exec", "compile", "__import__"),
    *(f"os.{name}" for name in ("system", "popen", "execv", "execvp", "spawnv", "startfile")),
    *(f"subprocess.{name}" for name in ("Popen", "call", "check_call", "check_output", "getoutput")),
    *(f"{module}.{name}" for module in ("pickle", "marshal", "dill", "joblib") for name in ("load", "loads")),
    *("pickle.Unpickler", "shelve.open", "yaml.load", "runpy.run_path", "torch.jit.load", "torch.hub.load"),
    *("numpy.fromfile", "numpy.memmap", "numpy.genfromtxt"),
    *("safetensors.torch.load_file", "safetensors.numpy.load_file"),
    *("zipfile.ZipFile", "tarfile.open", "shutil.unpack_archive", "imageio.imread", "cv2.imread", "pyplot.imread"),
}
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its full name, as far as imports tell: ``np.load`` is ``numpy.load``, also as ``load``."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield known.get(first, first) + dot + rest, node


def is_call_of(name: str, wanted: str) -> bool:
    if wanted in ("read_bytes", "read_text"):  # methods of any path
        return name.endswith(f".{wanted}") and not name.startswith("vlmadapt.")
    if wanted == "Image.open":
        return name in ("PIL.Image.open", "Image.open")
    return name == wanted


def forbidden(file: str, source: str) -> list[str]:
    found = []
    for name, node in calls(source):
        if name in NEVER or any(is_call_of(name, one) and file not in places for one, places in ALLOWED.items()):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if is_call_of(name, "Image.open") and given.get("formats") != "formats()":
            found.append(f"line {node.lineno}: a picture opened in any format")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load of more than weights")
        if (name == "numpy.load" or "allow_pickle" in given) and given.get("allow_pickle") != "False":
            found.append(f"line {node.lineno}: pickles allowed")
        if given.get("trust_remote_code", "False") != "False" or given.get("shell", "False") != "False":
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_files_are_opened_by_known_doors_only(file):
    assert forbidden(file, FILES[file].read_text(encoding="utf-8")) == []


def test_every_allowance_is_used():
    """One that no code needs any more would hide the next mistake."""
    used = {
        (one, file)
        for file, path in FILES.items()
        for name, _ in calls(path.read_text(encoding="utf-8"))
        for one in ALLOWED
        if is_call_of(name, one)
    }
    assert used == {(one, file) for one, places in ALLOWED.items() for file in places}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(stream)",
        "from pickle import loads as innocent\ninnocent(data)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import torch\ntorch.load(path, weights_only=True)",
        "from PIL import Image\nImage.open(path)",
        "from PIL.Image import open\nopen(path)",
        "import PIL.Image\nPIL.Image.open(path, formats=formats())",
        "Path(path).read_bytes()",
        "path.read_text(encoding='utf-8')",
        "open(path, 'rb')",
        "import subprocess as s\ns.run(['gs'])",
        "import os\nos.system('gs')",
        "Model.from_pretrained(folder, trust_remote_code=True)",
        "eval(text)",
        "import zipfile\nzipfile.ZipFile(path).extractall()",
        "import safetensors\nsafetensors.safe_open(path, 'pt')",
    ],
)
def test_the_look_at_the_code_finds_what_it_looks_for(source):
    assert forbidden("adapters/base.py", source)


def test_places_that_may_are_still_held_to_how():
    assert forbidden("pictures/read.py", "from PIL import Image\nImage.open(stream)")
    assert forbidden("backbones/towers.py", "import torch\ntorch.load(path)")
    assert forbidden("files.py", "import numpy as np\nnp.load(stream)")
    assert forbidden("files.py", "import numpy as np\nnp.load(stream, allow_pickle=True)")
    assert not forbidden("files.py", "import numpy as np\nnp.load(stream, allow_pickle=False)")
