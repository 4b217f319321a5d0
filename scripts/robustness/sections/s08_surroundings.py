"""Where it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from tests.modes import MODES

from .. import ours, peers
from ..case import CRASH, OURS, SILENT, Verdict, case
from ..child import as_any_user
from ..judge import judged, of_call, of_command
from ..pictures import class_folders

NAME = "Where it runs"

without_gradients = case(
    NAME,
    "a classifier with weights fitted inside the caller's `torch.no_grad()` or `torch.inference_mode()`",
    "fitted as outside of it",
    "fits of its own with torch",
    "adapters/test_modes.py::test_fit_and_predict_as_ever",
)
defaults = case(
    NAME,
    "a program that has set torch's default type to float64, then fits or evaluates",
    "the result is that of a program which has not",
    "fits or evaluation",
    "adapters/test_modes.py::test_fit_and_predict_as_ever",
    "backbones/test_modes.py::test_an_encoder_loads_and_encodes_as_ever",
    "generative/test_tuning.py::test_tuning_is_the_same_whatever_the_caller_has_set",
)

elsewhere = case(
    NAME,
    "a program that has set torch's default device to another than the CPU (here `meta`), then "
    "fits on features that lie on the CPU",
    "the result is that of a program which has not",
    "run here: `meta`, which copies nothing, stands in for a device that this machine lacks, "
    "and would be unfair to others",
    "adapters/test_modes.py::test_fit_and_predict_as_ever",
    "backbones/test_modes.py::test_an_encoder_loads_and_encodes_as_ever",
)


def in_modes(
    names: tuple[str, ...], work: Callable[[], Any], same: Callable[[Any, Any], bool], of: str = ""
) -> list[Verdict]:
    """``work`` in each mode, against ``work`` without."""
    plain, found = work(), []
    for name in names:

        def inside(name: str = name) -> Any:
            mode: AbstractContextManager[Any] = MODES[name]()
            with mode:
                return work()

        check = lambda value: (same(value, plain), "as outside" if same(value, plain) else "other than outside")
        found.append(of_call(inside, (), check, f"{of} {name}".strip()))
    return found


GRADIENTS, DEFAULTS = ("no_grad", "inference_mode"), ("float64",)


def ours_in(names: tuple[str, ...]) -> list[Verdict]:
    """Every adapter, on the problem of the package's tests."""
    from tests.adapters import test_battery as battery
    from tests.adapters.problem import make_problem
    from vlmadapt.adapters import create_adapter

    problem, found = make_problem(dtype=torch.float32), []
    for adapter in battery.NAMES:
        given = battery.arguments(adapter, problem)

        def fit(adapter: str = adapter, given: dict[str, Any] = given) -> torch.Tensor:
            return create_adapter(adapter, **given).fit(*problem.fit_arguments).predict_proba(problem.queries)

        found += in_modes(names, fit, torch.equal, adapter)
    return found


@without_gradients.by(OURS)
def _without_gradients(place: Path) -> list[Verdict]:
    return ours_in(GRADIENTS)


@defaults.by(OURS)
def _defaults(place: Path) -> list[Verdict]:
    return ours_in(DEFAULTS)


@elsewhere.by(OURS)
def _elsewhere(place: Path) -> list[Verdict]:
    return ours_in(("meta",))


def tip_in(names: tuple[str, ...], place: Path) -> list[Verdict]:
    modules, data = peers.tip_adapter(), peers.problem()
    fit = lambda: peers.tip_fit(modules, peers.tip_settings(place / "caches"), data, tuned=True)
    return in_modes(names, fit, lambda found, plain: torch.allclose(found.float(), plain.float(), atol=1e-5))


@without_gradients.by("Tip-Adapter")
def _without_gradients_tip(place: Path) -> list[Verdict]:
    return tip_in(GRADIENTS, place)


@defaults.by("Tip-Adapter")
def _defaults_tip(place: Path) -> list[Verdict]:
    return tip_in(DEFAULTS, place)


def probe() -> Any:
    """The linear probe of CLIP_benchmark, on features."""
    from clip_benchmark.metrics.linear_probe import FeatureDataset, train
    from torch.utils.data import DataLoader

    peers.without_gpu()
    features, labels = peers.problem().train
    loader = DataLoader(FeatureDataset(features, labels), batch_size=4, shuffle=False)
    model = train(loader, features.shape[1], 3, 0.0, 0.1, 3, False, "cpu", 0)
    return next(model.parameters()).detach()


