"""``python -m tests.memory.child WORK MIB FOLDER``: one piece of work in a process that may hold ``MIB`` more.

The limit (``RLIMIT_DATA``) counts private memory that was asked for, touched or not: what is refused shows as a
MemoryError or as torch's own, so that a broken promise ends the process. Peaks alone would depend on the allocator.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

from tests.experiments.world import TIP, TIP_F, ColourEncoder, make_world
from vlmadapt import backbones
from vlmadapt.adapters import create_adapter
from vlmadapt.cli import app
from vlmadapt.pictures import identify, read
from vlmadapt.provenance.memory import PeakMemory

MIB = 2**20
CLASSES, SHOTS, WIDTH = 1000, 16, 1024
PICTURES = 100_000


@contextlib.contextmanager
def at_most(mib: float) -> Iterator[None]:
    """No more than ``mib`` MiB beyond what the process has asked for so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    held = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + int(mib * MIB), resource.RLIM_INFINITY))
    with PeakMemory() as before:
        pass
    with PeakMemory() as peak:
        yield
    print(f"{peak.mib - before.mib:.0f} MiB more were resident", file=sys.stderr)


def unit(rows: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def fit(mib: float) -> None:
    """The size of ImageNet, 16 shots, the features of ResNet-50."""
    text, labels, val_labels = unit(CLASSES, 0), torch.arange(CLASSES).repeat(SHOTS), torch.arange(CLASSES).repeat(4)
    features, val_features, queries = unit(len(labels), 1), unit(len(val_labels), 2), unit(2000, 3)
    warm_up()
    with at_most(mib):
        adapter = create_adapter("tip-adapter", text, 100.0)
        adapter.fit(features, labels, val_features, val_labels)
        adapter.predict(queries)


def warm_up() -> None:
    """What libraries keep for good: thread pools, scratch space of products."""
    small = torch.randn(64, 64, requires_grad=True)
    (small @ small).softmax(-1).sum().backward()


def run(*arguments: str) -> None:
    """A command, as on the command line."""
    code = app(list(arguments), standalone_mode=False)
    assert not code, f"{arguments[0]} ended with {code}"


def fitted(folder: Path) -> tuple[Path, Path]:
    """(data, classifier)."""
    world = make_world(folder / "world")
    run("fit", str(world), "--adapter", "tip-adapter", "--shots", "2", "--out", str(folder / "run"))
    return world, folder / "run"


def compare(mib: float, folder: Path) -> None:
    """Many fits take as much as one: all seeds and shots after the first."""
    world = make_world(folder / "world", train=20)
    command = ("compare", str(world), "--adapters", f"zero-shot,{TIP},{TIP_F},taskres:epochs=2,linear-probe")
    run(*command, "--shots", "1", "--seeds", "1", "--out", str(folder / "first"))
    with at_most(mib):
        run(*command, "--shots", "1,2,4,8,16", "--seeds", "3", "--out", str(folder / "second"))


def predict(mib: float, folder: Path) -> None:
    """A folder of a hundred thousand pictures, to JSON."""
    world, classifier = fitted(folder)
    many = folder / "many"
    many.mkdir()
    pictures = [path.read_bytes() for path in sorted((world / "test").rglob("*.png"))]
    for number in range(PICTURES):
        if number % 20_000 < len(pictures):  # a file has so many names at most
            (many / f"{number:06}.png").write_bytes(pictures[number % 20_000])
        else:
            (many / f"{number:06}.png").hardlink_to(many / f"{number - len(pictures):06}.png")
    run("predict", str(classifier), str(many / "000000.png"))
    with open(folder / "result.json", "w") as result, contextlib.redirect_stdout(result), at_most(mib):
        run("predict", str(classifier), str(many), "--json")


def extraction(mib: float, folder: Path) -> None:
    """Of one absurd picture: nothing of a strip is as large as the square around it."""
    encoder = backbones.load_encoder("embedded")
    long = folder / "long.png"
    rows = zlib.compress((b"\0" + bytes(range(90)) * 1000) * 20)
    long.write_bytes(_png(30_000, 20, rows))
    warm = read(long).resize((64, 64))
    encoder.encode_images(encoder.transform(warm)[None])
    with at_most(mib):
        assert identify(long)
        encoder.encode_images(encoder.transform(read(long))[None])


def _png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def main() -> None:
    work, mib, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    if work == "fit":
        fit(mib)
    elif work == "extraction":
        extraction(mib, folder)
    else:
        parts: dict[str, Callable[[float, Path], None]] = {"compare": compare, "predict": predict}
        with mock.patch.object(backbones, "load_encoder", lambda name, **_: ColourEncoder()):
            parts[work](mib, folder)


if __name__ == "__main__":
    main()
