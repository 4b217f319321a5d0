"""Size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from vlmadapt.provenance.memory import PeakMemory

from .. import ours, peers
from ..case import OURS, Verdict, case
from ..judge import judged
from ..pictures import class_folders

NAME = "Size"
FIT_MIB, PICTURE_MIB = 2048, 1024
CLASSES, SHOTS, WIDTH = 1000, 16, 1024


def beyond(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and the MiB that were resident at most beyond those before it."""
    with PeakMemory() as before:
        pass
    with PeakMemory() as during:
        value = work()
    return value, during.mib - before.mib


many = case(
    NAME,
    f"a fit with {CLASSES:,} classes x {SHOTS} shots, width {WIDTH:,}",
    f"less than {FIT_MIB} MiB beyond the features",
    "fit on features",
    "adapters/test_memory.py::test_no_temporary_outgrows_the_budget",
)


@many.by(OURS)
def _many(place: Path) -> list[Verdict]:
    """The methods whose search holds a score for each sample, class and candidate, that search as it is by default."""
    from vlmadapt.adapters import create_adapter

    data = peers.problem(CLASSES, SHOTS, WIDTH)
    found = []
    for name, settings in (("tip-adapter", {}), ("xmadapter", {"epochs": 1})):
        adapter = create_adapter(name, data.text, 100.0, settings, class_names=[str(n) for n in range(CLASSES)])
        _, mib = beyond(lambda: adapter.fit(*data.train, *data.val))
        found.append(judged(mib < FIT_MIB, f"{mib:.0f} MiB", name))
    return found


@many.by("scikit-learn")
def _many_sklearn(place: Path) -> Verdict:
    from sklearn.linear_model import LogisticRegression

    features, labels = (part.numpy() for part in peers.problem(CLASSES, SHOTS, WIDTH).train)
    _, mib = beyond(lambda: LogisticRegression(max_iter=5).fit(features, labels))
    return judged(mib < FIT_MIB, f"{mib:.0f} MiB in 5 iterations")


@many.by("Tip-Adapter")
def _many_tip(place: Path) -> Verdict:
    modules = peers.tip_adapter()
    settings = peers.tip_settings(place / "caches", search_step=[2, 1])
    _, mib = beyond(lambda: peers.tip_fit(modules, settings, peers.problem(CLASSES, SHOTS, WIDTH)))
    return judged(mib < FIT_MIB, f"{mib:.0f} MiB, two cells of its search")


@many.by("CLIP_benchmark")
def _many_clip(place: Path) -> Verdict:
    """An epoch of its linear probe."""
    from clip_benchmark.metrics.linear_probe import FeatureDataset, train
    from torch.utils.data import DataLoader

    peers.without_gpu()
    data = FeatureDataset(*peers.problem(CLASSES, SHOTS, WIDTH).train)
    loader = DataLoader(data, batch_size=256, shuffle=True)
    _, mib = beyond(lambda: train(loader, WIDTH, CLASSES, 0.0, 0.1, 1, False, "cpu", 0))
    return judged(mib < FIT_MIB, f"{mib:.0f} MiB in an epoch of its linear probe")


long = case(
    NAME,
    "two pictures of 30,000 x 20 pixels among ordinary ones, read for a network of 224 pixels",
    f"less than {PICTURE_MIB} MiB beyond the network; every picture read",
    "reading of pictures",
    "pictures/test_views.py::test_a_long_picture_takes_bounded_memory",
    "pictures/test_limits.py::test_a_picture_of_30000_by_20_takes_little",
    "data/test_text.py::test_long_pictures_are_named",
)


def with_long_ones(root: Path) -> Path:
    class_folders(root, range(3), ("cat", "dog"))
    for name, size in (("cat", (30_000, 20)), ("dog", (20, 30_000))):
        Image.effect_noise(size, 40).convert("RGB").save(root / name / "long.png")
    return root


@long.by(OURS)
def _long(place: Path) -> list[Verdict]:
    from vlmadapt.data import extract_features

    root = with_long_ones(place / "pets")
    features, mib = beyond(lambda: extract_features(ours.ENCODER[0], sorted(root.rglob("*.png"))))
    read = judged(
        mib < PICTURE_MIB and len(features) == 8 and bool(features.isfinite().all()), f"{mib:.0f} MiB", "features"
    )
    said = ours.command(place, "data", "check", root)
    return [read, judged("long.png" in said.out + said.err, "the long ones are named", "data check")]


def read_at_224(dataset: Any) -> tuple[int, float]:
    """Pictures as tensors, one after the other."""
    return beyond(lambda: sum(pixels.shape == (3, 224, 224) for pixels, _ in dataset))


@long.by("ImageFolder")
def _long_torchvision(place: Path) -> Verdict:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    root = with_long_ones(place / "pets")
    usual = Compose([Resize(256), CenterCrop(224), ToTensor()])
    count, mib = read_at_224(ImageFolder(str(root), transform=usual))
    return judged(mib < PICTURE_MIB and count == 8, f"{mib:.0f} MiB with Resize(256), CenterCrop(224)")


@long.by("CLIP_benchmark")
def _long_clip(place: Path) -> Verdict:
    import open_clip
    from clip_benchmark.datasets.builder import build_dataset

    root = peers.convert(with_long_ones(place / "pets"), place / "converted")
    transform = open_clip.image_transform(224, is_train=False)
    dataset = build_dataset("wds/pets", str(root), transform=transform, split="test", task="zeroshot_classification")
    count, mib = read_at_224(dataset)
    return judged(mib < PICTURE_MIB and count == 8, f"{mib:.0f} MiB with open_clip's own reading")


@long.by("Tip-Adapter")
def _long_tip(place: Path) -> Verdict:
    root = with_long_ones(place / "oxford_pets" / "images")
    rows = [
        [str(path.relative_to(root)), int(path.parent.name == "dog"), path.parent.name]
        for path in sorted(root.rglob("*.png"))
    ]
    peers.tip_split(place, {"train": rows, "val": rows, "test": rows})
    test = peers.tip_dataset(place).test
    from clip.clip import _transform
    from datasets.utils import DatasetWrapper

    wrapped = DatasetWrapper(test, 224, transform=_transform(224))
    count, mib = read_at_224(wrapped[number] for number in range(len(rows)))
    return judged(mib < PICTURE_MIB and count == 8, f"{mib:.0f} MiB with its own reading")