@without_gradients.by("CLIP_benchmark")
def _without_gradients_clip(place: Path) -> list[Verdict]:
    return in_modes(GRADIENTS, probe, torch.allclose)


@defaults.by("CLIP_benchmark")
def _defaults_clip(place: Path) -> list[Verdict]:
    root = peers.convert(class_folders(place / "pets"), place / "converted")

    def evaluate() -> float:
        peers.clip_benchmark(root, place / "m", "--output", place / "r.json")
        return ours.read(place / "r.json")["metrics"]["acc1"]

    same = lambda found, plain: found == plain
    return in_modes(DEFAULTS, evaluate, same)


@defaults.by("scikit-learn")
def _defaults_sklearn(place: Path) -> list[Verdict]:
    from sklearn.linear_model import LogisticRegression

    features, labels = peers.problem().train
    return in_modes(
        DEFAULTS,
        lambda: LogisticRegression().fit(features.numpy(), labels.numpy()).coef_,
        lambda found, plain: (found == plain).all(),
    )


@defaults.by("peft")
def _defaults_peft(place: Path) -> list[Verdict]:
    """LoRA attached to a model that was made before."""
    from tests.generative.tiny import pictures, texts, tiny_blip

    models = iter([tiny_blip("BlipForConditionalGeneration") for _ in range(3)])
    images, (tokens, mask) = pictures(), texts()

    def attach() -> torch.Tensor:
        model = peers.lora(next(models))
        return model(pixel_values=images, input_ids=tokens, attention_mask=mask).logits.detach()

    return in_modes(DEFAULTS, attach, torch.equal)


program = case(
    NAME,
    "a PostScript file called picture.jpg among the pictures, where a program `gs` is on the PATH",
    "the program is not started; the picture is refused by name, or read without it",
    "reading of pictures",
    "pictures/test_read.py::test_only_named_formats_are_opened",
    "test_what_is_opened.py::test_files_are_opened_by_known_doors_only",
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def with_program(place: Path) -> Path:
    """Data with such a picture; the program leaves a file behind where it is started."""
    (place / "bin").mkdir()
    stub = place / "bin" / "gs"
    stub.write_text(f"#!/bin/sh\ntouch '{place}/started'\nexit 1\n")
    stub.chmod(0o755)
    os.environ["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
    root = class_folders(place / "pets" / "images", range(6), ("cat", "dog"))
    (root / "cat" / "picture.jpg").write_bytes(EPS)
    return root


def unless_started(place: Path, verdict: Verdict) -> Verdict:
    return Verdict(SILENT, "the program was started", last=verdict.last) if (place / "started").exists() else verdict


@program.by(OURS)
def _program(place: Path) -> Verdict:
    root = with_program(place)
    said = ours.command(place, "features", root, "--out", "features.safetensors")
    return unless_started(place, of_command(said, ("picture.jpg",), lambda: (True, "read")))


@program.by("ImageFolder")
def _program_torchvision(place: Path) -> Verdict:
    root = with_program(place)
    return unless_started(
        place, of_call(lambda: peers.read_all(root), ("picture.jpg",), lambda seen: (seen[1] == 13, str(seen)))
    )


@program.by("CLIP_benchmark")
def _program_clip(place: Path) -> Verdict:
    root = with_program(place)
    return unless_started(
        place, of_call(lambda: peers.convert(root, place / "w"), ("picture.jpg",), lambda _: (True, "converted"))
    )


@program.by("Tip-Adapter")
def _program_tip(place: Path) -> Verdict:
    root = with_program(place)
    peers.tip_adapter()
    from datasets.utils import read_image

    return unless_started(
        place,
        of_call(lambda: read_image(str(root / "cat" / "picture.jpg")), ("picture.jpg",), lambda _: (True, "read")),
    )


unwritable = case(
    NAME,
    "results into a folder that may not be written, or below a file",
    "refused by name before any picture is encoded",
    "commands that end in files",
    "cli/test_folders.py::test_what_cannot_be_written_is_refused_before_the_work",
    "provenance/test_place.py::test_what_cannot_be_written_is_refused_before_the_work",
)


def obstacles(place: Path) -> dict[str, Path]:
    as_any_user()
    (place / "locked").mkdir()
    (place / "locked").chmod(0o555)
    (place / "file").write_text("mine")
    return {"read-only": place / "locked" / "out", "below a file": place / "file" / "out"}


def before_the_work(verdict: Verdict, encoded: int) -> Verdict:
    return (
        Verdict(CRASH, f"said after {encoded} pictures were encoded", last=verdict.last, of=verdict.of)
        if encoded
        else verdict
    )


@unwritable.by(OURS)
def _unwritable(place: Path) -> list[Verdict]:
    data, found = class_folders(place / "pets"), []
    run = ours.fit(place, data)
    commands: dict[str, tuple[Any, ...]] = {
        "fit": ("fit", data, *ours.FAST),
        "compare": ("compare", data, "--adapters", "zero-shot", "--shots", "1", "--seeds", "1"),
        "eval": ("eval", run, class_folders(place / "more", range(40, 44))),
        "features": ("features", data),
    }
    for what, out in obstacles(place).items():
        for name, arguments in commands.items():
            cache = place / f"cache-{what}-{name}"
            environment = lambda cache=cache: os.environ.update(VLMADAPT_CACHE=str(cache))
            target = out.with_suffix(".safetensors") if name == "features" else out
            said = ours.command(place, *arguments, "--out", target, before=environment)
            encoded = len(list(cache.rglob("*.safetensors")))
            verdict = of_command(said, (str(target),), lambda: (False, "ended well"), f"{name}, {what}")
            found.append(before_the_work(verdict, encoded))
    return found


@unwritable.by("CLIP_benchmark")
def _unwritable_clip(place: Path) -> list[Verdict]:
    import open_clip

    root, found, encoded = peers.convert(class_folders(place / "pets"), place / "converted"), [], list[torch.Tensor]()
    theirs = open_clip.model.CLIP.encode_image

    def counting(self: Any, images: torch.Tensor, *more: Any, **others: Any) -> Any:
        encoded.extend(images)
        return theirs(self, images, *more, **others)

    setattr(open_clip.model.CLIP, "encode_image", counting)  # noqa: B010
    for what, out in obstacles(place).items():
        encoded.clear()
        verdict = of_call(
            lambda: peers.clip_benchmark(root, place / "m", "--output", out),
            (str(out),),
            lambda _: (False, "ended well"),
            what,
        )
        found.append(before_the_work(verdict, len(encoded)))
    return found


@unwritable.by("Tip-Adapter")
def _unwritable_tip(place: Path) -> list[Verdict]:
    modules, found = peers.tip_adapter(), []
    encoded: list[torch.Tensor] = []

    def counting(self: Any, features: torch.Tensor) -> torch.Tensor:
        encoded.extend(features)
        return features.clone()

    setattr(peers.Same, "encode_image", counting)  # noqa: B010
    for what, out in obstacles(place).items():
        encoded.clear()
        settings = peers.tip_settings(place / "caches") | {"cache_dir": str(out)}
        verdict = of_call(
            lambda: peers.tip_fit(modules, settings, peers.problem()),
            (str(out),),
            lambda _: (False, "ended well"),
            what,
        )
        found.append(before_the_work(verdict, len(encoded)))
    return found


shared_cache = case(
    NAME,
    "four processes that extract the same features into one cache at the same time",
    "all end well, with the features of one that was alone",
    "features that are kept and shared",
    "data/test_features.py::TestCache::test_processes_share_one_cache",
)


@shared_cache.by(OURS)
def _shared_cache(place: Path) -> Verdict:
    from safetensors.torch import load_file

    from ..child import ended

    data = class_folders(place / "pets")
    own = lambda: os.environ.update(VLMADAPT_CACHE=str(place / "one-cache"))
    started = [ours.begin(place, "features", data, "--out", f"{number}.safetensors", before=own) for number in range(4)]
    codes = [ended(*each).code for each in started]
    ours.command(place, "features", data, "--out", "alone.safetensors", "--no-cache")
    alone, others = (
        load_file(place / "alone.safetensors"),
        [load_file(place / f"{number}.safetensors") for number in range(4)],
    )
    same = all(torch.equal(tensor, other[name]) for other in others for name, tensor in alone.items())
    return judged(same and codes == [0] * 4, f"exit codes {codes}")
